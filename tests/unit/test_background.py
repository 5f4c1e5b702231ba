"""Verdicts on their way from a run to those who wait for them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.foundation.errors import LabError
from orchestrator.plan.outcome import CellResult, Outcome
from orchestrator.policy.background import CellKey, Verdicts

KEY = CellKey(Path("/lab/lab.yaml"), "6.1", "all/loading")


def result(outcome: Outcome = Outcome.PASSED) -> CellResult:
    return CellResult(KEY.kernel, KEY.scenario, outcome, evidence=Path("6.1/x"))


def test_a_verdict_reaches_who_waits_already(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Verdicts(tmp_path).wait_for, KEY)
        Verdicts(tmp_path).tell(CellKey(KEY.lab, "6.1", "all/other"), result(Outcome.FAILED))
        Verdicts(tmp_path).tell(KEY, result())
        assert waiting.result(timeout=10) == result()


def test_what_was_judged_before_the_end_is_there_after_it(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    verdicts.tell(KEY, result())
    verdicts.tell_end("interrupted")
    assert verdicts.wait_for(KEY) == result()
    with pytest.raises(LabError, match=r"^interrupted$"):
        verdicts.wait_for(CellKey(KEY.lab, "6.1", "all/other"))


def test_names_that_run_into_each_other_are_kept_apart() -> None:
    keys = {
        CellKey(Path("/lab"), "6.1", "a/b").file_name,
        CellKey(Path("/lab/6.1"), "a", "b").file_name,
        CellKey(Path("/lab"), "6.1/a", "b").file_name,
    }
    assert len(keys) == 3
