"""``lab matrix``: a plan in shards, for whoever fans out with their CI."""

from __future__ import annotations

from orchestrator.adapters.cache import Cache
from orchestrator.foundation.errors import EXIT_PASSED
from orchestrator.plan.chunks import UNKNOWN_SECONDS
from orchestrator.plan.plan import Plan
from orchestrator.plan.shards import make_shards, render_github, render_gitlab, render_shards
from orchestrator.policy.durations import Durations


def show(plan: Plan, cache: Cache, *, count: int, form: str) -> int:
    """Print the plan in so many shards at most, as ``form`` says; the exit status."""
    durations = Durations(cache, plan.lab.file.lab)

    def seconds(kernel: str, scenario: str) -> float:
        known = durations.seconds_of(kernel, scenario)
        return UNKNOWN_SECONDS if known is None else known

    shards = make_shards(plan, count, seconds)
    renderers = {"github": render_github, "gitlab": render_gitlab}
    print(renderers.get(form, render_shards)(plan, shards), end="")
    return EXIT_PASSED
