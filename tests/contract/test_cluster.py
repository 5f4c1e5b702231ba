"""Runs on real schedulers and workers, as processes, with stand-ins for guests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters import daskcluster
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.daskcluster import ClusterError, Credentials, check_address
from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import UsageError
from orchestrator.plan.kernel import ResolvedKernel
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.outcome import Outcome, RunResult
from orchestrator.plan.paths import RunDir
from orchestrator.plan.plan import Plan, resolve_plan
from orchestrator.plan.recipes import load_shipped_recipe
from orchestrator.policy.cluster import ClusterVenue, Wishes
from orchestrator.policy.events import CellDone, Doing, Event, Note
from orchestrator.policy.reports.reading import load_results
from orchestrator.policy.resuming import clear_folder, take_over
from orchestrator.policy.runner import Run, create_run_dir
from tests.clusters import Machines, free_port, make_papers, open_machines
from tests.standin import CODE, FROM, GATE, REAL, TASKS

pytest.importorskip("distributed")

LAB = """\
lab: demo
modules: {mod: src}
kernels:
  "6.1": {image: bookworm, version: "6.1"}
  "5.10": {image: bullseye, version: "5.10"}
scenarios: [a.yaml]
"""
NAMES = tuple(f"n{number}" for number in range(12))
SCENARIOS = "scenarios:\n" + "".join(f'  {n}: {{steps: [{{run: "true"}}]}}\n' for n in NAMES)
KNOWN = {
    "6.1": ResolvedKernel(release="6.1.0-9", version="6.1.9", origin="there", parts=()),
    "5.10": ResolvedKernel(release="5.10.0-9", version="5.10.9", origin="there", parts=()),
}
# Six cells are a share: two for each kernel.
WISHES = Wishes(share_seconds=6.0, wait_seconds=150.0, tasks=TASKS)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    folder = tmp_path / "lab"
    (folder / "src").mkdir(parents=True)
    (folder / "src/Makefile").write_text("obj-m := mod.o\n")
    (folder / "src/mod.c").write_text("/* */\n")
    (folder / "lab.yaml").write_text(LAB)
    (folder / "a.yaml").write_text(SCENARIOS)
    lab = load_lab(folder / "lab.yaml", entry_types())
    recipes = {name: load_shipped_recipe(name) for name in ("bookworm", "bullseye")}
    return resolve_plan(
        lab,
        kernels=tuple(lab.file.kernels),
        scenarios=lab.scenarios,
        recipes=recipes,
        known=KNOWN,
        jobs=1,
    )


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with open_machines(tmp_path / "machines") as found:
        yield found


class Played:
    """A run on a cluster, on a thread of its own."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        address: str,
        wishes: Wishes = WISHES,
        credentials: Credentials | None = None,
        earlier: RunResult | None = None,
    ) -> None:
        self.events: list[Event] = []
        self._said = threading.Condition()
        self.run_dir = (
            RunDir(folder / "results/one") if earlier else create_run_dir(folder / "results", "one")
        )
        venue = ClusterVenue(address, credentials, wishes)
        cache = Cache(folder / "client-cache")
        run = Run(plan, cache, self.run_dir, self._take, venue=venue, earlier=earlier)
        self._pool = ThreadPoolExecutor(1)
        self.stop = threading.Event()
        self._future = self._pool.submit(run.play, self.stop)

    def _take(self, event: Event) -> None:
        with self._said:
            self.events.append(event)
            self._said.notify_all()

    def wait_for(self, is_it: Callable[[Event], bool]) -> Event:
        with self._said:
            found = self._said.wait_for(lambda: next(filter(is_it, self.events), None), 120)
        assert found is not None, self.events
        return found

    def result(self) -> RunResult:
        return self._future.result(180)


def worker_env(folder: Path, name: str, **more: str) -> dict[str, str]:
    return {"LAB_CACHE": str(folder / f"cache-{name}"), **more}


def is_at(name: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Doing) and event.what == f"at {name}"


def assert_all_passed(result: RunResult) -> None:
    for kernel in result.kernels:
        assert [cell.scenario for cell in kernel.cells] == [f"a/{name}" for name in NAMES]
        assert {cell.outcome for cell in kernel.cells} == {Outcome.PASSED}


def test_a_run_comes_back_whole(plan: Plan, machines: Machines, tmp_path: Path) -> None:
    machines.papers = make_papers(tmp_path / "papers")
    machines.start_scheduler()
    for name in ("a", "b"):
        machines.start_worker(name, env=worker_env(tmp_path, name))
    papers = machines.papers
    who = Credentials(papers.ca, papers.cert, papers.key)
    played = Played(plan, tmp_path, machines.address, credentials=who)
    result = played.result()
    assert_all_passed(result)
    assert (result.accelerator, result.accelerator_reason) == ("tcg", "a stand-in")
    assert load_results(played.run_dir.root).kernels == result.kernels
    told = [event.cell for event in played.events if isinstance(event, CellDone)]
    assert len(told) == len(set(map(id, told))) == len(result.cells) == 24
    for kernel in result.kernels:
        # Two shares, each with a boot: the second's evidence lies beside the first's.
        assert (kernel.boots, kernel.retried, len(kernel.hosts)) == (2, (), 1)
        top = played.run_dir.kernel(kernel.name)
        assert (top / "boot-1/console.log").read_text() == "share 0\n"
        assert (top / "share-1/boot-1/console.log").read_text() == "share 1\n"
        for cell in kernel.cells:
            text = (played.run_dir.root / str(cell.evidence) / "transcript.txt").read_text()
            assert text.startswith(f"{cell.scenario} at ")


def test_strangers_get_no_connection(plan: Plan, machines: Machines, tmp_path: Path) -> None:
    machines.papers = make_papers(tmp_path / "papers")
    machines.start_scheduler()
    stranger = make_papers(tmp_path / "stranger")
    who = Credentials(machines.papers.ca, stranger.cert, stranger.key)
    with pytest.raises(ClusterError, match="does not answer"):
        Played(plan, tmp_path, machines.address, credentials=who).result()
    with pytest.raises(UsageError, match="asks for certificates, and none are named"):
        Played(plan, tmp_path, machines.address).result()


def test_what_a_killed_worker_had_is_played_elsewhere(
    plan: Plan, machines: Machines, tmp_path: Path
) -> None:
    machines.start_scheduler()
    machines.start_worker("a", env=worker_env(tmp_path, "a", **{GATE: str(tmp_path / "never")}))
    played = Played(plan, tmp_path, machines.address)
    played.wait_for(is_at("a"))
    machines.start_worker("b", env=worker_env(tmp_path, "b"))
    machines.signal("a", signal.SIGKILL)
    result = played.result()
    assert_all_passed(result)
    (told,) = [line for kernel in result.kernels for line in kernel.retried if "scenario" in line]
    assert told.startswith("6 scenarios once more elsewhere: its worker was lost")
    texts = [event.text for event in played.events if isinstance(event, Note)]
    assert told in texts


def test_what_a_frozen_worker_had_is_played_elsewhere(
    plan: Plan, machines: Machines, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    machines.start_scheduler(ttl="5 s")
    machines.start_worker("a", env=worker_env(tmp_path, "a", **{GATE: str(gate)}))
    played = Played(plan, tmp_path, machines.address)
    played.wait_for(is_at("a"))
    machines.start_worker("b", env=worker_env(tmp_path, "b"))
    machines.signal("a", signal.SIGSTOP)
    result = played.result()
    gate.touch()
    machines.signal("a", signal.SIGCONT)  # what it has to say now, nobody hears
    assert_all_passed(result)
    assert any("its worker was lost" in line for k in result.kernels for line in k.retried)
    assert load_results(played.run_dir.root).kernels == result.kernels


def test_a_worker_with_another_lab_is_left_alone(
    plan: Plan, machines: Machines, tmp_path: Path
) -> None:
    machines.start_scheduler()
    machines.start_worker("a", env=worker_env(tmp_path, "a", **{CODE: "another"}))
    played = Played(plan, tmp_path, machines.address)
    played.wait_for(lambda event: isinstance(event, Note) and "not used any more" in event.text)
    machines.start_worker("b", env=worker_env(tmp_path, "b"))
    result = played.result()
    assert_all_passed(result)
    lines = [line for kernel in result.kernels for line in kernel.retried]
    assert any("is another one than the client's" in line for line in lines)


def test_a_worker_without_a_wall_is_left_alone_where_it_is_required(
    plan: Plan, machines: Machines, tmp_path: Path
) -> None:
    open_dir = tmp_path / "bin"
    open_dir.mkdir()
    (open_dir / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    (open_dir / "bwrap").chmod(0o755)
    path = f"{open_dir}:{os.environ['PATH']}"
    machines.start_scheduler()
    machines.start_worker("a", env=worker_env(tmp_path, "a", PATH=path))
    played = Played(plan, tmp_path, machines.address, replace(WISHES, sandboxed=True))
    played.wait_for(lambda event: isinstance(event, Note) and "not used any more" in event.text)
    machines.start_worker("b", env=worker_env(tmp_path, "b", LAB_ACCEL="tcg"))
    result = played.result()
    assert_all_passed(result)
    lines = [line for kernel in result.kernels for line in kernel.retried]
    assert any("a wall is missing: namespaces of QEMU" in line for line in lines)


def test_a_worker_of_another_version_gets_nothing(
    plan: Plan, machines: Machines, tmp_path: Path
) -> None:
    machines.start_scheduler()
    argv = ("-m", "distributed.cli.dask_worker", machines.address, "--no-nanny", "--no-dashboard")
    machines.start(
        "old",
        (sys.executable, *argv, "--resources", "LAB-0.0.1=1 MEMORY=99999"),
        {},
    )
    machines.wait_for("old", "Registered to:")
    wishes = Wishes(wait_seconds=0.0, tasks=TASKS)
    with pytest.raises(ClusterError, match=r"it has LAB-0\.0\.1, needed is LAB-"):
        Played(plan, tmp_path, machines.address, wishes).result()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_worker_without_room_plays_nothing(
    plan: Plan, machines: Machines, tmp_path: Path
) -> None:
    full, gate = tmp_path / "full", tmp_path / "gate"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(full)], check=True)
    try:
        machines.start_scheduler()
        machines.start_worker("a", env={"LAB_CACHE": str(full / "cache"), REAL: "1"})
        machines.start_worker("b", env=worker_env(tmp_path, "b", **{GATE: str(gate)}))
        played = Played(plan, tmp_path, machines.address)
        played.wait_for(lambda event: isinstance(event, Note) and "No space left" in event.text)
        gate.touch()
        result = played.result()
    finally:
        machines.signal("a", signal.SIGKILL)
        subprocess.run(["umount", "-l", str(full)], check=True)
    assert_all_passed(result)
    lines = [line for kernel in result.kernels for line in kernel.retried]
    assert any("No space left" in line for line in lines)


def test_a_dead_scheduler_costs_what_is_not_judged(
    plan: Plan, machines: Machines, tmp_path: Path
) -> None:
    machines.start_scheduler()
    gate = {GATE: str(tmp_path / "never"), FROM: "1"}
    machines.start_worker("a", env=worker_env(tmp_path, "a", **gate))
    played = Played(plan, tmp_path, machines.address)
    played.wait_for(lambda event: isinstance(event, CellDone))
    machines.signal("scheduler", signal.SIGKILL)
    with pytest.raises(ClusterError, match="is gone") as caught:
        played.result()
    assert "--resume" in caught.value.hint
    before = load_results(played.run_dir.root)
    judged = {(cell.kernel, cell.scenario) for cell in before.cells}
    assert before.interrupted
    assert 0 < len(judged) < 24
    earlier = take_over(before, plan)
    clear_folder(played.run_dir, earlier)
    with open_machines(tmp_path / "more") as more:
        more.start_scheduler()
        more.start_worker("c", env=worker_env(tmp_path, "c"))
        again = Played(plan, tmp_path, more.address, earlier=earlier)
        assert_all_passed(again.result())
    told = {(e.cell.kernel, e.cell.scenario) for e in again.events if isinstance(e, CellDone)}
    assert not told & judged


def test_a_scheduler_that_hangs_is_taken_for_gone(
    plan: Plan, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daskcluster, "ASK_SECONDS", 2.0)
    machines.start_scheduler()
    machines.start_worker("a", env=worker_env(tmp_path, "a", **{GATE: str(tmp_path / "never")}))
    played = Played(plan, tmp_path, machines.address)
    played.wait_for(is_at("a"))
    machines.signal("scheduler", signal.SIGSTOP)
    with pytest.raises(ClusterError, match="is gone"):
        played.result()


def test_an_interrupted_run_says_so(plan: Plan, machines: Machines, tmp_path: Path) -> None:
    machines.start_scheduler()
    machines.start_worker("a", env=worker_env(tmp_path, "a", **{GATE: str(tmp_path / "never")}))
    played = Played(plan, tmp_path, machines.address)
    played.wait_for(is_at("a"))
    played.stop.set()
    result = played.result()
    assert result.interrupted
    assert {cell.outcome for cell in result.cells} == {Outcome.SKIPPED}
    end = time.monotonic() + 60
    while not (tmp_path / "never.ended").exists():  # what the worker was at, too
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_kernel_of_this_machine_is_not_sent(plan: Plan, tmp_path: Path) -> None:
    folder = plan.lab.path.parent
    entry = "{image: bookworm, path: {kernel: k, modules: m, build: b}}"
    (folder / "lab.yaml").write_text(LAB.replace("scenarios:", f"  mine: {entry}\nscenarios:"))
    lab = load_lab(folder / "lab.yaml", entry_types())
    recipes = {"bookworm": load_shipped_recipe("bookworm")}
    mine = resolve_plan(
        lab,
        kernels=("mine",),
        scenarios=lab.scenarios,
        recipes=recipes,
        known={"mine": KNOWN["6.1"]},
        jobs=1,
    )
    with pytest.raises(UsageError, match="are not sent to a cluster: mine"):
        Played(mine, tmp_path, "tcp://127.0.0.1:1").result()


def test_nobody_at_the_address_is_told(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="does not answer"):
        Played(plan, tmp_path, f"tcp://127.0.0.1:{free_port()}").result()


@pytest.mark.parametrize(
    "address",
    ["tcp://192.0.2.1:8786", "tcp://scheduler:8786", "ws://192.0.2.1:80", "tcp://[2001:db8::1]:1"],
)
def test_an_open_scheduler_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="neither encrypted nor authenticated"):
        check_address(address, insecure=False)
    check_address(address, insecure=True)


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:1", "tls://there:8786"]
)
def test_others_are_taken(address: str) -> None:
    check_address(address, insecure=False)


@pytest.mark.parametrize("address", ["", "there:8786", "127.0.0.1:8786", "tcp://", "://there:1"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a scheduler"):
        check_address(address, insecure=True)
