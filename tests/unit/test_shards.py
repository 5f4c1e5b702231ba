"""A plan in shards: disjoint, whole, balanced, and each asked for by what `lab run` takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.sources import entry_types
from orchestrator.doors.cli import build_parser
from orchestrator.plan.chunks import share_out, split_evenly
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome, RunResult
from orchestrator.plan.plan import Plan, resolve_plan, select_kernels, select_scenarios
from orchestrator.plan.recipes import load_shipped_recipe
from orchestrator.plan.shards import (
    READY_SECONDS,
    Shard,
    all_arguments,
    make_shards,
    render_github,
    render_gitlab,
)
from orchestrator.plan.yamlsource import parse_yaml
from orchestrator.policy.reports.merging import merge_results

KERNELS = ("4.4", "5.4", "6.1", "6.12")
# One name is part of others, and one is for some kernels alone.
SCENARIOS = ("one", "one-more", "none", *(f"n{number}" for number in range(9)))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("lab")
    entries = "".join(f'  "{n}": {{image: bookworm, version: "{n}"}}\n' for n in KERNELS)
    (folder / "lab.yaml").write_text(f"lab: demo\nkernels:\n{entries}scenarios: [a.yaml]\n")
    scenarios = "".join(
        f"  {name}: {{{'kernels: <5, ' if name == 'none' else ''}steps: [{{run: id}}]}}\n"
        for name in SCENARIOS
    ).replace("kernels: <5", 'kernels: "<5"')
    (folder / "a.yaml").write_text(f"scenarios:\n{scenarios}")
    lab = load_lab(folder / "lab.yaml", entry_types())
    return resolve_plan(
        lab,
        kernels=KERNELS,
        scenarios=lab.scenarios,
        recipes={"bookworm": load_shipped_recipe("bookworm")},
        known={
            name: ResolvedKernel(
                release=f"{name}.0-9", version=f"{name}.9", origin="there", parts=()
            )
            for name in KERNELS
        },
        jobs=1,
    )


def length(kernel: str, scenario: str) -> float:
    return 1.0 + KERNELS.index(kernel) * len(scenario)


def played(plan: Plan, words: tuple[str, ...], run_id: str) -> RunResult:
    """What a run with these arguments comes to, where all passes."""
    parsed = build_parser().parse_args(["run", *words])
    names = select_kernels(plan.lab, parsed.kernel, {})
    scenarios = {each.name for each in select_scenarios(plan.lab, parsed.scenario)}
    kernels = tuple(
        KernelResult(
            kernel.name,
            None,
            cells=tuple(
                CellResult(
                    kernel.name,
                    cell.scenario.name,
                    Outcome.SKIPPED if cell.skip else Outcome.PASSED,
                    cell.skip,
                )
                for cell in kernel.cells
                if cell.scenario.name in scenarios
            ),
        )
        for kernel in plan.kernels
        if kernel.name in names
    )
    return RunResult("demo", run_id, "1", "", 1.0, "tcg", "", "7", kernels=kernels)


def cells(result: RunResult) -> list[tuple[str, str, Outcome, str]]:
    return sorted(
        ((c.kernel, c.scenario, c.outcome, c.reason) for c in result.cells),
        key=lambda cell: cell[:2],
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 11, 50])
def test_shards_are_whole_and_merged_they_are_one_run(plan: Plan, count: int) -> None:
    shards = make_shards(plan, count, length)
    assert 0 < len(shards) <= count
    runs = [played(plan, words, f"r{n}") for n, words in enumerate(all_arguments(plan, shards))]
    assert all(run.cells for run in runs)
    whole = played(plan, tuple(w for name in KERNELS for w in ("-k", name)), "whole")
    merged = merge_results(runs) if len(runs) > 1 else runs[0]
    assert cells(merged) == cells(whole)  # merging refuses what was played twice


@pytest.mark.parametrize("count", [2, 3, 4, 6, 8])
def test_shards_are_balanced(plan: Plan, count: int) -> None:
    shards = make_shards(plan, count, length)
    longest = max(shard.seconds for shard in shards)
    total = sum(
        length(kernel.name, cell.scenario.name)
        for kernel in plan.kernels
        for cell in kernel.cells
        if not cell.skip
    )
    # What it would be if kernels cost nothing to get ready and could be cut anywhere.
    ideal = total / count + READY_SECONDS
    assert longest <= 1.5 * ideal + READY_SECONDS


def test_what_was_chosen_stays_chosen(plan: Plan) -> None:
    chosen = tuple(
        (kernel, tuple(cell for cell in kernel.cells if cell.scenario.name == "a/one"))
        for kernel in plan.kernels
    )
    few = replace(plan, kernels=tuple(replace(kernel, cells=c) for kernel, c in chosen))
    (words,) = all_arguments(few, make_shards(few, 1, length))
    assert cells(played(plan, words, "x")) == [
        (kernel, "a/one", Outcome.PASSED, "") for kernel in sorted(KERNELS)
    ]


def test_what_github_reads(plan: Plan) -> None:
    shards = make_shards(plan, 3, length)
    name, _, text = render_github(plan, shards).partition("=")
    assert name == "matrix"
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    include = json.loads(text)["include"]
    assert [each["shard"] for each in include] == list(range(1, len(shards) + 1))
    assert [tuple(each["kernels"].split()) for each in include] == [s.kernels for s in shards]


def test_what_gitlab_reads(plan: Plan) -> None:
    shards = make_shards(plan, 3, length)
    value: Any = parse_yaml(render_gitlab(plan, shards).encode(), Path("pipeline.yml")).value
    jobs = [name for name in value if name.startswith("shard-")]
    assert len(jobs) == len(shards)
    assert list(value["report"]["needs"]) == jobs
    for job, words in zip(jobs, all_arguments(plan, shards), strict=True):
        (script,) = value[job]["script"]
        assert all(word in script for word in words[1::2])


def test_one_shard_needs_no_report(plan: Plan) -> None:
    assert "report:" not in render_gitlab(plan, (Shard(KERNELS, (), 1.0),)).replace("reports:", "")


@given(st.lists(st.floats(0.01, 100), max_size=60), st.integers(1, 12))
def test_portions_hold_each_item_once_and_are_even(lengths: list[float], count: int) -> None:
    items = list(enumerate(lengths))
    portions = share_out(items, lambda item: item[1], count)
    assert sorted(item for portion in portions for item in portion) == items
    sums = [sum(seconds for _, seconds in portion) for portion in portions]
    best = max(max(lengths, default=0), sum(lengths) / count)
    assert max(sums) <= 4 / 3 * best + max(lengths, default=0)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60), st.floats(1, 200))
def test_chunks_are_as_long_as_they_may_be(lengths: list[float], most: float) -> None:
    items = list(enumerate(lengths))
    chunks = split_evenly(items, lambda item: item[1], most)
    assert sorted(item for chunk in chunks for item in chunk) == items
    assert all(chunks)
    for chunk in chunks:
        assert len(chunk) == 1 or sum(s for _, s in chunk) <= most + max(lengths)


def test_of_nothing_there_are_no_chunks() -> None:
    assert split_evenly([], lambda _: 1.0, 30.0) == ()
