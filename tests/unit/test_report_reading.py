"""Results read back: the same value, or a clear word on why not."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.apichanges import API_CHANGES, ApiChange
from orchestrator.plan.model import FindingClass
from orchestrator.plan.outcome import CellResult, CommandResult, KernelResult, Outcome, RunResult
from orchestrator.policy.reports import (
    JUDGED_FILE,
    append_judged,
    render_report,
    render_results,
    write_reports,
)
from orchestrator.policy.reports.reading import ShapeError, load_results, parse_results
from orchestrator.policy.reports.results import MAX_STREAM_BYTES, load_schema
from tests.unit.test_reports import CHANGES, EVERYTHING, HOSTILE_RUN, HUNG, NOT_BUILT

TEXT = st.text(max_size=8)
COUNT = st.integers(0, 1 << 40)


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type that a result holds, every field drawn, as the file can hold them."""
    if kind is ApiChange:
        return st.sampled_from(API_CHANGES)
    if dataclasses.is_dataclass(kind):
        return values(typing.cast("type[Any]", kind))
    if typing.get_origin(kind) is tuple:
        return st.lists(strategy(typing.get_args(kind)[0]), max_size=2).map(tuple)
    if type(None) in typing.get_args(kind):
        (other,) = (each for each in typing.get_args(kind) if each is not type(None))
        return st.none() | strategy(other)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT,
        int: COUNT,
        float: st.integers(0, 10**9).map(lambda number: number / 1000),
        Path: st.just(Path("6.1/scenarios/a.b")),
    }
    return plain[kind] if kind in plain else st.from_type(kind)


def values(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind, localns={"FindingClass": FindingClass})
    drawn = {field.name: strategy(hints[field.name]) for field in dataclasses.fields(kind)}
    return st.builds(kind, **drawn)


def of_its_kernel(kernel: KernelResult) -> KernelResult:
    return replace(kernel, cells=tuple(replace(cell, kernel=kernel.name) for cell in kernel.cells))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(values(RunResult))
def test_every_field_comes_back(result: RunResult) -> None:
    result = replace(result, kernels=tuple(map(of_its_kernel, result.kernels)))
    assert parse_results(json.loads(render_results(result))) == result


@pytest.mark.parametrize("result", [EVERYTHING, CHANGES, NOT_BUILT, HUNG, HOSTILE_RUN])
def test_what_was_read_is_shown_and_written_as_before(result: RunResult, tmp_path: Path) -> None:
    kernels = tuple(map(of_its_kernel, result.kernels))
    result = replace(result, seconds=round(result.seconds, 3), kernels=kernels)
    text = render_results(result)
    (tmp_path / "results.json").write_text(text)
    read = load_results(tmp_path)
    assert load_results(tmp_path / "results.json") == read
    assert render_results(read) == text
    assert render_report(read) == render_report(result)
    jsonschema.validate(json.loads(text), load_schema())


def with_output(stdout: bytes) -> RunResult:
    (first, *_) = EVERYTHING.kernels
    step = replace(first.cells[1].steps[0], command=CommandResult("c", 0, None, stdout, b"", 0.5))
    cell = CellResult("k1", "a/b", Outcome.PASSED, steps=(step,))
    return replace(EVERYTHING, kernels=(replace(first, cells=(cell,)),))


def read_output(result: RunResult) -> CommandResult:
    command = parse_results(json.loads(render_results(result))).cells[0].steps[0].command
    assert command is not None
    return command


@pytest.mark.parametrize("data", [b"", b"\xff\x00\\xff", "\ud7ff\ufffd".encode(), b"\xed\xa0\x80"])
def test_output_comes_back_to_the_byte(data: bytes) -> None:
    assert read_output(with_output(data)) == CommandResult("c", 0, None, data, b"", 0.5)


def test_output_that_the_file_cuts_is_called_cut() -> None:
    command = read_output(with_output(b"x" * (MAX_STREAM_BYTES + 1)))
    assert (len(command.stdout), command.truncated) == (MAX_STREAM_BYTES, True)


def test_a_change_that_the_table_has_no_more_is_told_all_the_same() -> None:
    gone = replace(API_CHANGES[0], commit="0" * 12)
    (kernel,) = NOT_BUILT.kernels
    cell = kernel.cells[0]
    assert cell.build is not None
    build = replace(cell.build, change=gone)
    result = replace(NOT_BUILT, kernels=(replace(kernel, cells=(replace(cell, build=build),)),))
    read = parse_results(json.loads(render_results(result))).cells[0].build
    assert read is not None
    assert read.change is not None
    assert read.change.explain() == gone.explain()


def test_what_an_older_lab_did_not_write_is_left_at_its_default() -> None:
    data = json.loads(render_results(HUNG))
    del data["allow"], data["kernels"][0]["forks"]
    for stack in data["kernels"][0]["cells"][0]["hang"]["stacks"]:
        del stack["waits"]
    assert parse_results(data) == replace(HUNG, seconds=round(HUNG.seconds, 3))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("schema",), 2, "its `schema` is 2, and 1 is understood"),
        (("lab",), 7, "lab is 7 and should be a text"),
        (("seconds",), "1", 'seconds is "1" and should be a number'),
        (("interrupted",), 1, "interrupted is 1 and should be true or false"),
        (("kernels",), {}, "kernels is an object and should be a list"),
        (("kernels", 0), [], "kernels[0] is a list and should be an object"),
        (("kernels", 0, "cells"), None, "kernels[0].cells is null and should be a list"),
        (
            ("kernels", 0, "cells", 1, "outcome"),
            "\x1b[2J",
            r'kernels[0].cells[1].outcome is "\u001b[2J" and should be one of passed, failed, '
            "error, skipped",
        ),
        (
            ("kernels", 0, "cells", 1, "findings", 0, "frames", 0, "symbol"),
            None,
            "kernels[0].cells[1].findings[0].frames[0].symbol is null and should be a text",
        ),
        (
            ("kernels", 0, "cells", 1, "steps", 1, "command", "stderr", "base64"),
            "!",
            "kernels[0].cells[1].steps[1].command.stderr.base64 is damaged: ",
        ),
    ],
)
def test_another_shape_is_told_with_its_place(
    path: tuple[str | int, ...], value: object, said: str
) -> None:
    data = json.loads(render_results(EVERYTHING))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ShapeError) as caught:
        parse_results(data)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged: "),
        ("\xff", "is damaged: "),
        ("[" * 100_000, "is damaged: "),
        ("[]", "it holds a list where a run's result should be"),
        ('{"schema": 1}', "the whole has no `lab`"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "results.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        load_results(tmp_path)
    assert said in caught.value.message
    assert "results.json" in caught.value.message


def test_a_run_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no scenario of that run was judged"):
        load_results(tmp_path)
    with pytest.raises(UsageError, match=r"there is no run .*none"):
        load_results(tmp_path / "none")


def test_a_run_that_was_killed_has_what_was_judged_after_its_last_report(tmp_path: Path) -> None:
    first, *later = (
        CellResult("6.1", f"a/{name}", Outcome.PASSED) for name in ("one", "two", "three")
    )
    result = replace(HOSTILE_RUN, interrupted=True, kernels=(KernelResult("6.1", None),))
    reported = replace(result, kernels=(replace(result.kernels[0], cells=(first,)),))
    write_reports(reported, tmp_path)
    for cell in (first, *later):
        append_judged(cell, tmp_path)
    with (tmp_path / JUDGED_FILE).open("a") as file:
        file.write('{"kernel": "6.1", "scen')  # it was killed here
    assert load_results(tmp_path).cells == (first, *later)
    assert load_results(tmp_path / "results.json").cells == (first,)
    write_reports(replace(reported, interrupted=False), tmp_path)
    assert load_results(tmp_path).cells == (first,)


@pytest.mark.parametrize("line", ['{"kernel": 3}', '{"kernel": "6.1", "scen', "[" * 100_000])
def test_a_damaged_line_of_what_was_judged_is_told(tmp_path: Path, line: str) -> None:
    write_reports(replace(HOSTILE_RUN, interrupted=True), tmp_path)
    (tmp_path / JUDGED_FILE).write_text(line + "\n")
    with pytest.raises(UsageError, match=r"is not what this lab writes: judged.jsonl:1"):
        load_results(tmp_path)
