"""Where the tasks of a hung guest were: in recorded answers, and in forms that they lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.frames import SourceLocation, parse_frames
from orchestrator.plan.klog import parse_log
from orchestrator.plan.stacks import (
    MAX_STACKS,
    Stack,
    Tasks,
    choose_stacks,
    describe_silence,
    describe_stack,
    explain_stacks,
    parse_sysrq,
    parse_tasks,
)

DATA = Path(__file__).parents[1] / "data" / "stacks"
MODULES = {"stall"}
VERSIONS = sorted(path.stem.removeprefix("tasks-") for path in DATA.glob("tasks-*.txt"))


def tasks_of(version: str) -> Tasks:
    return parse_tasks((DATA / f"tasks-{version}.txt").read_bytes())


def logged_by(version: str, *letters: str) -> tuple[Stack, ...]:
    data = b"".join((DATA / f"sysrq-{letter}-{version}.log").read_bytes() for letter in letters)
    return parse_sysrq(parse_log(data))


def told(stacks: tuple[Stack, ...]) -> set[str]:
    """What each does, without the processes' numbers and workers' names, which differ."""
    words = (describe_stack(stack, MODULES).split(" (pid ", 1) for stack in stacks)
    return {f"{name.split('/')[0]} {rest.split(') ', 1)[1]}" for name, rest in words}


def stack(*lines: str, state: str = "S", task: str = "cat", **others: object) -> Stack:
    return replace(
        Stack(task, 12, state),
        lines=lines,
        frames=parse_frames(lines),
        **others,  # type: ignore[arg-type]  # a test names the fields that it is about
    )


# --- recorded answers ------------------------------------------------------------------------

# Four processes read a device of the module: the step's sleeps, the others wait for a work
# item, block, and spin. The names of functions in the kernel are those of its version.
FLUSHING = {"6.12": "__flush_work"}
STEP = "dd sleeps in stall_sleep [stall] (msleep_interruptible)"
BLOCKED = "dd is blocked in stall_block [stall] (msleep)"
WORKER = "kworker is blocked in stall_block [stall] (msleep)"
# The one that spins is caught in its own code or in what that calls. In 5.4, that is the first
# instruction of a function, so its caller has no frame yet (CONFIG_UNWINDER_FRAME_POINTER).
CAUGHT_IN = {"4.15": "stall_spin [stall] (rcu_all_qs)", "5.4": "stall_read [stall] (_cond_resched)"}


def spins(version: str) -> str:
    return f"dd runs in {CAUGHT_IN.get(version, 'stall_spin [stall]')}"


def waits(version: str) -> str:
    return f"dd is blocked in stall_read [stall] ({FLUSHING.get(version, 'flush_work')})"


def test_old_and_new_kernels_were_recorded() -> None:
    assert {"4.15", "5.4", "6.1", "6.12"} <= set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_step_and_who_else_is_in_the_module(version: str) -> None:
    chosen = choose_stacks(tasks_of(version), logged_by(version, "w", "l"), MODULES)
    assert told(chosen) == {STEP, waits(version), BLOCKED, WORKER, spins(version)}
    assert [each.of_step for each in chosen] == [True, False, False, False, False]
    assert explain_stacks(chosen, MODULES).startswith(f"dd (pid {chosen[0].pid}) sleeps in stall_")


@pytest.mark.parametrize("version", VERSIONS)
def test_sysrq_alone_tells_of_who_is_blocked_or_runs(version: str) -> None:
    chosen = choose_stacks(Tasks(), logged_by(version, "w", "l"), MODULES)
    assert told(chosen) == {waits(version), BLOCKED, WORKER, spins(version)}


@pytest.mark.parametrize("version", VERSIONS)
def test_sysrq_t_tells_of_sleepers_too(version: str) -> None:
    chosen = choose_stacks(Tasks(), logged_by(version, "w", "l", "t"), MODULES)
    assert told(chosen) == {STEP, waits(version), BLOCKED, WORKER, spins(version)}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_processor_that_took_the_request_is_told_as_it_was_before(version: str) -> None:
    for each in logged_by(version, "l"):
        assert not any("sysrq" in frame.address.symbol for frame in each.frames)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_task_is_listed_once(version: str) -> None:
    tasks = tasks_of(version)
    assert len({each.pid for each in tasks.stacks}) == len(tasks.stacks) > 40
    assert tasks.are_told
    assert not tasks.step_ended
    shells = [each.task for each in tasks.stacks if each.waits]
    assert shells[0] == "lab-step"
    logged = logged_by(version, "t")
    # Some came and went between the two questions.
    assert len({each.pid for each in logged} & {each.pid for each in tasks.stacks}) > 40
    assert all(each.state for each in logged)


# --- forms -----------------------------------------------------------------------------------

TRACE = "[    1.000000] Call Trace:\n[    1.000000]  f+0x12/0x34 [m]\n"
HEADERS = {
    "cat             D ffff88001f247e48     0   123      1 0x00000000": (123, "D"),  # 4.4
    "cat             D    0   123      1 0x00000000": (123, "D"),
    "cat             R  running task        0   123      2 0x80004000": (123, "R"),
    "task:cat             state:D stack:    0 pid:  123 ppid:     1 flags:0x00000000": (123, "D"),
    "task:cat             state:D stack:0     pid:123   tgid:99    ppid:1      task_flags:0x0 f": (
        123,
        "D",
    ),
    "task:cat             state:R  running task     stack:0     pid:123   ppid:1": (123, "R"),
}


@pytest.mark.parametrize(("header", "expected"), HEADERS.items())
def test_a_task_of_the_log(header: str, expected: tuple[int, str]) -> None:
    (found,) = parse_sysrq(parse_log(f"[    1.000000] {header}\n{TRACE}".encode()))
    assert (found.task, found.pid, found.state) == ("cat", *expected)
    assert [str(frame.address) for frame in found.frames] == ["f+0x12/0x34 [m]"]


@pytest.mark.parametrize(
    "line",
    [
        "CPU: 0 PID: 123 Comm: cat Not tainted 6.1.0 #1",
        "CPU: 0 UID: 0 PID: 123 Comm: cat Kdump: loaded Tainted: G  OE 6.12.0 #1",
        "CPU: 0 PID: 123 Comm: a b Tainted: G  W 6.1.0 #1",
    ],
)
def test_a_processor_is_told_after_its_headline_alone(line: str) -> None:
    text = f"[    1.000000] {line}\n{TRACE}"
    (found,) = parse_sysrq(
        parse_log(f"[    1.0] x\n[    1.000000] NMI backtrace for cpu 0\n{text}".encode())
    )
    assert (found.pid, found.cpu, found.state) == (123, 0, "R")
    assert found.task in ("cat", "a b")
    assert parse_sysrq(parse_log(text.encode())) == ()


def test_what_user_space_prints_is_passed_over() -> None:
    header = "task:cat             state:D stack:0     pid:123   ppid:1\n"
    assert parse_sysrq(parse_log(f"{header} f+0x1/0x2 [m]\n{TRACE}".encode())) == ()
    assert len(parse_sysrq(parse_log(f"{header} f+0x1/0x2 [m]\n".encode()))) == 1


def test_a_stack_ends_with_what_is_none_of_it() -> None:
    header = "[    1.000000] task:cat             state:D stack:0     pid:123   ppid:1\n"
    more = (
        "[    1.000000] m: at f+0x1/0x2\n[    1.000000] m: loaded\n[    1.000000]  g+0x1/0x2 [m]\n"
    )
    (found,) = parse_sysrq(parse_log(f"{header}{TRACE}{more}".encode()))
    assert [frame.address.symbol for frame in found.frames] == ["f", "f"]


def status(pid: int, parent: int, *, task: int = 0, session: int = 0, name: str = "x") -> str:
    path = f"/proc/{pid}/task/{task or pid}/status"
    fields = {"Name": name, "State": "S (sleeping)", "Tgid": pid, "PPid": parent, "NSsid": session}
    return "".join(f"{path}:{key}:\t{value}\n" for key, value in fields.items())


def of_step(*texts: str) -> dict[int, bool]:
    """The step's tasks, and whether each waits for another."""
    found = parse_tasks("".join(texts).encode()).stacks
    return {each.pid: each.waits for each in found if each.of_step}


ROOT = "/run/lab/.step:20\n"


def test_the_step_is_its_first_process_and_all_below() -> None:
    others = status(1, 0), status(19, 1), status(30, 1)
    mine = status(20, 19), status(21, 20), status(22, 21), status(22, 21, task=23)
    assert of_step(ROOT, *others, *mine) == {20: True, 21: True, 22: False, 23: False}
    assert of_step(*others, *mine) == {}


def test_what_runs_in_the_background_is_known_by_its_session() -> None:
    ready = status(20, 1, session=20), status(25, 1, session=20), status(26, 1, session=9)
    assert of_step("/run/lab/reader:20\n", *ready) == {20: False, 25: False}


def test_a_step_that_is_there_no_more_is_told() -> None:
    tasks = parse_tasks((ROOT + status(1, 0)).encode())
    assert tasks.step_ended
    assert describe_silence(tasks, ()) == "it had ended when the lab looked for it"
    assert not parse_tasks(ROOT.encode()).step_ended, "nothing is known of any task"


def test_a_guest_that_says_nothing_is_told() -> None:
    assert describe_silence(Tasks(), ()) == "the guest answers neither over SSH nor to SysRq"
    assert describe_silence(Tasks(), (stack(),)) == ""


# --- whose stack it is -----------------------------------------------------------------------

IN_M = "[<0>] m_wait+0x12/0x34 [m]"
IN_KERNEL = "[<0>] msleep+0x1/0x2"


def test_those_in_a_module_come_first_and_sleepers_elsewhere_not_at_all() -> None:
    worker = stack(IN_M, task="worker")
    mine = stack(IN_KERNEL, task="mine", of_step=True, pid=1)
    shell = stack(IN_KERNEL, task="shell", of_step=True, waits=True, pid=2)
    blocked = stack(IN_KERNEL, task="blocked", state="D", pid=3)
    sleeper = stack(IN_KERNEL, task="sleeper", pid=4)
    both = stack(IN_KERNEL, IN_M, task="both", of_step=True, waits=True, pid=5)
    tasks = Tasks((sleeper, blocked, shell, mine, worker, both))
    assert [each.task for each in choose_stacks(tasks, (), {"m"})] == [
        *("both", "worker"),
        *("mine", "blocked"),
    ]


def test_a_processor_that_idles_is_told_only_where_it_is_in_a_module() -> None:
    idle = stack("RIP: 0010:halt+0x1/0x2", state="R", pid=0, cpu=0)
    timer = stack("RIP: 0010:m_timer+0x1/0x2 [m]", state="R", pid=0, cpu=1)
    assert choose_stacks(Tasks(), (idle, timer), {"m"}) == (timer,)


def test_what_the_log_knows_of_a_task_without_a_stack_is_taken() -> None:
    silent = stack(state="R", of_step=True)
    seen = stack("RIP: 0010:m_spin+0x1/0x2 [m]", state="R", cpu=1)
    (found,) = choose_stacks(Tasks((silent,)), (seen,), {"m"})
    assert (found.of_step, found.cpu, found.frames) == (True, 1, seen.frames)
    asleep = stack(IN_M, of_step=True)
    assert choose_stacks(Tasks((asleep,)), (seen,), {"m"}) == (asleep,)


def test_so_many_stacks_are_kept_and_no_more() -> None:
    many = tuple(stack(IN_M, pid=number) for number in range(1000))
    assert len(choose_stacks(Tasks(many), (), {"m"})) == MAX_STACKS


# --- in words --------------------------------------------------------------------------------

LINE = SourceLocation("m_wait", "m.c", 35, "msleep(1);", own=True)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (stack(IN_KERNEL, IN_M), "cat (pid 12) sleeps in m_wait [m] (msleep)"),
        (stack(IN_M), "cat (pid 12) sleeps in m_wait [m]"),
        (stack(IN_M, state="D"), "cat (pid 12) is blocked in m_wait [m]"),
        (stack(IN_M, state="T"), "cat (pid 12) is stopped in m_wait [m]"),
        (stack(IN_M, state=""), "cat (pid 12) is in m_wait [m]"),
        (stack("RIP: 0010:m_wait+0x12/0x34 [m]", state="R"), "cat (pid 12) runs in m_wait [m]"),
        (
            stack(" __schedule+0x1/0x2", " ? g+0x1/0x2 [m]", " schedule+0x1/0x2", " pipe+0x1/0x2"),
            "cat (pid 12) sleeps in pipe",
        ),
        (stack(), "cat (pid 12) sleeps, where cannot be told"),
        (stack(state="R", cpu=1), "cat (pid 12) runs in user space"),
        (stack(state="Z"), "cat (pid 12) has ended"),
        (stack(IN_M, task="sysio", of_step=True), "it sleeps in m_wait [m]"),
        (stack(IN_M, task="sysio"), "sysio (pid 12) sleeps in m_wait [m]"),
        (stack(task="\x1b[2J" + "x" * 99), "\\x1b[2J" + "x" * 32 + "… (pid 12) sleeps, where"),
    ],
)
def test_what_a_task_does(one: Stack, words: str) -> None:
    assert describe_stack(one, {"m"}, brief=True).startswith(words)


def test_the_line_is_named_where_it_is_known() -> None:
    one = stack(IN_KERNEL, IN_M, "[<0>] vfs_read+0x1/0x2")
    known = replace(one.frames[1], code=(LINE,))
    one = replace(one, frames=(one.frames[0], known, one.frames[2]))
    assert describe_stack(one, {"m"}) == "cat (pid 12) sleeps in m_wait at m.c:35 (msleep)"
    assert one.culprit == LINE


def test_the_reason_tells_of_two_in_a_module_or_of_the_step() -> None:
    three = tuple(stack(IN_M, pid=number) for number in (1, 2, 3))
    assert explain_stacks(three, {"m"}).count("sleeps in m_wait [m]") == 2
    mine = stack(IN_KERNEL, of_step=True)
    assert explain_stacks((*three, mine), {"m"}).count("msleep") == 0
    assert explain_stacks((mine,), {"m"}) == "cat (pid 12) sleeps in msleep"
    assert explain_stacks((stack(IN_KERNEL, state="D"),), {"m"}) == ""


# --- hostile ---------------------------------------------------------------------------------

BITS = st.sampled_from(
    [
        *(
            "/proc/1/task/1/status:",
            "/proc/1/task/1/stack:",
            "Name:",
            "State:",
            "Tgid:\t1",
            "PPid:",
        ),
        *("NSsid:", "/run/lab/.step:1", "\n", "\t", "\x1b", "\u0661", "[<0>] f+0x1/0x2 [stall]"),
        *("NMI backtrace for cpu 1", "CPU: 1 PID: 0 Comm: x Not tainted", "RIP: 0010:f+0x1/0x2"),
        *(
            "task:x state:D stack:0 pid:1",
            "x" * 15,
            " D    0   1      1 0x00000000",
            "__handle_sysrq",
        ),
    ]
)


@given(st.lists(BITS, max_size=60).map("".join))
def test_nothing_that_a_guest_says_breaks_it(text: str) -> None:
    tasks, logged = parse_tasks(text.encode()), parse_sysrq(parse_log(text.encode()))
    chosen = choose_stacks(tasks, logged, {"stall"})
    assert len(chosen) <= MAX_STACKS
    assert explain_stacks(chosen, {"stall"}).isprintable()
    for each in (*tasks.stacks, *logged):
        assert describe_stack(each, {"stall"}).isprintable()
        assert all(0 <= frame.line < len(each.lines) for frame in each.frames)
