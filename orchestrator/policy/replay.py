"""A scenario played again up to a step, in a guest that stays for a person to look at."""

from __future__ import annotations

from orchestrator.adapters.cache import sha256_of
from orchestrator.adapters.symbols import Symbols
from orchestrator.plan.model import NamedScenario
from orchestrator.plan.outcome import StepResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.places import hash_scenario
from orchestrator.plan.replaying import Parts, Past
from orchestrator.policy.play import Play
from orchestrator.policy.session import Session


class Replay(Play):
    """A play that is left where it is: nothing is unloaded, and nothing is judged."""

    def __init__(self, session: Session, scenario: NamedScenario) -> None:
        folder = session.run_dir.cell(session.plan.name, scenario.name)
        super().__init__(session.guest, scenario, "replay", folder, Symbols())

    def play_before(self, number: int) -> tuple[StepResult, ...]:
        """Play the steps before one, whose number counts from 1; what came of them.

        It ends earlier where one of them fails, or the guest does (``lost``). Raises
        ``RunInterruptedError`` alone.
        """
        self.open()
        for step in self._named.all_steps[: number - 1]:
            if self._course.stopped:
                break
            self._play_step(step)
        return tuple(self._course.steps)

    @property
    def lost(self) -> str:
        """Why the guest can do nothing more, where that is so."""
        return self._course.error or self._course.broken

    @property
    def complaints(self) -> tuple[str, ...]:
        """What the kernel complained of, in a line each; not made safe."""
        return tuple(f"{found.kind}: {found.headline}" for found in self._findings(None))


def parts_before(past: Past, run_dir: RunDir) -> Parts:
    """What a cell was made of, from the run's result, and from the modules in its folder."""
    identity = past.kernel.identity
    built = run_dir.modules(past.kernel.name).glob("*/*.ko")
    return Parts(
        release=identity.release if identity else "",
        kernel_sha256=identity.kernel_sha256 if identity else "",
        scenario_sha256=past.scenario_sha256,
        modules={_plain(path.stem): sha256_of(path) for path in sorted(built) if path.is_file()},
    )


def parts_now(session: Session, scenario: NamedScenario) -> Parts:
    """What the cell would be made of in this session."""
    modules = session.built.modules
    wanted = [name for each in scenario.modules if (name := _plain(each)) in modules]
    return Parts(
        release=session.ready.kernel.release,
        kernel_sha256=session.ready.kernel.vmlinuz_sha256,
        scenario_sha256=hash_scenario(scenario),
        modules={name: sha256_of(modules[name].path) for name in wanted},
    )


def _plain(name: str) -> str:
    return name.replace("-", "_")
