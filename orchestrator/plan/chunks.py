"""Cells in portions of about the same length: for the workers of a cluster, the jobs of a CI."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")

UNKNOWN_SECONDS = 1.0
"""What a cell counts that was never played: a short one takes 0.4 s, one that waits some more."""


def split_evenly(
    items: Sequence[_T], seconds: Callable[[_T], float], most: float
) -> tuple[tuple[_T, ...], ...]:
    """Items in chunks of ``most`` seconds at most, as far as single ones allow, and of about the
    same length each; the longest items first, in and over the chunks. No chunk is empty.
    """
    if not items:
        return ()
    total = sum(seconds(item) for item in items)
    count = min(len(items), max(1, -int(-total // most)))
    return tuple(each for each in share_out(items, seconds, count) if each)


def share_out(
    items: Sequence[_T], seconds: Callable[[_T], float], count: int
) -> tuple[tuple[_T, ...], ...]:
    """Items in exactly so many portions: each goes, longest first, to the one that has least.

    No portion is longer than 4/3 of the shortest possible longest (R. L. Graham, Bounds on
    multiprocessing timing anomalies, 1969). Ties go by order, so the same is given the same.
    """
    portions: list[list[_T]] = [[] for _ in range(count)]
    heap = [(0.0, number) for number in range(count)]
    for item in sorted(items, key=lambda item: -seconds(item)):
        length, number = heapq.heappop(heap)
        portions[number].append(item)
        heapq.heappush(heap, (length + seconds(item), number))
    return tuple(tuple(portion) for portion in portions)
