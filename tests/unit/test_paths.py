"""Where things are."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.adapters.initramfs import SCRIPTS
from orchestrator.plan.paths import RunDir, guest_dir, new_run_id, shipped_images_dir, tool_dir


def test_what_is_shipped_is_there() -> None:
    assert (shipped_images_dir() / "bookworm.yaml").is_file()
    for name in SCRIPTS.values():
        assert (guest_dir() / name).is_file()
    assert {path.name for path in tool_dir().iterdir()} >= {"sysio.c", "agent.c", "tool.h"}


def test_a_runs_name_sorts_by_its_time_and_is_not_taken_twice() -> None:
    names = {new_run_id() for _ in range(50)}
    assert len(names) > 40
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", name) for name in names)


def test_everything_of_a_run_is_below_its_folder() -> None:
    run = RunDir(Path("/results/1"))
    assert run.kernel("6.1") == Path("/results/1/6.1")
    assert run.boot("6.1", 2) == Path("/results/1/6.1/boot-2")
    assert run.modules("6.1") == Path("/results/1/6.1/modules")
    assert run.cell("6.1", "all/loading") == Path("/results/1/6.1/scenarios/all.loading")


def test_the_cells_of_a_run_have_folders_of_their_own() -> None:
    run = RunDir(Path("/results"))
    cells = {run.cell(kernel, name) for kernel in ("5.4", "6.1") for name in ("a/b", "a/c", "b/c")}
    assert len(cells) == 6
