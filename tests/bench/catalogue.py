"""What is measured, what each figure is compared with, and what it should be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from orchestrator.adapters.cache import Cache
from orchestrator.plan.model import Lab
from tests.bench import runs
from tests.bench.guests import Guests
from tests.bench.measuring import Measurement, NotMeasurableError
from tests.bench.values import Figure, Target, slope
from tests.bench.virtme import Virtme, has_daemon, way_into

RUN_SECONDS = 3600.0
COLD_SECONDS = 4 * 3600.0
WARMING_SCENARIO = "helloworld/comes-and-goes-with-its-module"
MATRICES = (1, 2, 4, 8)
# What the matrices of 1 to 8 kernels play: a part, or the bench would take an hour.
MATRIX_SCENARIOS = "helloworld"

# With which other figure each one is compared.
BESIDE: Mapping[str, str] = {
    "help": "python",
    "dry-run": "python",
    "fork": "bare",
    "cold": "fork",
    "virtme.fork": "virtme",
    "virtme.cold": "virtme",
    "scenario.cpu": "cold.cpu",
    "scenario.wall": "cold",
    "build.host": "build.guest",
    "build.cached": "build.guest",
    "run.cpu": "run.wall",
    "default.wall": "run.wall",
    "matrix-cold": "default.wall",
    "memory.pss": "memory.guest",
    "memory.private": "memory.guest",
    "memory.lost": "memory.guest",
    **{f"matrix-{count}": "matrix-1" for count in MATRICES[1:]},
}
# Without KVM, on two cores.
TARGETS = (
    Target("help", 0.15),
    Target("dry-run", 0.4),
    Target("fork", 0.5),
    Target("virtme.fork", 1 / 20, of="virtme"),
    Target("virtme.cold", 1 / 3, of="virtme"),
    Target("scenario.cpu", 0.6),
    Target("build.host", 1 / 20, of="build.guest"),
    Target("build.again", 0),
    Target("run.wall", 20),
    Target("default.wall", 60),
    Target("memory.pss", 100),
    Target("memory.private", 100),
    Target("forks.stale", 0),
    Target("forks.corrupt", 0),
    Target("forks.failed", 0),
    Target("forks.memory", 5),
    Target("forks.files", 0),
    Target("forks.disk", 1),
)


@dataclass(frozen=True)
class Wish:
    """What is asked of a bench."""

    kernel: str
    repeats: int
    """How often quick things are taken; others less often."""
    forks: int = 0
    cold: bool = False


class Catalogue:
    """All measurements, and what they share; guests are gone when ``guests`` are closed."""

    def __init__(
        self, lab: Lab, cache: Cache, folder: Path, virtme_dir: Path, wish: Wish, guests: Guests
    ) -> None:
        self._lab = lab
        self._cache = cache
        self._folder = folder
        self._virtme_dir = virtme_dir
        self._wish = wish
        self._guests = guests
        self._warm: set[str] = set()
        self._has_built = False

    def groups(self) -> tuple[tuple[Measurement, ...], ...]:
        """All measurements; those of one group take turns."""
        often = self._wish.repeats
        some = max(2, often // 3)
        few = max(1, often // 5)
        guests, wished = self._guests, self._wish.kernel
        return (
            (
                _one("python", "Python that does nothing", often, self._python),
                _one("help", "lab --help", often, self._help),
                _one("dry-run", "lab run --dry-run", often, self._dry_run),
            ),
            (
                _one("bare", "QEMU loads the frozen state, nothing asked", often, guests.bare),
                _timed("fork", "fork to first command", often, guests.fork),
                _timed("cold", "cold boot to first command", some, guests.cold),
            ),
            (
                Measurement(
                    "memory",
                    (
                        Figure("memory.guest", "memory that the guest sees", "MB"),
                        Figure("memory.pss", "one more guest, PSS", "MB"),
                        Figure("memory.private", "one more guest, private", "MB"),
                        Figure("memory.lost", "one more guest, lost to others", "MB"),
                    ),
                    some,
                    self._memory,
                ),
            ),
            (
                Measurement(
                    "scenario",
                    (
                        Figure("scenario.cpu", "one more scenario, processor time"),
                        Figure("scenario.wall", "one more scenario"),
                    ),
                    some,
                    self._scenario,
                ),
            ),
            (
                Measurement(
                    "build",
                    (
                        Figure("build.guest", "four modules built in the guest"),
                        Figure("build.host", "the same on the host"),
                        Figure("build.cached", "the same from the cache"),
                        Figure("build.again", "folders built though cached", ""),
                    ),
                    few,
                    self._build,
                ),
            ),
            (
                _one("virtme", "virtme-ng to the answer of uname -r", some, self._virtme_ng),
                _timed("virtme.fork", "fork, on virtme-ng's kernel", often, self._peer_fork),
                _timed("virtme.cold", "cold boot, on virtme-ng's kernel", some, self._peer_cold),
            ),
            (
                Measurement(
                    "run",
                    (
                        Figure("run.wall", f"lab run --kernel {wished}, warm"),
                        Figure("run.cpu", "the same, processor time"),
                    ),
                    few,
                    partial(self._lab_run, "run", [wished], *_kernel_words([wished])),
                ),
                Measurement(
                    "default",
                    (
                        Figure("default.wall", "default matrix, warm"),
                        Figure("default.cpu", "the same, processor time"),
                    ),
                    few,
                    partial(self._lab_run, "default", self._default),
                ),
            ),
            tuple(
                _one(f"matrix-{count}", f"{count} kernels", few, partial(self._matrix, count))
                for count in MATRICES
            ),
            (_one("matrix-cold", "default matrix, empty cache", 1, self._matrix_cold),),
            (
                Measurement(
                    "forks",
                    (
                        Figure("forks.each", "fork, looked into, ended, in a row"),
                        Figure("forks.stale", "forks that knew an earlier one", ""),
                        Figure("forks.corrupt", "forks that were not as the first", ""),
                        Figure("forks.failed", "forks that failed", ""),
                        Figure("forks.memory", "the lab's memory grew by", "MB"),
                        Figure("forks.files", "descriptors left open", ""),
                        Figure("forks.disk", "the disk lost", "MB"),
                    ),
                    1,
                    self._endure,
                ),
            ),
        )

    # --- the command line ----------------------------------------------------------------

    def _python(self) -> Mapping[str, float]:
        return {"python": runs.run_process(runs.PYTHON, seconds=60).wall}

    def _help(self) -> Mapping[str, float]:
        return {"help": runs.run_process((*runs.LAB, "--help"), seconds=60).wall}

    def _dry_run(self) -> Mapping[str, float]:
        return {"dry-run": runs.run_process((*runs.LAB, "run", "--dry-run"), seconds=60).wall}

    # --- beside virtme-ng ----------------------------------------------------------------

    @cached_property
    def _peer(self) -> Guests | None:
        """Guests of a kernel that virtme-ng can boot here: the bench's own, if it can.

        None where it can boot none of the default kernels.
        """
        daemon = has_daemon()
        for name in self._default:
            guests = self._guests
            if name != self._wish.kernel:
                folder = self._folder / "virtme"
                guests = Guests(self._lab, self._cache, name, folder)
            config = guests.ready.kernel.config_path.read_text(errors="replace")
            if way_into(config, daemon) is not None:
                return guests
        return None

    @property
    def peer_kernel(self) -> str:
        """The kernel of the comparison with virtme-ng, as far as that was looked for."""
        peer = self.__dict__.get("_peer")
        return "" if peer is None else str(peer.kernel)

    def close(self) -> None:
        """End the guests that this made itself."""
        peer = self.__dict__.get("_peer")
        if peer is not None and peer is not self._guests:
            peer.__exit__()

    def _have_peer(self) -> Guests:
        if self._peer is None:
            raise NotMeasurableError(
                "virtme-ng can boot none of the default kernels here: they have no 9p, and there "
                "is no virtiofsd (the one in Rust; package virtiofsd)"
            )
        return self._peer

    @cached_property
    def _virtme(self) -> Virtme:
        return Virtme(self._virtme_dir, self._cache, self._have_peer().ready)

    def virtme_version(self) -> str:
        """What virtme-ng calls itself; empty where it was not run."""
        virtme = self.__dict__.get("_virtme")
        return "" if virtme is None else str(virtme.version())

    def _virtme_ng(self) -> Mapping[str, float]:
        return self._virtme.answer()

    def _peer_fork(self) -> Mapping[str, float]:
        return self._have_peer().fork("virtme.fork")

    def _peer_cold(self) -> Mapping[str, float]:
        return self._have_peer().cold("virtme.cold")

    # --- whole runs ----------------------------------------------------------------------

    def _scenario(self) -> Mapping[str, float]:
        """What one more scenario costs: the slope between a run of few and one of many."""
        counts = (2, 12) if self._wish.repeats < 10 else (5, 45)
        self._warm_up([self._wish.kernel])
        walls, processors = [], []
        for count in counts:
            path = runs.write_lab(
                *(self._folder / "lab", self._lab, self._wish.kernel),
                build="auto",
                scenarios=count,
            )
            with runs.lab_run(self._folder, ("--lab", str(path)), seconds=RUN_SECONDS) as (took, _):
                walls.append((count, took.wall))
                processors.append((count, took.processor))
        return {"scenario.cpu": slope(*processors), "scenario.wall": slope(*walls)}

    def _build(self) -> Mapping[str, float]:
        """Each with a cache that has no modules, and then with what that build left there."""
        if not self._has_built:  # what boxes build in is unpacked once, for all modules
            self._warm_up([self._wish.kernel])
            self._built_by("host", afresh=True)
            self._has_built = True
        seconds = {}
        seconds["build.host"], by = self._built_by("host", afresh=True)
        if by != {"host"}:
            raise ValueError(f"it was to be built on the host, and was in: {', '.join(by)}")
        seconds["build.cached"], by = self._built_by("host", afresh=False)
        again = float(by != {"cache"})
        seconds["build.guest"], by = self._built_by("guest", afresh=True)
        if by != {"guest"}:
            raise ValueError(f"it was to be built in the guest, and was in: {', '.join(by)}")
        return {**seconds, "build.again": again}

    def _built_by(self, place: str, *, afresh: bool) -> tuple[float, set[str]]:
        """How long a run took to have the modules, and who built them."""
        cache_dir = self._folder / "cache"
        if afresh:
            runs.write_cache(cache_dir, self._cache.root)
        path = runs.write_lab(
            *(self._folder / "lab", self._lab, self._wish.kernel), build=place, scenarios=1
        )
        env = {"LAB_CACHE": str(cache_dir)}
        words = ("--lab", str(path))
        with runs.lab_run(self._folder, words, seconds=RUN_SECONDS, env=env) as (_, results):
            (kernel,) = results["kernels"]
            return float(kernel["build_seconds"]), {each["by"] for each in kernel["builds"]}

    def _memory(self) -> Mapping[str, float]:
        guest = self._guests.plan.spec.memory_mib * (1 << 20) / 1e6
        return {**self._guests.memory(), "memory.guest": guest}

    def _warm_up(self, kernels: Iterable[str]) -> None:
        """Have all of these kernels in the cache, and the modules built for them: what is warm."""
        if cold := [name for name in kernels if name not in self._warm]:
            words = (*_kernel_words(cold), "--scenario", WARMING_SCENARIO)
            with runs.lab_run(self._folder, words, seconds=COLD_SECONDS):
                self._warm.update(cold)

    def _lab_run(self, name: str, kernels: Sequence[str], *words: str) -> Mapping[str, float]:
        self._warm_up(kernels)
        with runs.lab_run(self._folder, words, seconds=RUN_SECONDS) as (took, _):
            return {f"{name}.wall": took.wall, f"{name}.cpu": took.processor}

    def _matrix(self, count: int) -> Mapping[str, float]:
        """So many kernels at a time: the default ones first, then others of the lab."""
        names = list(dict.fromkeys((*self._default, *self._lab.file.kernels)))[:count]
        self._warm_up(names)
        words = (*_kernel_words(names), "--scenario", MATRIX_SCENARIOS)
        with runs.lab_run(self._folder, words, seconds=RUN_SECONDS) as (took, _):
            return {f"matrix-{count}": took.wall}

    @property
    def _default(self) -> tuple[str, ...]:
        """The kernels that are measured with, that of the wish first."""
        return tuple(dict.fromkeys((self._wish.kernel, *self._lab.file.groups.get("quick", ()))))

    def _matrix_cold(self) -> Mapping[str, float]:
        if not self._wish.cold:
            raise NotMeasurableError("not asked for: --cold downloads some 1.5 GB")
        cache_dir = self._folder / "empty"
        env = {"LAB_CACHE": str(cache_dir)}
        try:
            with runs.lab_run(self._folder, (), seconds=COLD_SECONDS, env=env) as (took, _):
                return {"matrix-cold": took.wall}
        finally:
            shutil.rmtree(cache_dir, ignore_errors=True)

    def _endure(self) -> Mapping[str, float]:
        if not self._wish.forks:
            raise NotMeasurableError("not asked for: --forks 2000 takes half an hour")
        return self._guests.endure(self._wish.forks)


def _kernel_words(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for name in names for word in ("--kernel", name))


def _one(
    name: str, title: str, repeats: int, take: Callable[[], Mapping[str, float]]
) -> Measurement:
    """A measurement of one figure, of its own name, in seconds."""
    return Measurement(name, (Figure(name, title),), repeats, take)


def _timed(
    name: str, title: str, repeats: int, take: Callable[[], Mapping[str, float]]
) -> Measurement:
    """One that gives the processor time of QEMU, too."""
    figures = (Figure(name, title), Figure(f"{name}.cpu", f"{title}, QEMU's processor time"))
    return Measurement(name, figures, repeats, take)


def select(
    groups: Sequence[Sequence[Measurement]], only: Sequence[str]
) -> tuple[tuple[Measurement, ...], ...]:
    """The measurements of these names, or all; whoever is compared with one stays with it.

    Raises ``ValueError`` for a name that there is not.
    """
    names = [each.name for group in groups for each in group]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"there is no {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [tuple(each for each in group if not only or each.name in only) for group in groups]
    return tuple(group for group in chosen if group)
