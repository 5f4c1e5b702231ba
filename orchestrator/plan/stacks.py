"""Where the tasks of a hung guest are in the kernel, from what it said when it was asked.

It is asked twice: over SSH, where ``images/guest/lab-stacks`` reads ``/proc/PID/stack``, which
tells of whoever sleeps; and through SysRq on the console, which works without a process, and
tells of whoever runs. Read in the sources of 4.4, 5.4, 6.1, 6.12 and 7.3.

All of it is text from a guest, and may be anything. Nothing raises on it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from orchestrator.plan.frames import Frame, SourceLocation, find_culprit, parse_frames
from orchestrator.plan.klog import Record
from orchestrator.plan.visible import clip, decode, visible

MAX_STACKS = 20
"""How many stacks of a hang are kept: those to blame come first."""
MAX_LINES = 60
"""How many lines of a stack are kept."""
MAX_TOLD = 2
"""How many of them the reason of a failure tells of."""
_MAX_NAME = 40


@dataclass(frozen=True)
class Stack:
    """Where one task was in the kernel."""

    task: str
    """Its name: of a process, what it runs."""
    pid: int
    """Of the thread, where a process has more than one."""
    state: str = ""
    """The kernel's letter: R runs, S sleeps, D sleeps and no signal wakes it, T is stopped."""
    cpu: int | None = None
    """The processor that it was seen on; None for one that was not seen running."""
    of_step: bool = False
    """Whether the step began it: its process, or one below that."""
    waits: bool = False
    """Whether it is one of the step's that has another below it: as a rule, a shell."""
    lines: tuple[str, ...] = ()
    """As the guest wrote them, without what is no address."""
    frames: tuple[Frame, ...] = ()
    """Every code address in its lines, the innermost function first."""

    @property
    def name(self) -> str:
        """Which task it is, in words that are safe to show."""
        return f"{clip(visible(self.task), _MAX_NAME)} (pid {self.pid})"

    @property
    def culprit(self) -> SourceLocation | None:
        """The innermost line of a module's own code in it, None if none is known."""
        return find_culprit(self.frames)

    def frame_in(self, modules: Container[str]) -> Frame | None:
        """The innermost reliable frame in one of ``modules``, None if there is none."""
        return next((f for f in self.frames if f.reliable and f.address.module in modules), None)


# --- what a guest tells over SSH -----------------------------------------------------------

_ROOT = re.compile(r"/run/lab/[^/:]+:(\d{1,10})")
_STATUS = re.compile(r"/proc/\d+/task/(\d{1,10})/status:(\w+):[ \t]*(.*)")
_STACK = re.compile(r"/proc/\d+/task/(\d{1,10})/stack:(.*)")


@dataclass(frozen=True)
class Tasks:
    """What ``lab-stacks`` found."""

    stacks: tuple[Stack, ...] = ()
    """Of every task, in the order of the guest; a task that ran has no frames."""
    step_ended: bool = False
    """Whether the process that the step began with is there no more."""

    @property
    def are_told(self) -> bool:
        """Whether any stack could be read: not where ``CONFIG_STACKTRACE`` is not set."""
        return any(stack.frames for stack in self.stacks)


def parse_tasks(data: bytes) -> Tasks:
    """What ``lab-stacks`` printed, or as much as it got to."""
    root = ""
    fields: dict[str, dict[str, str]] = {}
    lines: dict[str, list[str]] = {}
    for line in decode(data).split("\n"):
        if found := _STATUS.fullmatch(line):
            fields.setdefault(found[1], {})[found[2]] = found[3]
        elif found := _STACK.fullmatch(line):
            lines.setdefault(found[1], []).append(found[2])
        elif not root and (found := _ROOT.fullmatch(line)):
            root = found[1]
    mine, waiting = _processes_of_step(fields.values(), root)
    stacks = [
        _with_lines(
            Stack(
                task=status.get("Name", "?"),
                pid=int(pid),
                state=status.get("State", "")[:1],
                of_step=status.get("Tgid") in mine,
                waits=status.get("Tgid") in waiting,
            ),
            lines.get(pid, ()),
        )
        for pid, status in fields.items()
    ]
    return Tasks(tuple(stacks), step_ended=bool(root and fields) and root not in mine)


def _processes_of_step(tasks: Iterable[Mapping[str, str]], root: str) -> tuple[Set[str], Set[str]]:
    """The step's first process, those of its session if it leads one, and those below them.

    And which of these have another below.
    """
    below: dict[str, set[str]] = {}
    mine: set[str] = set()
    for task in tasks:
        process = task.get("Tgid", "")
        below.setdefault(task.get("PPid", ""), set()).add(process)
        if root and root in (process, task.get("NSsid")):
            mine.add(process)
    todo = list(mine)
    while todo:
        new = below.get(todo.pop(), set()) - mine
        mine |= new
        todo += new
    return mine, {process for process in mine if below.get(process)}


# --- what the kernel prints when SysRq asks it ---------------------------------------------

# kernel/sched/core.c, sched_show_task(): columns up to 5.8, then words (cc172ff301d8, v5.9).
# A task that runs shows no address or column of its own: "  running task    ". 4.4 has the
# program counter between the state and the free stack.
_WORDS = re.compile(
    r"task:(?P<task>.{1,64}?) +state:(?P<state>[A-Za-z?]) .{0,64}?\bpid: *(?P<pid>\d{1,10})\b"
)
_COLUMNS = re.compile(
    r"(?P<task>.{15}) (?P<state>[A-Za-z?])(?: +running task)?(?: [0-9a-f]{16})? +\d+"
    r" +(?P<pid>\d{1,10}) +\d+ 0x[0-9a-f]{8}"
)
# lib/nmi_backtrace.c, nmi_cpu_backtrace(), then dump_stack_print_info().
_NMI = re.compile(r"NMI backtrace for cpu (\d{1,5})( skipped)?")
_RUNS = re.compile(
    r"CPU: (?P<cpu>\d{1,5}) (?:UID: \d+ )?PID: (?P<pid>\d{1,10}) Comm: (?P<task>.{1,64}?)"
    r" (?:Kdump: |Tainted: |Not tainted)"
)
# What may stand between a stack's lines: registers, code, and what holds them together.
_BETWEEN = re.compile(
    r"\s*(?:$|[A-Z]\w*(?: \w+){0,2}:|</?[A-Z#]\w*>|(?:task|[fgc]s): |(?:\? )?(?:0x)?[0-9a-f]{8,}\b)"
)
_BEFORE = re.compile(r"RIP: |\s*<EOI>")


def parse_sysrq(records: Sequence[Record]) -> tuple[Stack, ...]:
    """What SysRq w, t and l print: blocked tasks, all tasks, and what processors run.

    Lines of user space are passed over: where any record has a stamp, its have none.
    """
    stamped = any(record.time is not None for record in records)
    found: list[Stack] = []
    lines: list[str] = []
    reading = in_nmi = False
    for record in records:
        if stamped and record.time is None:
            continue
        text = record.text
        nmi = _NMI.match(text)
        begun = _WORDS.match(text) or _COLUMNS.fullmatch(text) or (in_nmi and _RUNS.match(text))
        if begun or nmi:
            _end_stack(found, lines)
            reading, in_nmi = bool(begun), nmi is not None and nmi[2] is None
        if begun:
            found.append(_begin_stack(begun))
        elif reading and (_BETWEEN.match(text) or parse_frames((text,))):
            lines.append(text)
        else:
            reading = False
    _end_stack(found, lines)
    return tuple(found)


def _begin_stack(begun: re.Match[str]) -> Stack:
    known = begun.groupdict()
    cpu = known.get("cpu")
    return Stack(
        task=known["task"].strip(),
        pid=int(known["pid"]),
        state=known.get("state") or "R",
        cpu=None if cpu is None else int(cpu),
    )


def _end_stack(found: list[Stack], lines: list[str]) -> None:
    """Give the lines that were gathered to the stack that was begun last."""
    if found and lines:
        runs = found[-1].cpu is not None
        found[-1] = _with_lines(found[-1], _interrupted(lines) if runs else lines)
    lines.clear()


def _interrupted(lines: Sequence[str]) -> Sequence[str]:
    """A processor's lines without those of SysRq, where it was the one that took the request.

    What it was at before stands behind those of the interrupt: with the registers' line, in 4.4
    with none.
    """
    asked = next((n for n, line in enumerate(lines) if "__handle_sysrq" in line), None)
    if asked is None:
        return lines
    at = next((n for n in range(asked, len(lines)) if _BEFORE.match(lines[n])), len(lines))
    return lines[at:]


def _with_lines(stack: Stack, lines: Sequence[str]) -> Stack:
    """The stack with those of the lines that name an address, and with their frames."""
    kept = [line for line in lines if parse_frames((line,))][:MAX_LINES]
    return replace(stack, lines=tuple(kept), frames=parse_frames(kept))


# --- what of it is worth telling -----------------------------------------------------------


def choose_stacks(
    tasks: Tasks, logged: Sequence[Stack], modules: Container[str]
) -> tuple[Stack, ...]:
    """The stacks that may explain a hang, those to blame first.

    First tasks in one of ``modules``, the step's before others; then what else is the step's,
    without shells that wait for another of its processes; then tasks that are blocked, and
    what else ran. Sleepers that are none of this are what every healthy guest is full of.
    """
    known = {stack.pid: stack for stack in tasks.stacks}
    for stack in logged:
        before = known.get(stack.pid) if stack.pid else None
        if before is None:
            # Processors that idle share one number, so it is no key.
            known[stack.pid or -1 - len(known)] = stack
        elif not before.frames and before.cpu is None:
            known[stack.pid] = replace(stack, of_step=before.of_step, waits=before.waits)
    told = [stack for stack in known.values() if _rank(stack, modules) < _REST]
    return tuple(sorted(told, key=lambda stack: _rank(stack, modules))[:MAX_STACKS])


_REST = 4


def _rank(stack: Stack, modules: Container[str]) -> int:
    if stack.frame_in(modules):
        return 0 if stack.of_step else 1
    if stack.of_step and not stack.waits:
        return 2
    runs = stack.cpu is not None and stack.pid != 0
    return 3 if stack.frames and (stack.state == "D" or runs) else _REST


_VERBS = {"R": "runs", "S": "sleeps", "D": "is blocked", "T": "is stopped", "t": "is stopped"}
_ENDED = ("X", "Z")
# What every task that does not run is in; what it waits for called it (kernel/sched).
_SCHEDULER = re.compile(r"_{0,2}schedule(?:_\w+)?|io_schedule\w*|preempt_schedule\w*|__switch_to")


def describe_stack(stack: Stack, modules: Container[str], *, brief: bool = False) -> str:
    """What a task does and where, in words that are safe to show.

    With ``brief``, the program that makes the lab's own system calls is called ``it``.
    """
    name = "it" if brief and stack.of_step and stack.task == "sysio" else stack.name
    if stack.state in _ENDED:
        return f"{name} has ended"
    doing = _VERBS.get(stack.state, "is")
    own = stack.frame_in(modules)
    frame = own or next((f for f in stack.frames if f.reliable and not _schedules(f)), None)
    if frame is None:
        where = ", where cannot be told" if stack.cpu is None else " in user space"
        return f"{name} {doing}{where}"
    if own is None:
        return visible(f"{name} {doing} in {frame.address.symbol}")
    place = find_culprit((own,)) or f"{own.address.symbol} [{own.address.module}]"
    called = _called_from(stack, own)
    return visible(f"{name} {doing} in {place}{called}")


def _schedules(frame: Frame) -> bool:
    return _SCHEDULER.fullmatch(frame.address.symbol) is not None


def _called_from(stack: Stack, own: Frame) -> str:
    """The function that a module's code called and that has not returned yet, in brackets."""
    if own.address.exact:
        return ""
    before = [f for f in stack.frames[: stack.frames.index(own)] if f.reliable]
    return f" ({before[-1].address.symbol})" if before else ""


def explain_stacks(stacks: Iterable[Stack], modules: Container[str]) -> str:
    """Why a step does not end, in words: of the first stack, and of others in ``modules``.

    Empty where there is no stack of the step's and none in one of ``modules``.
    """
    told = [stack for stack in stacks if _rank(stack, modules) <= 2]
    guilty = [stack for stack in told if stack.frame_in(modules)]
    return "; ".join(
        describe_stack(stack, modules, brief=True) for stack in (guilty or told)[:MAX_TOLD]
    )


def describe_silence(tasks: Tasks, logged: Sequence[Stack]) -> str:
    """What is known of a step that no stack explains; empty if nothing is."""
    if tasks.step_ended:
        return "it had ended when the lab looked for it"
    if not tasks.stacks and not logged:
        return "the guest answers neither over SSH nor to SysRq"
    return ""
