"""A guest made ready for gdb: modules loaded, symbols and a script at hand, a socket open."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.kbuild import SOURCES_DIR, BuiltModule
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import MachineError
from orchestrator.plan.gdbscript import (
    LoadedModule,
    parse_sections,
    render_script,
    target_line,
)
from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.symbolfile import parse_kallsyms, render_symbol_file
from orchestrator.plan.visible import clip, decode, visible
from orchestrator.policy.replay import Replay
from orchestrator.policy.session import Session

ASK_SECONDS = 60.0
MAX_KALLSYMS = 64 << 20


@dataclass(frozen=True)
class Debugging:
    """What a debugger needs."""

    script: Path
    """What gdb is started with (``-x``)."""
    target: str
    """The command in it that connects to the guest."""
    modules: tuple[str, ...]
    """Those that are loaded, and known to the script."""
    notes: tuple[str, ...]
    """What is not as one would think; safe to show."""


def load_for(session: Session, scenario: NamedScenario) -> tuple[str, ...]:
    """Load a scenario's modules as it does; why that failed, where it did.

    Where its first load is a step, those before it are played too.
    """
    loads = len(scenario.scenario.modules) or _first_loads(scenario)
    steps = Replay(session, scenario).play_before(loads + 1)
    return tuple(
        f"{step.title}: {visible(mismatch.message)}"
        for step in steps
        for mismatch in step.mismatches
    )


def _first_loads(scenario: NamedScenario) -> int:
    """How many of its steps are before, and are, its first load."""
    verbs = [step.verb for step in scenario.all_steps]
    return verbs.index("load") + 1 if "load" in verbs else 0


def load_all(session: Session) -> tuple[str, ...]:
    """Load every module that was built, those that others need first; which could not be loaded,
    and why.
    """
    deadline = Deadline.after(ASK_SECONDS * session.guest.plan.scale, "loading modules")
    notes = []
    for module in load_order(session.built.modules):
        others = [name for name in module.depends if name not in session.built.modules]
        command = f"insmod /lab/modules/{module.name}.ko"
        if others:
            command = f"modprobe -a -- {shlex.join(others)} && {command}"
        done = session.guest.machine.shell.run(f"PATH=$PATH:/usr/sbin:/sbin; {command}", deadline)
        if done.status != 0:
            said = clip(visible(decode(done.stderr[-300:]).strip()), 200)
            notes.append(f"{module.name} was not loaded: {said or f'status {done.status}'}")
    return tuple(notes)


def load_order(modules: Mapping[str, BuiltModule]) -> Iterator[BuiltModule]:
    """The modules, each after those that it depends on."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[BuiltModule]:
        if name in done or name not in modules:
            return
        done.add(name)
        for other in modules[name].depends:
            yield from visit(other)
        yield modules[name]

    for name in modules:
        yield from visit(name)


def open_debugging(session: Session, lab: Lab) -> Debugging:
    """Have the guest wait for gdb on a socket in the session's folder, as it is now.

    The guest goes on meanwhile; gdb stops it when it connects. Raises ``MachineError``,
    ``HostError`` or ``UsageError``.
    """
    folder = session.run_dir.root
    loaded, notes = _find_loaded(session), []
    kernel = _write_symbols(session, folder / "kernel.sym", {each.name for each in loaded})
    if kernel is None:
        notes.append("the kernel hides its symbols: gdb knows those of the modules alone")
    socket = folder / "gdb"
    script = folder / "gdb.script"
    text = render_script(
        kernel=kernel,
        modules=loaded,
        sources={f"{SOURCES_DIR}/{name}": path for name, path in lab.module_dirs.items()},
        socket=socket,
    )
    script.write_text(text)
    session.guest.machine.serve_gdb(socket)
    names = tuple(module.name for module in loaded)
    return Debugging(script, target_line(socket), names, tuple(notes))


def _find_loaded(session: Session) -> list[LoadedModule]:
    folders = " ".join(
        shlex.quote(f"/sys/module/{name}/sections") for name in session.built.modules
    )
    if not folders:
        return []
    said = _ask(session, f"grep -sr '' {folders}; true", 4 << 20)
    return [
        LoadedModule(name, session.built.modules[name].path.resolve(), places)
        for name, places in parse_sections(said).items()
        if name in session.built.modules
    ]


def _write_symbols(session: Session, path: Path, without: set[str]) -> Path | None:
    """A file with the kernel's symbols; None where the kernel tells none."""
    symbols = parse_kallsyms(_ask(session, "cat /proc/kallsyms", MAX_KALLSYMS), without)
    if not symbols:
        return None
    path.write_bytes(render_symbol_file(symbols))
    return path


def _ask(session: Session, command: str, limit: int) -> bytes:
    deadline = Deadline.after(ASK_SECONDS * session.guest.plan.scale, command)
    done = session.guest.machine.shell.run(command, deadline, limit=limit)
    if done.status != 0:
        raise MachineError(f"{command} in the guest: {visible(decode(done.stderr[-300:]).strip())}")
    return done.stdout
