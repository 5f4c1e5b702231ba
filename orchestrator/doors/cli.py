"""The ``lab`` command: parse arguments, call, print, return an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import __version__
from orchestrator.foundation.errors import EXIT_INTERRUPTED, EXIT_PASSED, LabError, UsageError

if TYPE_CHECKING:
    from orchestrator.plan.model import Lab
    from orchestrator.plan.plan import Plan

# Each command imports what it needs when it is called: `lab --help` needs none of it.


def main(argv: Sequence[str] | None = None) -> int:
    """The command line's entry; the process's exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], int] | None = getattr(arguments, "command", None)
    if command is None:
        parser.print_help()
        return EXIT_PASSED
    try:
        status = command(arguments)
        sys.stdout.flush()
    except LabError as error:
        print(f"lab: {error.render()}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _stop_printing()
        return EXIT_PASSED
    return status


def _stop_printing() -> None:
    """Whoever read our output has gone; nothing is left to tell them."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="lab",
        description="A sandboxed VM lab for out-of-tree Linux kernel modules.",
        epilog="Exit status: 0 all passed, 1 a scenario failed, 2 usage or configuration, "
        "3 the lab broke, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"lab {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = commands.add_parser("run", help="play scenarios on kernels")
    _add_lab_option(run)
    _add_selection(run)
    run.add_argument("-n", "--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument(
        "--keep", action="store_true", help="keep each kernel's guest after its last scenario"
    )
    run.add_argument(
        "--update", action="store_true", help="look for newer kernels than those last used"
    )
    run.add_argument("-j", "--jobs", type=_positive, metavar="N", help="so many guests at a time")
    run.add_argument(
        "--results", type=Path, metavar="DIR", help="where runs are kept (lab-results)"
    )
    run.set_defaults(command=_run)

    listing = commands.add_parser("list", help="show the lab's kernels and scenarios")
    _add_lab_option(listing)
    _add_selection(listing)
    listing.set_defaults(command=_list)

    shell = commands.add_parser("shell", help="boot a guest with the modules built, and enter it")
    _add_lab_option(shell)
    shell.add_argument("kernel", help="a kernel's name, or a version")
    shell.set_defaults(command=_shell)

    doctor = commands.add_parser("doctor", help="say what this machine lacks, and what mends it")
    doctor.set_defaults(command=_doctor)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _add_lab_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lab", type=Path, default=Path("lab.yaml"), metavar="FILE", help="the lab (lab.yaml)"
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-k",
        "--kernel",
        action="append",
        default=[],
        metavar="RANGE",
        help="a kernel's name, a group, an image, or versions such as '>=5.6'; repeatable",
    )
    parser.add_argument(
        "-s",
        "--scenario",
        action="append",
        default=[],
        metavar="PATTERN",
        help="part of a scenario's name, or a pattern with '*'; repeatable",
    )


def _load_lab(path: Path) -> Lab:
    from orchestrator.plan.labfile import load_lab

    if path == Path("lab.yaml") and not path.exists():
        raise UsageError(
            "there is no lab.yaml in this folder",
            hint="go to the lab's folder, or name the file: --lab FILE",
        )
    return load_lab(path)


def _make_plan(lab: Lab, arguments: argparse.Namespace) -> Plan:
    """The plan of what the arguments ask for, from what is known without the network."""
    from orchestrator.adapters.cache import Cache, default_cache_dir
    from orchestrator.adapters.kernels import forget_resolutions, load_resolution
    from orchestrator.plan.plan import Known, resolve_plan, select_kernels, select_scenarios
    from orchestrator.plan.recipes import load_recipe
    from orchestrator.policy.capacity import default_jobs

    names = select_kernels(lab, arguments.kernel)
    entries = {name: lab.file.kernels[name] for name in names}
    images = dict.fromkeys(entry.image for entry in entries.values())
    recipes = {image: load_recipe(lab, image) for image in images}
    cache = Cache(default_cache_dir())
    if getattr(arguments, "update", False) and not arguments.dry_run:
        forget_resolutions(cache, recipes.values())
    known = {
        name: Known(found.release, found.version)
        for name, entry in entries.items()
        if (found := load_resolution(cache, recipes[entry.image], entry))
    }
    jobs = getattr(arguments, "jobs", None) or default_jobs(lab.file.guest, len(names))
    return resolve_plan(
        lab,
        kernels=names,
        scenarios=select_scenarios(lab, arguments.scenario),
        recipes=recipes,
        known=known,
        jobs=jobs,
    )


def _run(arguments: argparse.Namespace) -> int:
    from orchestrator.plan.plan import render_plan

    lab = _load_lab(arguments.lab)
    plan = _make_plan(lab, arguments)
    if arguments.dry_run:
        print(render_plan(plan), end="")
        return EXIT_PASSED
    return _play(lab, plan, arguments)


def _play(lab: Lab, plan: Plan, arguments: argparse.Namespace) -> int:
    from orchestrator.adapters.cache import Cache, default_cache_dir
    from orchestrator.doors.doctor import require_host
    from orchestrator.doors.progress import open_progress
    from orchestrator.plan.outcome import judge_result
    from orchestrator.plan.paths import new_run_id
    from orchestrator.plan.yamlsource import shown_path
    from orchestrator.policy.reports import REPORT_FILE, render_summary
    from orchestrator.policy.runner import Run, create_run_dir, orderly_stop

    require_host()
    run_dir = create_run_dir(arguments.results or lab.path.parent / "lab-results", new_run_id())
    with orderly_stop() as stop, open_progress(plan) as progress:
        run = Run(
            plan,
            Cache(default_cache_dir()),
            run_dir,
            progress,
            keep=stop if arguments.keep else None,
        )
        result = run.play(stop)
    try:
        print(render_summary(result), end="")
        print(f"report: {shown_path(run_dir.root / REPORT_FILE)}", flush=True)
    except BrokenPipeError:
        _stop_printing()  # what the run came to does not depend on who reads
    return judge_result(result).exit_status


def _list(arguments: argparse.Namespace) -> int:
    lab = _load_lab(arguments.lab)
    plan = _make_plan(lab, arguments)
    print("kernels:")
    for kernel in plan.kernels:
        groups = [name for name, members in lab.file.groups.items() if kernel.name in members]
        what = kernel.known.release if kernel.known else "not looked up yet"
        print(f"  {kernel.name:<10} {kernel.entry.image:<10} {what:<34} {', '.join(groups)}")
    print("scenarios:")
    for scenario in plan.lab.scenarios:
        if not any(cell.scenario is scenario for kernel in plan.kernels for cell in kernel.cells):
            continue
        only = f"  [{scenario.kernels}]" if scenario.scenario.kernels else ""
        print(f"  {scenario.name}{only}")
        if scenario.scenario.about:
            print(f"      {scenario.scenario.about}")
    return EXIT_PASSED


def _shell(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.shell import enter

    lab = _load_lab(arguments.lab)
    arguments.kernel, arguments.scenario = [arguments.kernel], []
    plan = _make_plan(lab, arguments)
    if len(plan.kernels) != 1:
        names = ", ".join(kernel.name for kernel in plan.kernels)
        raise UsageError(f"that is more than one kernel: {names}", hint="name one of them")
    return enter(lab, plan.kernels[0])


def _doctor(_: argparse.Namespace) -> int:
    from orchestrator.doors.doctor import report

    return report()
