"""Going on with a run that was cut short: what it was made of, and what of it still stands.

A cell that passed or failed is taken over with its evidence, if all that it depends on is what it
was: the lab's files, modules, programs, and the exact kernel. Everything else is played again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator import __version__
from orchestrator.adapters.cache import disk_error, hash_of, sha256_of
from orchestrator.adapters.kbuild import load_sources
from orchestrator.adapters.programs import load_program
from orchestrator.foundation.errors import LabError, UsageError
from orchestrator.plan.lock import lock_path
from orchestrator.plan.model import Lab, ModuleEntry
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome, RunInput, RunResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import KernelPlan, Plan
from orchestrator.plan.visible import visible
from orchestrator.policy.reports import JUDGED_FILE, write_reports, write_whole
from orchestrator.policy.reports.results import render_judged

JUDGED = (Outcome.PASSED, Outcome.FAILED)
START_ANEW = "`lab run` without --resume starts anew"
MAX_NAMED = 5
_OF_GUESTS = ("boot-", "furnished", "share-")


def find_inputs(plan: Plan) -> tuple[RunInput, ...]:
    """What the plan's verdicts depend on, each with a hash; an empty one where it is not known.

    A kernel's is empty until it was looked up. What cannot be read is not told of here: it is the
    verdict of the cells that need it.
    """
    lab = plan.lab
    paths = [lab.path, lock_path(lab), *dict.fromkeys(each.path for each in lab.scenarios)]
    without = frozenset(paths)  # beside a module's sources they are none
    hashes: dict[str, Callable[[], str]] = {
        _shown(lab, path): partial(_hash_file, path) for path in paths
    }
    for name, folder in lab.module_dirs.items():
        entry = lab.file.modules.get(name)
        hashes[f"modules {name}"] = partial(_hash_folder, name, folder, entry, without)
    for name, path in lab.program_paths.items():
        hashes[f"program {name}"] = partial(_hash_program, name, path)
    found = [_input(name, find) for name, find in hashes.items()]
    found += [RunInput(f"kernel {each.name}", _hash_kernel(each)) for each in plan.kernels]
    return tuple(found)


def _input(name: str, find: Callable[[], str]) -> RunInput:
    try:
        return RunInput(name, find())
    except (LabError, OSError):
        return RunInput(name, "")


def _shown(lab: Lab, path: Path) -> str:
    return Path(os.path.relpath(path, lab.path.parent)).as_posix()


def _hash_file(path: Path) -> str:
    return sha256_of(path) if path.exists() else "absent"


def _hash_folder(
    name: str, folder: Path, entry: ModuleEntry | None, without: frozenset[Path]
) -> str:
    return load_sources(name, folder, entry, without).sha256


def _hash_program(name: str, path: Path) -> str:
    return load_program(name, path, False).sha256


def with_kernels(inputs: tuple[RunInput, ...], plans: Iterable[KernelPlan]) -> tuple[RunInput, ...]:
    """The inputs with the kernels that were looked up since."""
    found = {f"kernel {plan.name}": _hash_kernel(plan) for plan in plans}
    return tuple(replace(each, sha256=each.sha256 or found.get(each.name, "")) for each in inputs)


def left_of(plan: Plan, earlier: RunResult) -> Plan:
    """What of a plan is still to be played, to be shown."""
    taken = {(cell.kernel, cell.scenario) for cell in earlier.cells}
    kernels = (
        replace(k, cells=tuple(c for c in k.cells if (k.name, c.scenario.name) not in taken))
        for k in plan.kernels
    )
    return replace(plan, kernels=tuple(kernels))


def _hash_kernel(plan: KernelPlan) -> str:
    return hash_of(plan.known.model_dump(), plan.recipe.key()) if plan.known else ""


@contextlib.contextmanager
def holding(run_dir: Path) -> Iterator[None]:
    """The run's folder to oneself until the context, or the process, ends.

    Raises ``UsageError`` where another process plays that run.
    """
    fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nobody can ask
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"the run {visible(run_dir.name)} still goes on",
                    hint="wait for its end, or end it, and resume it then",
                ) from None
        yield
    finally:
        os.close(fd)


def planned_as(plan: Plan, result: RunResult) -> Plan:
    """The plan with the scenarios alone that the run was to play."""
    wanted = {place.name for place in result.scenarios}
    kernels = tuple(
        replace(each, cells=tuple(c for c in each.cells if c.scenario.name in wanted))
        for each in plan.kernels
    )
    return replace(plan, kernels=kernels)


def take_over(result: RunResult, plan: Plan) -> RunResult:
    """What of a run stands: the same result, with the cells alone that were judged.

    ``plan`` is of all its kernels and scenarios. Raises ``UsageError`` where it is not what was
    played, or where nothing is left to play.
    """
    changes = _changes(result, plan)
    if changes:
        more = len(changes) - MAX_NAMED
        lines = changes[:MAX_NAMED] + ([f"and {more} more"] if more > 0 else [])
        raise UsageError(
            f"{visible(result.run_id)} cannot be resumed:\n"
            + "\n".join(f"  {visible(line)}" for line in lines),
            hint=START_ANEW,
        )
    unknown = {each.name for each in result.inputs if not each.sha256}
    planned = {each.name: {c.scenario.name for c in each.cells} for each in plan.kernels}
    kernels = tuple(
        replace(kernel, cells=_judged(kernel, planned[kernel.name]))
        if f"kernel {kernel.name}" not in unknown
        else KernelResult(kernel.name, None)
        for kernel in result.kernels
    )
    taken = {(cell.kernel, cell.scenario) for kernel in kernels for cell in kernel.cells}
    todo = [
        cell
        for kernel in plan.kernels
        for cell in kernel.cells
        if not cell.skip and (kernel.name, cell.scenario.name) not in taken
    ]
    if not todo:
        raise UsageError(
            f"{visible(result.run_id)} has nothing left to play: all of it was judged",
            hint=START_ANEW,
        )
    return replace(result, interrupted=True, kernels=kernels)


def _judged(kernel: KernelResult, planned: set[str]) -> tuple[CellResult, ...]:
    found: dict[str, CellResult] = {}
    for cell in kernel.cells:
        if cell.outcome in JUDGED and cell.scenario in planned:
            found.setdefault(cell.scenario, cell)
    return tuple(found.values())


def _changes(result: RunResult, plan: Plan) -> list[str]:
    if not result.inputs:
        return ["it was played by a lab that did not write down what it was made of"]
    if result.lab_version != __version__:
        return [f"it was played by lab {result.lab_version}, and this is {__version__}"]
    before = {each.name: each.sha256 for each in result.inputs}
    now = {each.name: each.sha256 for each in find_inputs(plan)}
    found = []
    for name in dict.fromkeys((*before, *now)):
        was = before.get(name)
        if was == "" and name.startswith("kernel ") and name in now:
            continue  # it had not been looked up: nothing of it is taken over
        if was != now.get(name) or not was:
            found.append(f"{name} is not what it was")
    return found


def clear_folder(run_dir: RunDir, taken: RunResult) -> None:
    """Make the run's folder that of a run with the taken cells alone.

    Evidence of what was begun and not judged, and of guests that are no more, goes to
    ``earlier-N`` in the kernel's folder. Raises ``HostError``.
    """
    try:
        for kernel in taken.kernels:
            _move_aside(run_dir, kernel)
        # Killed in between, both files together still are what was judged, and no more.
        write_reports(taken, run_dir.root)
        lines = "".join(render_judged(cell) for cell in taken.cells)
        write_whole(run_dir.root / JUDGED_FILE, lines)
    except OSError as error:
        raise disk_error(error, run_dir.root) from error


def _move_aside(run_dir: RunDir, kernel: KernelResult) -> None:
    top = run_dir.kernel(kernel.name)
    if not top.is_dir():
        return
    judged = {run_dir.cell(kernel.name, cell.scenario) for cell in kernel.cells}
    scenarios = run_dir.cell(kernel.name, "any").parent
    begun = [path for path in _children(scenarios) if path not in judged]
    guests = [path for path in _children(top) if path.name.startswith(_OF_GUESTS)]
    aside = _free_name(top)
    for path in (*begun, *guests):
        target = aside / path.relative_to(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def _free_name(top: Path) -> Path:
    number = 1
    while (top / f"earlier-{number}").exists():
        number += 1
    return top / f"earlier-{number}"


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def join_kernels(before: KernelResult, now: KernelResult) -> KernelResult:
    """A kernel's result over both parts of a run: of counts the sum, of the rest what is known."""
    return replace(
        now,
        identity=before.identity or now.identity,
        boot_format=now.boot_format or before.boot_format,
        boot_seconds=now.boot_seconds or before.boot_seconds,
        build_seconds=now.build_seconds or before.build_seconds,
        builds=now.builds or before.builds,
        boot_findings=now.boot_findings or before.boot_findings,
        boots=before.boots + now.boots,
        forks=before.forks + now.forks,
        retried=before.retried + now.retried,
        hosts=tuple(dict.fromkeys((*before.hosts, *now.hosts))),
    )
