"""A plan in shards: what each job of a CI plays, as arguments of ``lab run``.

``-k`` and ``-s`` together name all chosen scenarios on all chosen kernels. So a shard is either
whole kernels, or some scenarios of one kernel; no other cells can be asked for with one command.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.plan.chunks import share_out
from orchestrator.plan.plan import KernelPlan, Plan
from orchestrator.plan.yamlsource import render_yaml

READY_SECONDS = 10.0
"""What a kernel costs a job before its first scenario, in its cache: modules built, one boot."""
_STEPS = 40
_HEADER = "# Written by `lab matrix --gitlab`: a child pipeline, one job for each shard.\n"

Seconds = Callable[[str, str], float]
"""What a scenario takes on a kernel, by their names."""


@dataclass(frozen=True)
class Shard:
    """A part of a plan that one job plays."""

    kernels: tuple[str, ...]
    scenarios: tuple[str, ...]
    """The names of those that are played; empty for all that the plan has."""
    seconds: float
    """What it should take, one scenario after another."""


def make_shards(plan: Plan, count: int, seconds: Seconds) -> tuple[Shard, ...]:
    """The plan's cells in ``count`` shards at most, as evenly as can be; each cell in one of them.

    There are fewer where there is less to be shared out.
    """
    kernels = plan.kernels
    low, high = 0.0, sum(_length(kernel, seconds) for kernel in kernels)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if len(_fit(kernels, middle, seconds)) <= count:
            high = middle
        else:
            low = middle
    return tuple(_shard(portion, seconds) for portion in _fit(kernels, high, seconds))


_Portion = tuple[tuple[KernelPlan, ...], tuple[str, ...]]


def _fit(kernels: Sequence[KernelPlan], most: float, seconds: Seconds) -> list[_Portion]:
    """Portions of ``most`` seconds each, as far as single scenarios allow."""
    portions: list[_Portion] = []
    whole = []
    for kernel in kernels:
        names = [cell.scenario.name for cell in kernel.cells if not cell.skip]
        room = most - READY_SECONDS
        alone = sum(seconds(kernel.name, name) for name in names)
        pieces = len(names) if room <= 0 else min(len(names), math.ceil(alone / room))
        if pieces <= 1:
            whole.append(kernel)
            continue
        parts = share_out(names, partial(seconds, kernel.name), pieces)
        # What is skipped is told once.
        skipped = tuple(cell.scenario.name for cell in kernel.cells if cell.skip)
        first, *others = parts
        portions += [((kernel,), part) for part in ((*first, *skipped), *others)]
    return portions + [(each, ()) for each in _pack(whole, most, seconds)]


def _pack(
    kernels: Sequence[KernelPlan], most: float, seconds: Seconds
) -> list[tuple[KernelPlan, ...]]:
    """Whole kernels in as few bins of ``most`` seconds as first-fit decreasing finds."""
    bins: list[tuple[float, list[KernelPlan]]] = []
    for kernel in sorted(kernels, key=lambda each: -_length(each, seconds)):
        length = _length(kernel, seconds)
        for number, (filled, inside) in enumerate(bins):
            if filled + length <= most:
                bins[number] = filled + length, [*inside, kernel]
                break
        else:
            bins.append((length, [kernel]))
    return [tuple(inside) for _, inside in bins]


def _length(kernel: KernelPlan, seconds: Seconds) -> float:
    names = (cell.scenario.name for cell in kernel.cells if not cell.skip)
    return READY_SECONDS + sum(seconds(kernel.name, name) for name in names)


def _shard(portion: _Portion, seconds: Seconds) -> Shard:
    kernels, part = portion
    names = tuple(kernel.name for kernel in kernels)
    if not part:
        return Shard(names, (), sum(_length(kernel, seconds) for kernel in kernels))
    chosen = [cell for cell in kernels[0].cells if cell.scenario.name in part]
    length = sum(seconds(names[0], cell.scenario.name) for cell in chosen if not cell.skip)
    return Shard(names, tuple(cell.scenario.name for cell in chosen), READY_SECONDS + length)


def exact_pattern(name: str, names: Sequence[str]) -> str:
    """What ``-s`` takes for this scenario and no other of the lab's."""
    if sum(name in each for each in names) == 1:
        return name
    return f"[{name[0]}]{name[1:]}"  # a pattern has to fit the whole name


def arguments(shard: Shard, chosen: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """What ``lab run`` is called with for a shard; ``chosen`` are the plan's scenarios where that
    is not all of ``names``, the lab's.
    """
    wanted = shard.scenarios or (tuple(chosen) if len(chosen) < len(names) else ())
    patterns = (exact_pattern(name, names) for name in wanted)
    return (
        *(word for name in shard.kernels for word in ("-k", name)),
        *(word for pattern in patterns for word in ("-s", pattern)),
    )


def _chosen(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c.scenario.name for kernel in plan.kernels for c in kernel.cells))


def all_arguments(plan: Plan, shards: Sequence[Shard]) -> tuple[tuple[str, ...], ...]:
    """``arguments`` of each shard."""
    names = tuple(scenario.name for scenario in plan.lab.scenarios)
    return tuple(arguments(shard, _chosen(plan), names) for shard in shards)


def render_github(plan: Plan, shards: Sequence[Shard]) -> str:
    """A line for ``$GITHUB_OUTPUT``: the JSON of ``strategy.matrix``. Its ``kernels`` and
    ``scenarios`` are those inputs of the lab's action.
    """
    include = []
    for number, words in enumerate(all_arguments(plan, shards), 1):
        pairs = list(zip(words[::2], words[1::2], strict=True))
        include.append(
            {
                "shard": number,
                "kernels": "\n".join(word for option, word in pairs if option == "-k"),
                "scenarios": "\n".join(word for option, word in pairs if option == "-s"),
                "arguments": shlex.join(words),
            }
        )
    return f"matrix={json.dumps({'include': include})}\n"


def render_gitlab(plan: Plan, shards: Sequence[Shard]) -> str:
    """A child pipeline in GitLab's language, whose last job joins the runs."""
    jobs: dict[str, Any] = {"stages": ["play", "report"]}
    for number, words in enumerate(all_arguments(plan, shards), 1):
        jobs[f"shard-{number}"] = {
            "stage": "play",
            "image": _image(),
            "script": [f'lab run --lab "$KMOD_LAB" --results lab-results {shlex.join(words)}'],
            "artifacts": _artifacts("lab-results", "lab-results/*/junit.xml"),
        }
    if len(shards) > 1:
        jobs["report"] = {
            "stage": "report",
            "image": _image(),
            "needs": [f"shard-{number}" for number in range(1, len(shards) + 1)],
            "when": "always",
            "script": ["kmod-lab-merge lab-results merged"],
            "artifacts": _artifacts("merged", "merged/junit.xml"),
        }
    return _HEADER + render_yaml(jobs)


def _image() -> dict[str, Any]:
    return {"name": "$KMOD_LAB_IMAGE", "entrypoint": [""]}


def _artifacts(path: str, junit: str) -> dict[str, Any]:
    return {
        "when": "always",
        "paths": [path],
        "exclude": [f"{path}/latest"],
        "reports": {"junit": junit},
    }


def render_shards(plan: Plan, shards: Sequence[Shard]) -> str:
    """The shards as a person reads them: what each should take, and its command."""
    lines = [
        f"shard {number}, {shard.seconds:.0f} s: lab run {shlex.join(words)}"
        for number, (shard, words) in enumerate(
            zip(shards, all_arguments(plan, shards), strict=True), 1
        )
    ]
    return "\n".join(lines) + "\n"
