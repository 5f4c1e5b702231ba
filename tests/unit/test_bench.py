"""The bench: what it makes of its numbers, how it tells them, and how it takes turns."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache
from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import MachineError
from orchestrator.plan.labfile import load_lab
from tests.bench import host, runs
from tests.bench.__main__ import build_parser, document, main, write
from tests.bench.catalogue import BESIDE, TARGETS, Catalogue, Wish, select
from tests.bench.guests import Guests
from tests.bench.measuring import Measurement, NotMeasurableError, take_group
from tests.bench.rendering import (
    BEGIN,
    END,
    decades,
    number,
    put_between_marks,
    ratio,
    render_markdown,
    render_svg,
    render_table,
)
from tests.bench.values import (
    Figure,
    Host,
    Report,
    Sample,
    Series,
    Target,
    from_json,
    rounds_of,
    slope,
    to_json,
)
from tests.bench.virtme import way_into

HOST = Host("A <fine> processor", 2, 8000, "6.18", "Debian", "7.2", "3.11", "tcg", "no /dev/kvm")


def series(name: str, *values: float, unit: str = "s") -> Series:
    samples = tuple(Sample(index, value) for index, value in enumerate(values))
    return Series(Figure(name, f"the {name}", unit), samples)


def report(*found: Series, targets: tuple[Target, ...] = (), busy: float = 0.0) -> Report:
    return Report(
        started="2026-11-23T17:00:00Z",
        seconds=12.5,
        commit="abc123",
        host=HOST,
        arguments=("--quick",),
        series=found,
        targets=targets,
        beside={"fork": "bare"},
        others=(busy,),
    )


# --- numbers ---------------------------------------------------------------------------------


def test_the_median_and_the_spread_are_of_all_samples() -> None:
    found = series("fork", 3.0, 1.0, 9.0)
    assert found.median == 3.0
    assert found.spread == (1.0, 9.0)
    assert series("fork", 1.0, 2.0).median == 1.5


def test_what_was_not_measured_has_neither() -> None:
    assert series("fork").median is None
    assert series("fork").spread is None
    assert report(series("fork"), series("bare", 1.0)).ratio("fork", "bare") is None


def test_a_ratio_is_of_medians() -> None:
    found = report(series("fork", 4.0, 6.0, 50.0), series("bare", 2.0, 2.0, 1.0))
    assert found.ratio("fork", "bare") == 3.0
    assert found.ratio("fork", "nothing") is None
    assert report(series("fork", 1.0), series("bare", 0.0)).ratio("fork", "bare") is None


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target("fork", 0.5), 0.5, True),
        (Target("fork", 0.4), 0.5, False),
        (Target("fork", 1 / 20, of="virtme"), 0.05, True),
        (Target("fork", 1 / 21, of="virtme"), 0.05, False),
        (Target("fork", 1 / 3, of="cold"), None, None),
        (Target("cold", 1), None, None),
    ],
)
def test_a_target_is_met_missed_or_not_known(
    target: Target, value: float | None, met: bool | None
) -> None:
    (judged,) = report(series("fork", 0.5), series("virtme", 10.0), targets=(target,)).judge()
    assert judged.value == pytest.approx(value) if value is not None else judged.value is None
    assert judged.met is met


def test_what_is_taken_less_often_is_spread_over_the_rounds() -> None:
    assert rounds_of(15, 15) == list(range(15))
    assert rounds_of(3, 15) == [4, 9, 14]
    assert rounds_of(1, 3) == [2]
    assert [len(rounds_of(repeats, 15)) for repeats in range(1, 16)] == list(range(1, 16))


def test_a_slope_leaves_out_what_every_run_pays() -> None:
    assert slope((2, 10.0 + 2 * 0.5), (12, 10.0 + 12 * 0.5)) == pytest.approx(0.5)


def test_json_holds_all_of_a_report() -> None:
    found = report(
        series("fork", 1.0, 2.0),
        Series(Figure("bare", "x"), (), ("round 1: it broke",)),
        Series(Figure("virtme", "y"), (), (), "no busybox"),
        targets=(Target("fork", 0.5), Target("fork", 0.1, of="virtme")),
        busy=0.3,
    )
    raw = json.loads(json.dumps(to_json(found)))
    assert from_json(raw) == found
    assert raw["series"][0]["median"] == 1.5
    assert raw["loaded"] is True
    assert raw["targets"][0]["met"] is False


@pytest.mark.parametrize("change", [{"schema": 99}, {"host": {}}, {"series": [{}]}])
def test_other_json_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"schema 99|not what a bench wrote"):
        from_json({**to_json(report(series("fork", 1.0))), **change})


# --- telling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "-"), (0, "0"), (0.01234, "0.0123"), (0.5, "0.500"), (12.345, "12.3")),
        *((1234.5, "1234"), (-3.21, "-3.21"), (0.00001, "0.0000")),
    ],
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (0.05, "1/20.0"), (1, "1.00x"), (3.2, "3.20x")]
)
def test_ratios_are_parts_or_times(value: float | None, text: str) -> None:
    assert ratio(value) == text


def test_the_table_tells_median_spread_ratio_and_target() -> None:
    found = report(
        series("fork", 0.2, 0.4, 0.9), series("bare", 0.1), targets=(Target("fork", 0.5),)
    )
    line = next(line for line in render_table(found).splitlines() if line.startswith("fork"))
    assert re.split(r" {2,}", line) == [
        *("fork", "the fork", "0.400 s", "0.200..0.900", "3", "4.00x of bare"),
        "<= 0.5 s: met",
    ]


def test_a_target_that_is_a_part_of_another_tells_the_ratio() -> None:
    found = report(
        series("fork", 1.0), series("virtme", 10.0), targets=(Target("fork", 1 / 20, of="virtme"),)
    )
    assert "<= 1/20 of virtme: MISSED (1/10.0)" in render_table(found)


def test_nothing_that_is_lacking_goes_untold() -> None:
    found = report(
        Series(Figure("bare", "x"), (), ("round 1: it broke",)),
        Series(Figure("virtme", "y"), (), (), "no busybox"),
    )
    for text in (render_table(found), render_markdown(found)):
        assert "FAILED  bare: round 1: it broke" in text
        assert "not measured  virtme: no busybox" in text
        assert HOST.reason in text
        assert found.commit in text
    assert found.failed == (found.series[0],)


def test_a_loaded_machine_is_told_of_first() -> None:
    quiet, loaded = (report(series("fork", 1.0), busy=busy) for busy in (0.05, 0.4))
    assert "LOADED" not in render_table(quiet) + render_markdown(quiet)
    assert "LOADED" in render_table(loaded)
    assert render_markdown(loaded).startswith("**FROM A LOADED MACHINE: others used 40%")


def test_markdown_keeps_its_columns_whatever_a_text_says() -> None:
    odd = replace(series("fork", 1.0), figure=Figure("fork", "a|b <i>"))
    lines = [line for line in render_markdown(report(odd)).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<i>" not in lines[2]


def test_a_page_is_written_anew_between_its_marks_alone() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = put_between_marks(page, "new\n")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert put_between_marks(once, "new\n") == once


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}\n{BEGIN}"])
def test_a_page_without_marks_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="does not have"):
        put_between_marks(page, "new\n")


def test_the_plot_is_well_formed_and_draws_each_figure() -> None:
    found = report(
        series("fork", 0.1, 0.4, 9.0),
        series("virtme", 12.0),
        series("memory", 40.0, unit="MB"),
        series("stale", 0.0, unit=""),
        series("lacking"),
        targets=(Target("fork", 0.5), Target("stale", 0)),
    )
    root = ET.fromstring(render_svg(found))
    text = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"the fork", "the virtme", "the memory", "s", "MB"} <= set(text)
    assert not {"the lacking", "the stale"} & set(text)
    bars = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("x")]
    widths = [float(each.get("width", "")) for each in bars]
    assert widths[0] < widths[1]


def test_the_plot_of_nothing_is_one() -> None:
    assert ET.fromstring(render_svg(report())).tag.endswith("svg")


def test_an_axis_has_a_decade_at_the_least() -> None:
    assert decades([0.2, 5.0]) == (-1, 1)
    assert decades([1.0]) == (0, 1)
    assert decades([10.0, 0.0]) == (1, 2)


# --- taking turns ----------------------------------------------------------------------------


class Script:
    """Measurements that say when they were taken, and do what they are told."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def measurement(self, name: str, repeats: int, *answers: float | Exception) -> Measurement:
        left: Iterator[float | Exception] = iter(answers)

        def take() -> Mapping[str, float]:
            self.taken.append(name)
            answer = next(left)
            if isinstance(answer, Exception):
                raise answer
            return {name: answer}

        return Measurement(name, (Figure(name, name),), repeats, take)


def unheard(text: str) -> None:
    assert text


def test_what_is_compared_is_taken_in_turn() -> None:
    script = Script()
    one, two = script.measurement("one", 3, 1, 2, 3), script.measurement("two", 3, 4, 5, 6)
    found = take_group((one, two), unheard)
    assert script.taken == ["one", "two", "two", "one", "one", "two"]
    assert [each.values for each in found] == [(1, 2, 3), (4, 5, 6)]


def test_a_failure_is_told_and_the_others_go_on() -> None:
    script = Script()
    error = MachineError("it \x1b broke\nbadly")
    bad = script.measurement("bad", 3, 1.0, error, ValueError("again"))
    found = take_group((bad, script.measurement("good", 3, 1, 2, 3)), unheard)
    assert found[0].values == (1.0,)
    assert [failure[:7] for failure in found[0].failures] == ["round 2", "round 3"]
    assert "it \\x1b broke badly" in found[0].failures[0]
    assert found[1].values == (1, 2, 3)


def test_what_fails_twice_is_not_tried_again() -> None:
    script = Script()
    take_group((script.measurement("bad", 9, *(ValueError("no") for _ in range(9))),), unheard)
    assert script.taken == ["bad", "bad"]


def test_what_cannot_be_measured_is_no_failure() -> None:
    script = Script()
    (found,) = take_group((script.measurement("x", 5, NotMeasurableError("no\nKVM")),), unheard)
    assert (found.absent, found.failures) == ("no KVM", ())


def test_what_could_be_measured_once_has_failed_where_it_cannot_any_more() -> None:
    script = Script()
    mixed = script.measurement("x", 3, 1.0, NotMeasurableError("gone"), 2.0)
    (found,) = take_group((mixed,), unheard)
    assert found.values == (1.0, 2.0)
    assert found.failures == ("round 2: gone",)
    assert found.absent == ""


def test_a_measurement_gives_all_of_its_figures_or_fails() -> None:
    def take() -> Mapping[str, float]:
        return {"other": 1.0}

    (found,) = take_group((Measurement("x", (Figure("x", "x"),), 1, take),), unheard)
    assert "['other'] instead of ['x']" in found.failures[0]


# --- what is measured ------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path) -> tuple[tuple[Measurement, ...], ...]:
    lab = load_lab(runs.ROOT / "lab.yaml", entry_types())
    cache = Cache(tmp_path)
    guests = Guests(lab, cache, "6.1", tmp_path)
    return Catalogue(lab, cache, tmp_path, tmp_path, Wish("6.1", 3), guests).groups()


def test_every_target_and_every_comparison_is_of_a_figure(
    groups: tuple[tuple[Measurement, ...], ...],
) -> None:
    figures = [figure.name for group in groups for each in group for figure in each.figures]
    assert len(figures) == len(set(figures))
    assert {each.figure for each in TARGETS} <= set(figures)
    assert {each.of for each in TARGETS if each.of} <= set(figures)
    assert {*BESIDE, *BESIDE.values()} <= set(figures)


def test_what_takes_long_is_done_only_when_asked_for(
    groups: tuple[tuple[Measurement, ...], ...],
) -> None:
    chosen = select(groups, ["forks", "matrix-cold"])
    found = [series for group in chosen for series in take_group(group, unheard)]
    assert {each.absent.partition(":")[0] for each in found} == {"not asked for"}


def test_only_what_is_named_is_measured(groups: tuple[tuple[Measurement, ...], ...]) -> None:
    chosen = select(groups, ["fork", "help", "bare"])
    assert [[each.name for each in group] for group in chosen] == [["help"], ["bare", "fork"]]
    assert select(groups, []) == groups
    with pytest.raises(ValueError, match=r"no 'forc'; there are python, help"):
        select(groups, ["forc"])


@pytest.mark.parametrize(
    ("options", "daemon", "way"),
    [
        ("CONFIG_VIRTIO_FS=m\n# CONFIG_NET_9P is not set\n", False, None),
        ("CONFIG_VIRTIO_FS=m\n# CONFIG_NET_9P is not set\n", True, "virtiofs"),
        ("CONFIG_NET_9P=m\nCONFIG_NET_9P_VIRTIO=m\nCONFIG_9P_FS=m\n", True, "9p"),
        ("CONFIG_NET_9P=y\nCONFIG_9P_FS=y\n", False, None),
    ],
)
def test_virtme_ng_needs_a_way_to_the_machines_root(
    options: str, daemon: bool, way: str | None
) -> None:
    assert way_into(options, daemon) == way


def test_a_lab_of_many_scenarios_is_one(tmp_path: Path) -> None:
    own = load_lab(runs.ROOT / "lab.yaml", entry_types())
    path = runs.write_lab(tmp_path / "lab", own, "6.1", build="guest", scenarios=7)
    written = load_lab(path, entry_types())
    assert [len(each.scenario.steps) for each in written.scenarios] == [3] * 7
    assert written.file.build == "guest"
    assert written.file.kernels == {"6.1": own.file.kernels["6.1"]}


def test_a_cache_without_modules_has_all_else(tmp_path: Path) -> None:
    old = tmp_path / "old"
    for name in ("modules", "kernels/one"):
        (old / name).mkdir(parents=True)
    new = runs.write_cache(tmp_path / "new", old)
    assert sorted(path.name for path in new.iterdir()) == ["kernels", "locks"]
    assert (new / "kernels/one").is_dir()
    (new / "modules/x").mkdir(parents=True)
    runs.write_cache(new, old)
    assert not (new / "modules").exists()
    assert (old / "kernels/one").is_dir()
    assert list((old / "modules").iterdir()) == []


# --- processes and the machine ---------------------------------------------------------------


def test_a_process_is_timed_with_its_children() -> None:
    spend = "import time\nwhile time.process_time() < 0.2: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spend!r}])"
    took = runs.run_process((sys.executable, "-c", parent), seconds=60)
    assert took.processor >= 0.2
    assert took.wall > 0


def test_a_process_that_fails_says_why() -> None:
    bad = (sys.executable, "-c", "print('oh no'); raise SystemExit(3)")
    with pytest.raises(ValueError, match=r"ended with 3: oh no"):
        runs.run_process(bad, seconds=60)


def test_a_process_that_does_not_end_is_ended() -> None:
    forever = (sys.executable, "-c", "import signal; signal.pause()")
    with pytest.raises(ValueError, match="ended with -15"):
        runs.run_process(forever, seconds=0.1)


def test_others_have_what_is_busy_and_not_ours() -> None:
    #        user nice system idle iowait irq softirq steal guest guest_nice
    spent = [4.0, 1.0, 1.0, 10.0, 2.0, 0.0, 0.0, 2.0, 3.0, 0.0]
    assert host.others_share(spent, ours=3.0) == pytest.approx(5 / 20)
    assert host.others_share(spent, ours=99.0) == 0
    assert host.others_share([0.0] * 10, ours=0.0) == 0


def test_a_processor_has_a_name_or_words_for_none() -> None:
    assert host.processor_in("processor\t: 0\nmodel name\t: A B\nmodel name\t: C\n") == "A B"
    assert host.processor_in("processor\t: 0\nBogoMIPS\t: 50\n") == "a processor without a name"


# --- the command -----------------------------------------------------------------------------


def test_the_arguments_have_sensible_defaults() -> None:
    found = build_parser().parse_args([])
    assert (found.kernel, found.forks, found.cold, found.only) == ("6.1", 0, False, [])


@pytest.mark.parametrize("words", [["--forks", "0"], ["-n", "x"], ["--nothing"]])
def test_arguments_that_make_no_sense_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_an_earlier_bench_is_put_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(series("fork", 0.3), series("bare", 0.1), busy=0.5)
    write(found, tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n{BEGIN}\n{END}\n")
    run: Callable[[], int] = partial(
        main, ["--from", str(tmp_path / "bench.json"), "--document", str(page)]
    )
    assert run() == 0
    assert capsys.readouterr().out == render_table(found) == (tmp_path / "bench.txt").read_text()
    assert "3.00x of bare" in page.read_text()
    assert "(page.svg)" in page.read_text()
    assert (tmp_path / "page.svg").read_text() == (tmp_path / "bench.svg").read_text()
    (tmp_path / "bench.json").write_text("{}")
    assert run() == 2


def test_the_status_tells_of_failures(tmp_path: Path) -> None:
    write(report(Series(Figure("x", "x"), (), ("round 1: no",))), tmp_path)
    assert main(["--from", str(tmp_path / "bench.json")]) == 1


def test_the_page_in_the_repository_has_its_marks(tmp_path: Path) -> None:
    text = (runs.ROOT / "docs/performance.md").read_text()
    page = tmp_path / "performance.md"
    page.write_text(text)
    document(report(series("fork", 1.0)), page)
    assert page.read_text().partition(BEGIN)[0] == text.partition(BEGIN)[0]
    assert page.read_text().partition(END)[2] == text.partition(END)[2]
    assert (runs.ROOT / "docs/performance.svg").exists()
