"""The sizes that docs/cluster.md tells are those that the figures give."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.cluster import estimate, render_sizes

PAGE = Path(__file__).parents[2] / "docs/cluster.md"


def test_the_table_is_of_the_figures() -> None:
    begin, end = "<!-- sizes: begin -->\n", "<!-- sizes: end -->"
    _, _, rest = PAGE.read_text().partition(begin)
    table, found, _ = rest.partition(end)
    assert found, "`python -m tests.bench.cluster --sizes` prints what stands there"
    assert table == render_sizes()


@pytest.mark.parametrize("workers", [2, 10, 100])
def test_more_machines_take_less_but_not_less_than_their_part(workers: int) -> None:
    alone = estimate(100, 10000, 1)
    assert alone / workers < estimate(100, 10000, workers) < alone
