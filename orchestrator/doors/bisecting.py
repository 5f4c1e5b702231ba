"""``lab bisect``: between which two kernels of those on offer a scenario's outcome changes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.adapters.cache import Cache, write_json
from orchestrator.adapters.sources import Offer, source_of
from orchestrator.doors.doctor import require_host
from orchestrator.doors.planning import known_kernels, make_contexts
from orchestrator.doors.progress import LineProgress
from orchestrator.foundation import process
from orchestrator.foundation.errors import LabError, RunInterruptedError, UsageError
from orchestrator.plan.lock import load_lock
from orchestrator.plan.model import Lab, NamedScenario
from orchestrator.plan.paths import RunDir, new_run_id
from orchestrator.plan.plan import Cell, KernelPlan, Plan, select_kernels, select_scenarios
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.version import KernelVersion, VersionRange
from orchestrator.plan.visible import visible
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.bisect import Answer, Candidate, Next, Tried, bisect, judge_bisection
from orchestrator.policy.capacity import Slots
from orchestrator.policy.reports.bisection import (
    bisection_values,
    render_bisection,
    render_next,
    render_tried,
)
from orchestrator.policy.runner import create_run_dir, orderly_stop, stopping_when
from orchestrator.policy.worker import Worker

BISECTION_FILE = "bisection.json"
REPORT_FILE = "bisection.txt"


def search(
    lab: Lab, cache: Cache, pattern: str, between: tuple[str, str], results_dir: Path
) -> int:
    """Find the change, telling each test as it is made; the exit status.

    Blocks for some tests, each a boot and a build. Raises ``UsageError`` for words that name
    no scenario, more than one, or no kernels.
    """
    require_host()
    scenario = _one_scenario(lab, pattern)
    versions = _range(lab, cache, between)
    offers = {
        candidate: found
        for candidate, found in _offers(lab, cache)
        if versions.contains(candidate.version)
    }
    if len(offers) < 2:
        raise UsageError(
            f"between {between[0]} and {between[1]} the sources of this lab's kernels offer "
            f"{len(offers)} kernels: two are needed",
            hint="`lab kernels --offered` shows what they offer",
        )
    print(f"{scenario.name}: {len(offers)} kernels are on offer there")
    run_dir = create_run_dir(results_dir, new_run_id())
    with orderly_stop() as stop, stopping_when(stop):
        tester = _Tester(lab, cache, scenario, offers, run_dir)
        result = bisect(scenario.name, tuple(offers), tester, watch=_say)
    text = render_bisection(result)
    write_json(run_dir.root / BISECTION_FILE, bisection_values(result))
    (run_dir.root / REPORT_FILE).write_text(text)
    print(f"\n{text}report: {shown_path(run_dir.root / REPORT_FILE)}")
    return judge_bisection(result).exit_status


def _say(event: Next | Tried) -> None:
    print(render_next(event) if isinstance(event, Next) else f"  {render_tried(event)}", flush=True)


def _one_scenario(lab: Lab, pattern: str) -> NamedScenario:
    found = select_scenarios(lab, (pattern,))
    exact = [scenario for scenario in found if scenario.name == pattern]
    if len(exact or found) != 1:
        names = ", ".join(scenario.name for scenario in found[:4])
        raise UsageError(f"{pattern!r} is more than one scenario: {names}", hint="name one of them")
    return (exact or list(found))[0]


def _range(lab: Lab, cache: Cache, between: tuple[str, str]) -> VersionRange:
    """What lies between two kernels, each a version or the name of one of the lab's."""
    known = known_kernels(lab, make_contexts(lab, cache), load_lock(lab))
    ends = []
    for word in between:
        try:
            ends.append(KernelVersion.parse(word))
        except ValueError:
            name, *others = select_kernels(lab, (word,), known)
            if others or name not in known:
                raise UsageError(
                    f"--between {word}: which version is that?",
                    hint="give versions, as in `--between 5.4 6.1`",
                ) from None
            ends.append(KernelVersion.parse(known[name].version))
    older, newer = sorted(ends)
    return VersionRange.parse(f"{older}..{newer}")


def _offers(lab: Lab, cache: Cache) -> list[tuple[Candidate, tuple[Offer, Recipe]]]:
    """Every kernel that the sources of the lab's entries offer, once, the oldest first."""
    contexts = make_contexts(lab, cache)
    found: dict[Candidate, tuple[Offer, Recipe]] = {}
    for name, entry in lab.file.kernels.items():
        try:
            offers = source_of(entry).offers(contexts[name], entry)
        except LabError as error:
            print(f"{name}: {visible(error.message)}", file=sys.stderr)
            continue
        for offer in offers:
            candidate = Candidate(_precise(offer), offer.release)
            found.setdefault(candidate, (offer, contexts[name].recipe))
    return sorted(found.items(), key=lambda pair: pair[0])


def _precise(offer: Offer) -> KernelVersion:
    """A version that tells builds of one base apart: Ubuntu calls all of them 5.4.0."""
    version = KernelVersion.parse(offer.version)
    return version if any(version.numbers[2:]) else KernelVersion.parse(offer.release)


class _Tester:
    """Plays the scenario on one kernel in a guest of its own."""

    def __init__(
        self,
        lab: Lab,
        cache: Cache,
        scenario: NamedScenario,
        offers: Mapping[Candidate, tuple[Offer, Recipe]],
        run_dir: RunDir,
    ) -> None:
        self._lab = lab
        self._cache = cache
        self._scenario = scenario
        self._offers = offers
        self._run_dir = run_dir

    def __call__(self, candidate: Candidate) -> Answer:
        """Test one kernel. Raises ``RunInterruptedError`` once a signal came."""
        offer, recipe = self._offers[candidate]
        plan = KernelPlan(offer.release, offer.entry, recipe, None, (Cell(self._scenario),))
        progress = LineProgress(Plan(self._lab, (plan,), 1), sys.stderr)
        result = Worker(self._lab, plan, self._cache, self._run_dir, progress, Slots(1)).run()
        if process.stopping():
            raise RunInterruptedError
        cell = result.cells[0]
        return Answer(cell.outcome, cell.reason, self._run_dir.kernel(offer.release))
