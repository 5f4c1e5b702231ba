"""The ``lab`` command: parse arguments, call, print, return an exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.foundation.errors import EXIT_INTERRUPTED, EXIT_PASSED, LabError, UsageError

if TYPE_CHECKING:
    from orchestrator.adapters.cache import Cache
    from orchestrator.plan.model import Lab
    from orchestrator.plan.outcome import RunResult
    from orchestrator.plan.paths import RunDir
    from orchestrator.plan.plan import Plan

REPORT_FORMATS = ("text", "html", "junit", "json", "markdown", "github", "gitlab")
SCHEMAS = ("lab", "scenario", "results")
SHELLS = ("bash", "zsh", "fish")
_KERNEL_HELP = "a kernel's name, or a version; a recipe's name where there is no lab.yaml"

# Each command imports what it needs when it is called: `lab --help` needs none of it.


def main(argv: Sequence[str] | None = None) -> int:
    """The command line's entry; the process's exit status."""
    # pydantic looks for plugins among all installed packages, which takes as long as reading a lab;
    # and what a lab means must not depend on what else is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    parser = build_parser()
    given, words = split_words(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(given, argparse.Namespace(words=words))
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


def split_words(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """A command line, and what stands behind ``--`` in that of a command that enters a guest.

    argparse finds such words only where no option stands between them and the kernel.
    """
    if not argv or argv[0] not in ("shell", "replay", "gdb") or "--" not in argv:
        return argv, ()
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _stop_printing() -> None:
    """Whoever read our output has gone; nothing is left to tell them."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Version(argparse.Action):
    """Says the version only when it is asked for: QEMU is started for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from orchestrator.doors.facts import version_line

        print(version_line())
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="lab",
        description="A sandboxed VM lab for out-of-tree Linux kernel modules.",
        epilog="Exit status: 0 all passed, 1 a scenario failed, 2 usage or configuration, "
        "3 the lab broke, 130 interrupted.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="say what a bug report needs, in one line"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    init = commands.add_parser("init", help="write a first lab.yaml for a folder's modules")
    init.add_argument(
        "folder", type=Path, nargs="?", default=Path(), metavar="DIR", help="the folder (this one)"
    )
    init.set_defaults(command=_init)

    run = commands.add_parser("run", help="play scenarios on kernels")
    _add_lab_option(run)
    _add_selection(run)
    run.add_argument(
        "--resume", metavar="RUN", help="go on with a run that was cut short: a folder, or latest"
    )
    run.add_argument("-n", "--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument(
        "--keep", action="store_true", help="keep each kernel's guest after its last scenario"
    )
    run.add_argument(
        "--update", action="store_true", help="look for newer kernels than those last used"
    )
    run.add_argument("--offline", action="store_true", help="use what is cached, and no network")
    run.add_argument(
        "--require-sandbox", action="store_true", help="refuse to run where one of its walls lacks"
    )
    run.add_argument(
        "--scope", action="store_true", help="have systemd bound what all guests take together"
    )
    run.add_argument("-j", "--jobs", type=_positive, metavar="N", help="so many guests at a time")
    _add_results(run)
    run.set_defaults(command=_run)

    listing = commands.add_parser("list", help="show the lab's kernels and scenarios")
    _add_lab_option(listing)
    _add_selection(listing)
    listing.set_defaults(command=_list)

    shell = commands.add_parser(
        "shell",
        help="enter a guest that has the modules built",
        epilog="`lab shell KERNEL -- COMMAND` runs a command there instead of a shell.",
    )
    _add_lab_option(shell)
    shell.add_argument("--offline", action="store_true", help="use what is cached, and no network")
    _add_modules(shell)
    shell.add_argument("kernel", help=_KERNEL_HELP)
    shell.set_defaults(command=_shell)

    watch = commands.add_parser("watch", help="play again, on each save, what it affects")
    _add_lab_option(watch)
    _add_selection(watch)
    watch.add_argument("--offline", action="store_true", help="use what is cached, and no network")
    watch.add_argument("-j", "--jobs", type=_positive, metavar="N", help="so many guests at a time")
    _add_results(watch)
    watch.set_defaults(command=_watch)

    replay = commands.add_parser(
        "replay",
        help="enter a guest as it was before the step that failed",
        epilog="`lab replay RUN CELL -- COMMAND` runs a command there instead of a shell.",
    )
    _add_lab_option(replay)
    replay.add_argument("--offline", action="store_true", help="use what is cached, and no network")
    replay.add_argument(
        "--step", type=_positive, metavar="N", help="before this step (the first that failed)"
    )
    _add_results(replay)
    replay.add_argument("run", metavar="RUN", help="a run's folder, or its name, or latest")
    replay.add_argument("cell", metavar="CELL", help="KERNEL/FILE/NAME, as reports have it")
    replay.set_defaults(command=_replay)

    gdb = commands.add_parser(
        "gdb",
        help="debug a guest and the modules in it",
        epilog="What stands behind -- are arguments for gdb.",
    )
    _add_lab_option(gdb)
    gdb.add_argument("--offline", action="store_true", help="use what is cached, and no network")
    _add_modules(gdb)
    gdb.add_argument(
        "-s",
        "--scenario",
        metavar="NAME",
        help="load this scenario's modules, as it does (all that were built)",
    )
    gdb.add_argument(
        "--print", action="store_true", help="start no gdb; say how to, and keep the guest"
    )
    gdb.add_argument("kernel", help=_KERNEL_HELP)
    gdb.set_defaults(command=_gdb)

    console = commands.add_parser("console", help="show what a guest says, or said, on its console")
    _add_lab_option(console)
    _add_results(console)
    console.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    console.add_argument(
        "run", metavar="RUN", help="a run's folder, or its name, or latest; shell for `lab shell`"
    )
    console.add_argument(
        "place",
        nargs="?",
        default="",
        metavar="KERNEL[/FILE/NAME]",
        help="whose: a kernel's last guest, or a scenario's own",
    )
    console.set_defaults(command=_console)

    bisect = commands.add_parser(
        "bisect", help="find between which two kernels a scenario's outcome changes"
    )
    _add_lab_option(bisect)
    bisect.add_argument("scenario", help="a scenario's name, or part of it")
    bisect.add_argument(
        "--between",
        nargs=2,
        required=True,
        metavar=("A", "B"),
        help="versions, or kernels of the lab, that enclose the change",
    )
    _add_results(bisect)
    bisect.set_defaults(command=_bisect)

    report = commands.add_parser("report", help="show a past run anew: text, page, or for a CI")
    _add_lab_option(report)
    report.add_argument(
        "run", nargs="*", metavar="RUN", help="a run's folder, or its name (the latest)"
    )
    report.add_argument("--format", choices=REPORT_FORMATS, default="text", help="as what (text)")
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it there")
    report.add_argument("--merge", action="store_true", help="join runs of one lab into one")
    _add_results(report)
    report.set_defaults(command=_report)

    history = commands.add_parser("history", help="what is new, what flakes, what is slow")
    _add_lab_option(history)
    history.add_argument("-s", "--scenario", default="", metavar="PATTERN", help="only these")
    history.add_argument("-k", "--kernel", default="", metavar="NAME", help="only this one")
    history.add_argument("--json", action="store_true", help="all of it, for scripts")
    history.add_argument(
        "--import",
        nargs="+",
        type=Path,
        dest="take_in",
        metavar="DIR",
        help="take older runs in, from their results.json",
    )
    history.add_argument(
        "--history", type=Path, metavar="FILE", help="the file (lab-results/history.sqlite)"
    )
    _add_results(history)
    history.set_defaults(command=_history)

    kernels = commands.add_parser("kernels", help="show the lab's kernels: asked, found, cached")
    _add_lab_option(kernels)
    _add_kernels(kernels)
    kernels.add_argument(
        "--offered", action="store_true", help="show what the kernels' sources offer, too"
    )
    kernels.add_argument("--offline", action="store_true", help="use no network")
    kernels.set_defaults(command=_kernels)

    lock = commands.add_parser("lock", help="write lab.lock: exactly these kernels and images")
    _add_lab_option(lock)
    _add_kernels(lock)
    lock.add_argument("--update", action="store_true", help="lock the newest there is now")
    lock.add_argument(
        "--check", action="store_true", help="write nothing; say what upstream has newer or lost"
    )
    lock.add_argument("-j", "--jobs", type=_positive, metavar="N", help="so many at a time")
    lock.set_defaults(command=_lock)

    export = commands.add_parser("export", help="put the locked kernels and images into a file")
    _add_lab_option(export)
    _add_kernels(export)
    export.add_argument("file", type=Path, help="the file to write (tar)")
    export.set_defaults(command=_export)

    importing = commands.add_parser("import", help="take kernels and images from such a file")
    importing.add_argument("file", type=Path, help="what `lab export` wrote")
    importing.set_defaults(command=_import)

    _add_cache(commands)

    schema = commands.add_parser("schema", help="print a JSON Schema, for editors and scripts")
    schema.add_argument("of", nargs="?", choices=SCHEMAS, default="lab", help="of which file (lab)")
    schema.add_argument(
        "--path", action="store_true", help="print where the installed one is, instead"
    )
    schema.set_defaults(command=_schema)

    completion = commands.add_parser("completion", help="print what teaches a shell to complete")
    completion.add_argument("shell", nargs="?", choices=SHELLS, help="the shell")
    completion.add_argument("--words", nargs="*", dest="typed", help=argparse.SUPPRESS)
    completion.set_defaults(command=_completion)

    doctor = commands.add_parser(
        "doctor", help="say what this machine is and lacks, for you and for bug reports"
    )
    _add_lab_option(doctor)
    doctor.add_argument("--network", action="store_true", help="see what can be reached, too")
    doctor.add_argument("--json", action="store_true", help="the same for scripts")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cache = commands.add_parser("cache", help="show, check and prune what is kept between runs")
    cache.set_defaults(command=_cache_show)
    does = cache.add_subparsers(title="commands", metavar="COMMAND")
    verify = does.add_parser("verify", help="compare what is kept with its hashes")
    verify.add_argument("--repair", action="store_true", help="remove what is damaged")
    verify.set_defaults(command=_cache_verify)
    prune = does.add_parser("prune", help="remove what was used longest ago, and leftovers")
    prune.add_argument(
        "--older-than", type=_amount, metavar="DAYS", help="what was not used for so long goes"
    )
    prune.add_argument(
        "--keep", type=_amount, metavar="GIB", help="so much may stay (LAB_CACHE_GIB, if it is set)"
    )
    prune.add_argument("-n", "--dry-run", action="store_true", help="say what would go")
    prune.set_defaults(command=_cache_prune)


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")
    return amount


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _add_lab_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lab", type=Path, default=Path("lab.yaml"), metavar="FILE", help="the lab (lab.yaml)"
    )


def _add_modules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--module",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of modules that is not in lab.yaml; repeatable",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="where runs are kept (lab-results)"
    )


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-k",
        "--kernel",
        action="append",
        default=[],
        metavar="RANGE",
        help="a kernel's name, a group, an image, or versions such as '>=5.6'; repeatable",
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    _add_kernels(parser)
    parser.add_argument(
        "-s",
        "--scenario",
        action="append",
        default=[],
        metavar="PATTERN",
        help="part of a scenario's name, or a pattern with '*'; repeatable",
    )


def _load_lab(path: Path) -> Lab:
    from orchestrator.doors.planning import read_lab

    return read_lab(path)


def _make_plan(
    lab: Lab, cache: Cache, arguments: argparse.Namespace, *, every: bool = False
) -> Plan:
    """The plan of what the arguments ask for; ``every`` kernel where they name none."""
    from orchestrator.doors.planning import make_plan

    kernels = arguments.kernel or (list(lab.file.kernels) if every else [])
    return make_plan(
        lab,
        cache,
        kernels=kernels,
        scenarios=getattr(arguments, "scenario", []),
        jobs=getattr(arguments, "jobs", None),
    )


def _open_cache(arguments: argparse.Namespace) -> Cache:
    from orchestrator.adapters.cache import Cache, default_cache_dir

    return Cache(default_cache_dir(), offline=getattr(arguments, "offline", False))


def _init(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.initing import start

    return start(arguments.folder)


def _run(arguments: argparse.Namespace) -> int:
    from orchestrator.adapters.cgroup import enter_scope
    from orchestrator.doors.planning import forget, require_unlocked
    from orchestrator.plan.plan import render_plan

    if arguments.scope and not arguments.dry_run:
        enter_scope((sys.executable, *sys.orig_argv[1:]))
    lab = _load_lab(arguments.lab)
    cache = _open_cache(arguments)
    if arguments.resume is not None:
        return _resume(lab, cache, arguments)
    if arguments.update:
        if arguments.offline:
            raise UsageError("--update asks the network, which --offline forbids")
        require_unlocked(lab)
    if arguments.update and not arguments.dry_run:
        forget(lab, cache, arguments.kernel)
    plan = _make_plan(lab, cache, arguments)
    if arguments.dry_run:
        print(render_plan(plan), end="")
        return EXIT_PASSED
    return _play(plan, cache, arguments)


def _resume(lab: Lab, cache: Cache, arguments: argparse.Namespace) -> int:
    from orchestrator.doors.resuming import open_run

    chosen = arguments.kernel or arguments.scenario
    if chosen or arguments.update or arguments.dry_run:
        raise UsageError(
            "--resume plays what is left of that run, and takes no -k, -s, -n or --update",
            hint="`lab run` without --resume starts anew",
        )
    with open_run(
        arguments.resume, lab, cache, _results_dir(lab.path, arguments), jobs=arguments.jobs
    ) as (plan, earlier, run_dir):
        return _play(plan, cache, arguments, earlier, run_dir)


def _play(
    plan: Plan,
    cache: Cache,
    arguments: argparse.Namespace,
    earlier: RunResult | None = None,
    resumed: RunDir | None = None,
) -> int:
    from orchestrator.doors.caching import cache_bound, keep_bound
    from orchestrator.doors.ci import show_summary, tell_github
    from orchestrator.doors.doctor import require_host
    from orchestrator.doors.history import record
    from orchestrator.doors.progress import open_progress
    from orchestrator.plan.outcome import judge_result
    from orchestrator.plan.paths import new_run_id
    from orchestrator.plan.yamlsource import shown_path
    from orchestrator.policy.reports import HTML_FILE, REPORT_FILE, render_summary
    from orchestrator.policy.resuming import holding, left_of
    from orchestrator.policy.runner import Run, create_run_dir, orderly_stop

    require_host(sandbox=arguments.require_sandbox)
    bound = cache_bound()  # a word that is no number is told before the run, not after it
    run_dir = resumed or create_run_dir(_results_dir(plan.lab.path, arguments), new_run_id())
    shown = left_of(plan, earlier) if earlier else plan
    held = contextlib.nullcontext() if resumed else holding(run_dir.root)
    with held, orderly_stop() as stop, open_progress(shown) as progress:
        run = Run(
            plan,
            cache,
            run_dir,
            progress,
            keep=stop if arguments.keep else None,
            earlier=earlier,
        )
        result = run.play(stop)
    record(result, run_dir.root.parent)
    keep_bound(cache, bound)
    try:
        show_summary(render_summary(result))
        tell_github(result, plan.lab.path.parent)
        print(f"report: {shown_path(run_dir.root / REPORT_FILE)}")
        print(f"page: {shown_path(run_dir.root / HTML_FILE)}", flush=True)
    except BrokenPipeError:
        _stop_printing()  # what the run came to does not depend on who reads
    return judge_result(result).exit_status


def _results_dir(lab_path: Path, arguments: argparse.Namespace) -> Path:
    chosen: Path | None = arguments.results
    return chosen or lab_path.parent / "lab-results"


def _report(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.reporting import report

    return report(
        arguments.run,
        _results_dir(arguments.lab, arguments),
        form=arguments.format,
        output=arguments.output,
        merge=arguments.merge,
        lab_dir=arguments.lab.parent,
    )


def _history(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.history import HISTORY_FILE, show, take_in

    results_dir = _results_dir(arguments.lab, arguments)
    path = arguments.history or results_dir / HISTORY_FILE
    if arguments.take_in:
        return take_in(path, arguments.take_in)
    return show(path, scenario=arguments.scenario, kernel=arguments.kernel, as_json=arguments.json)


def _bisect(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.bisecting import search

    lab, cache = _load_lab(arguments.lab), _open_cache(arguments)
    older, newer = arguments.between
    results_dir = _results_dir(lab.path, arguments)
    return search(lab, cache, arguments.scenario, (older, newer), results_dir)


def _list(arguments: argparse.Namespace) -> int:
    lab = _load_lab(arguments.lab)
    plan = _make_plan(lab, _open_cache(arguments), arguments)
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

    return enter(
        arguments.lab,
        arguments.kernel,
        _open_cache(arguments),
        modules=arguments.module,
        words=arguments.words,
    )


def _watch(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.watching import watch

    return watch(arguments, _open_cache(arguments))


def _replay(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.replaying import replay

    return replay(arguments, _load_lab(arguments.lab), _open_cache(arguments))


def _gdb(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.debugging import debug

    return debug(arguments, _open_cache(arguments))


def _console(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.console import show_console

    return show_console(
        arguments.run,
        arguments.place,
        arguments.results or arguments.lab.parent / "lab-results",
        follow=arguments.follow,
    )


def _kernels(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.kernels import show

    lab, cache = _load_lab(arguments.lab), _open_cache(arguments)
    show(_make_plan(lab, cache, arguments, every=True), cache, offered=arguments.offered)
    return EXIT_PASSED


def _lock(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import locking

    lab, cache = _load_lab(arguments.lab), _open_cache(arguments)
    if arguments.check:
        return locking.check(_make_plan(lab, cache, arguments, every=True), cache)
    kernels = arguments.kernel or list(lab.file.kernels)
    return locking.write(lab, cache, kernels, update=arguments.update, jobs=arguments.jobs)


def _export(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import locking

    lab, cache = _load_lab(arguments.lab), _open_cache(arguments)
    return locking.export(_make_plan(lab, cache, arguments, every=True), cache, arguments.file)


def _import(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import locking

    return locking.bring(_open_cache(arguments), arguments.file)


def _schema(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import schema

    print(schema.locate(arguments.of) if arguments.path else schema.render(arguments.of), end="")
    return EXIT_PASSED


def _completion(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import completion

    if arguments.typed is not None:
        # With a colon before each, so that none is an option of this command.
        words = [word.removeprefix(":") for word in arguments.typed]
        print(completion.answer(build_parser(), words), end="")
        return EXIT_PASSED
    if arguments.shell is None:
        raise UsageError("of which shell?", hint=f"one of {', '.join(SHELLS)}")
    print(completion.script(arguments.shell), end="")
    return EXIT_PASSED


def _cache_show(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import caching

    return caching.show(_open_cache(arguments))


def _cache_verify(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import caching

    return caching.verify(_open_cache(arguments), repair=arguments.repair)


def _cache_prune(arguments: argparse.Namespace) -> int:
    from orchestrator.doors import caching

    return caching.prune_by_hand(
        _open_cache(arguments),
        days=arguments.older_than,
        gib=arguments.keep,
        dry_run=arguments.dry_run,
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from orchestrator.doors.doctor import report

    return report(arguments.lab, network=arguments.network, as_json=arguments.json)
