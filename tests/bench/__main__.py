"""Measure the lab, and write what came of it.

python -m tests.bench [--quick] [--only NAME] [--document docs/performance.md]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import EXIT_INTERRUPTED, LabError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.paths import new_run_id
from orchestrator.policy.runner import create_run_dir
from tests.bench.catalogue import BESIDE, TARGETS, Catalogue, Wish, select
from tests.bench.guests import Guests
from tests.bench.host import Usage, commit_of, describe_host
from tests.bench.measuring import Measurement, take_group
from tests.bench.rendering import put_between_marks, render_markdown, render_svg, render_table
from tests.bench.runs import ROOT
from tests.bench.values import Report, Series, from_json, to_json

FULL, QUICK = 15, 3
RESULTS = "lab-results/bench"


def build_parser() -> argparse.ArgumentParser:
    """The bench's options."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} repeats instead of {FULL}")
    parser.add_argument("-n", "--repeats", type=_positive, metavar="N", help="so many repeats")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="measure that; repeatable"
    )
    parser.add_argument("-k", "--kernel", default="6.1", help="the kernel that is measured with")
    parser.add_argument("--cold", action="store_true", help="the default matrix from nothing, too")
    parser.add_argument(
        "--forks", type=_positive, default=0, metavar="N", help="N forks in a row, too"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"({RESULTS}/RUN)")
    parser.add_argument(
        "--document", type=Path, metavar="FILE", help="put the table into this page, too"
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="JSON",
        help="measure nothing: what an earlier bench wrote",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def measure(arguments: argparse.Namespace, words: Sequence[str], folder: Path) -> Iterator[Report]:
    """Take all that is asked for; what there is, after each group of measurements.

    Raises ``LabError`` or ``ValueError`` before the first one.
    """
    lab = load_lab(ROOT / "lab.yaml", entry_types())
    cache = Cache(default_cache_dir())
    repeats = arguments.repeats or (QUICK if arguments.quick else FULL)
    wish = Wish(arguments.kernel, repeats, forks=arguments.forks, cold=arguments.cold)
    virtme_dir = cache.root.with_name(f"{cache.root.name}-bench") / "virtme-ng"
    others: list[float] = []
    series: list[Series] = []
    started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    commit = commit_of(ROOT)
    with contextlib.ExitStack() as stack:
        guests = stack.enter_context(Guests(lab, cache, wish.kernel, folder / "guests"))
        catalogue = Catalogue(lab, cache, folder, virtme_dir, wish, guests)
        stack.callback(catalogue.close)
        chosen = select(catalogue.groups(), arguments.only)
        host = describe_host(guests.ready.verdict)
        for number, group in enumerate(chosen, 1):
            usage = Usage()
            series += take_group(group, say)
            others.append(usage.others())
            yield Report(
                started=started,
                seconds=time.monotonic() - clock,
                commit=commit,
                host=host,
                arguments=tuple(words),
                series=(*series, *_to_come(chosen[number:])),
                targets=tuple(each for each in TARGETS if _is_among(each.figure, series)),
                beside=BESIDE,
                others=tuple(others),
                notes=_notes(catalogue, wish, guests),
            )


def _to_come(groups: Iterable[Iterable[Measurement]]) -> Iterator[Series]:
    """What stands for measurements if the bench ends before them."""
    for group in groups:
        for each in group:
            for figure in each.figures:
                yield Series(figure, absent="the bench was ended before")


def _is_among(name: str, series: Sequence[Series]) -> bool:
    return any(each.figure.name == name for each in series)


def _notes(catalogue: Catalogue, wish: Wish, guests: Guests) -> tuple[str, ...]:
    spec = guests.plan.spec
    notes = [
        f"kernel: {wish.kernel}, {guests.plan.release}; guests of {spec.memory_mib} MiB and "
        f"{spec.cpus} processors"
    ]
    if version := catalogue.virtme_version():
        notes.append(f"virtme-ng: {version}, on {catalogue.peer_kernel}")
    return tuple(notes)


def write(report: Report, folder: Path) -> None:
    """The table, the plot and JSON."""
    (folder / "bench.json").write_text(json.dumps(to_json(report), indent=1) + "\n")
    (folder / "bench.txt").write_text(render_table(report))
    (folder / "bench.svg").write_text(render_svg(report))


def document(report: Report, page: Path) -> None:
    """Put the table into a page, between its marks, and the plot beside it.

    Raises ``ValueError`` where it has no marks.
    """
    plot = page.with_suffix(".svg")
    page.write_text(put_between_marks(page.read_text(), render_markdown(report, plot.name)))
    plot.write_text(render_svg(report))


def main(words: Sequence[str]) -> int:
    """Measure and write; the exit status: 0, 1 where a measurement failed, 2 for the arguments."""
    arguments = build_parser().parse_args(words)
    try:
        with _interruptible():
            return _main(arguments, words)
    except LabError as error:
        say(f"bench: {error.render()}")
        return error.exit_status
    except ValueError as error:
        say(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        say("bench: interrupted; what was measured until then is written")
        return EXIT_INTERRUPTED


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """What asks the bench to end has its guests ended first: virtme-ng's would stay."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(each, signal.signal(each, interrupt)) for each in signals]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)


def _main(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    if arguments.source is not None:
        report = from_json(json.loads(arguments.source.read_text()))
    else:
        folder = _folder(arguments)
        for report in measure(arguments, words, folder):
            write(report, folder)
        say(f"written to {os.path.relpath(folder)}")
    print(render_table(report), end="")
    if arguments.document is not None:
        document(report, arguments.document)
    return 1 if report.failed else 0


def _folder(arguments: argparse.Namespace) -> Path:
    if arguments.output is None:
        return create_run_dir(ROOT / RESULTS, new_run_id()).root
    folder: Path = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
