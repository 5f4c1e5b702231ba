"""Modules are the same, byte for byte, whoever builds them: a guest, or a box on the host."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.box import Box
from orchestrator.adapters.cache import default_cache_dir, sha256_of
from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import HostError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import BuildPlace

from .conftest import REPOSITORY, Ran, run_lab

LAB = load_lab(REPOSITORY / "lab.yaml", entry_types())
IN_CI = ("6.1",)
SCENARIO = "helloworld/is-whole-for-many-readers"
MODULES = {f"{name}.ko" for name in ("procfs1", "procfs2", "procfs3", "procfs4", "squatter")}
# All that a run needs of the cache, and may fill, but the modules.
SHARED = (
    *("accelerator", "apt", "images", "initramfs", "kernels", "keyrings", "locks"),
    *("resolved", "roots", "trees"),
)

Play = Callable[[str, BuildPlace], Ran]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Runs one scenario of this repository's lab; nothing has been built for it before, unless
    by an earlier run for the same place.
    """
    for place in ("guest", "host"):
        (tmp_path / f"cache-{place}").mkdir()
        for kind in SHARED:
            (default_cache_dir() / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / f"cache-{place}" / kind).symlink_to(default_cache_dir() / kind)
    shutil.copytree(REPOSITORY / "kmod", tmp_path / "lab/kmod")
    text = (REPOSITORY / "lab.yaml").read_text()

    def play(kernel: str, place: BuildPlace) -> Ran:
        (tmp_path / "lab/lab.yaml").write_text(f"{text}\nbuild: {place}\n")
        results = tmp_path / f"results-{len(list(tmp_path.iterdir()))}"
        cache = tmp_path / f"cache-{place}"
        return run_lab(
            *(results, "--lab", tmp_path / "lab/lab.yaml", "-k", kernel, "-s", SCENARIO),
            env={"LAB_CACHE": str(cache), "LAB_ACCEL": "tcg"},
        )

    return play


def hashes(ran: Ran, kernel: str) -> dict[str, str]:
    folder = ran.run_dir / kernel / "modules/procfs"
    return {path.name: sha256_of(path) for path in folder.glob("*.ko")}


def builds(ran: Ran) -> list[dict[str, Any]]:
    (kernel,) = ran.results["kernels"]
    assert kernel["build_note"] == ""
    found: list[dict[str, Any]] = kernel["builds"]
    return found


@pytest.mark.parametrize(
    "kernel",
    [
        name if name in IN_CI else pytest.param(name, marks=pytest.mark.nightly)
        for name in LAB.file.kernels
    ],
)
def test_host_and_guest_build_the_same_bytes_and_each_once(play: Play, kernel: str) -> None:
    try:
        Box(Path("/")).check()
    except HostError as error:
        pytest.skip(f"no boxes here: {error.message}")
    in_guest = play(kernel, "guest")
    assert [build["by"] for build in builds(in_guest)] == ["guest"]
    assert "modules: procfs built in the guest (" in (in_guest.run_dir / "report.txt").read_text()
    on_host = play(kernel, "host")
    assert [build["by"] for build in builds(on_host)] == ["host"]
    assert "modules: procfs built on the host (" in (on_host.run_dir / "report.txt").read_text()
    assert hashes(in_guest, kernel).keys() == MODULES
    assert hashes(on_host, kernel) == hashes(in_guest, kernel)

    again = play(kernel, "host")
    assert [build["by"] for build in builds(again)] == ["cache"]
    assert "modules: procfs cached\n" in (again.run_dir / "report.txt").read_text()
    assert hashes(again, kernel) == hashes(in_guest, kernel)
    # What was built in any place is loaded in the guest, and does what it should.
    assert [ran.status for ran in (in_guest, on_host, again)] == [0, 0, 0]
