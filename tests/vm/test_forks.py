"""Scenarios in forks of one booted guest: apart from each other, and judged on their own."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.cache import default_cache_dir

from .conftest import LABS, Ran, run_lab

LAB = LABS / "forks/lab.yaml"
PANICS = ("panics-late", "panics-soon")
WELL = ("leaves-traces", "sees-no-traces", "draws", "draws-too", "is-well-meanwhile", "reboots")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_lab(tmp_path_factory.mktemp("forks"), "--lab", LAB)


def cell(ran: Ran, name: str) -> dict[str, Any]:
    return ran.cells()["6.1", f"scenarios/{name}"]


def said(ran: Ran, name: str, step: int) -> str:
    return str(cell(ran, name)["steps"][step]["command"]["stdout"]["text"])


@pytest.mark.parametrize("name", WELL)
def test_a_scenario_has_its_guest_to_itself(ran: Ran, name: str) -> None:
    assert cell(ran, name)["outcome"] == "passed", cell(ran, name)["reason"]


@pytest.mark.parametrize("name", PANICS)
def test_what_comes_late_is_the_scenarios_own(ran: Ran, name: str) -> None:
    assert cell(ran, name)["outcome"] == "failed"
    assert {finding["kind"] for finding in cell(ran, name)["findings"]} & {"oops", "panic"}


@pytest.mark.parametrize("name", PANICS)
def test_the_line_of_code_that_is_gone_is_named(ran: Ran, name: str) -> None:
    """The module was unloaded, and the kernel has no name for its addresses any more."""
    culprit = cell(ran, name)["findings"][0]["culprit"]
    assert (culprit["function"], culprit["file"]) == ("late_fire", "late.c")


def test_one_boot_does_for_all(ran: Ran) -> None:
    """One, and that of the scenario that reboots."""
    (kernel,) = ran.results["kernels"]
    assert (ran.boots, kernel["forks"], kernel["fork_note"]) == (2, 8, "")


def test_forks_draw_different_random_numbers(ran: Ran) -> None:
    drawn = [said(ran, name, 0).splitlines() for name in ("draws", "draws-too")]
    assert len(drawn[0]) == len(drawn[1]) == 2
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_a_fork_knows_what_time_it_is(ran: Ran) -> None:
    """Within what the whole run may have taken since."""
    for name in ("draws", "draws-too"):
        assert abs(time.time() - int(said(ran, name, 1))) < 600


def test_the_guest_of_each_scenario_leaves_its_console(ran: Ran) -> None:
    folder = ran.run_dir / cell(ran, "panics-late")["evidence"]
    assert "Kernel panic" in (folder / "guest/console.log").read_text()
    assert "share=off" in (folder / "guest/argv").read_text()


QEMU_NAME = "qemu-system-x86_64"
CANNOT_GO_ON = 'case "$*" in *" -incoming "*) echo "no incoming here" >&2; exit 1;; esac'
# Changes one argument; sh has no arrays, so each is put behind the others in turn.
CHANGED = """\
for each; do
	shift
	case $each in
	{pattern}) set -- "$@" "{change}" ;;
	*) set -- "$@" "$each" ;;
	esac
done"""
CANNOT_BE_CALLED = CHANGED.format(pattern="*,guestfwd=*", change="${each%%,guestfwd=*}")
DOES_NOT_ANSWER = 'case "$*" in *" -incoming "*) {} ;; esac'.format(
    CHANGED.format(pattern="socket,id=dialled,*", change="null,id=dialled")
)

# It leaves a mark beside itself when it boots a guest (there is an initrd, and it is no fork).
GOES_ON_ONLY_AFTER_A_BOOT = """\
mark=$(dirname "$0")/booted
case "$*" in
*" -incoming "*) [ -e "$mark" ] || { echo "not so" >&2; exit 1; } ;;
*" -initrd "*) : >"$mark" ;;
esac"""


@pytest.fixture
def with_qemu(open_dir: Path) -> Callable[[str], dict[str, str]]:
    """An environment whose QEMU first does something to its arguments."""

    def make(script: str) -> dict[str, str]:
        qemu = shutil.which(QEMU_NAME)
        assert qemu is not None
        (open_dir / QEMU_NAME).write_text(f'#!/bin/sh\n{script}\nexec {qemu} "$@"\n')
        (open_dir / QEMU_NAME).chmod(0o755)
        return {"PATH": f"{open_dir}:{os.environ['PATH']}"}

    return make


WithQemu = Callable[[str], dict[str, str]]


@pytest.mark.parametrize(
    ("script", "note"),
    [
        (CANNOT_BE_CALLED, r"forks are connected to anew: "),
        (DOES_NOT_ANSWER, r"a fork was made once more: no end by its deadline"),
    ],
)
def test_where_no_connection_survives_forks_are_connected_to_anew_and_it_is_said(
    tmp_path: Path, with_qemu: WithQemu, script: str, note: str
) -> None:
    ran = run_lab(tmp_path, "--lab", LAB, "-s", "scenarios/*traces", env=with_qemu(script))
    (kernel,) = ran.results["kernels"]
    assert kernel["fork_note"].startswith(note)
    assert kernel["fork_note"] in " ".join(ran.output.split())
    assert (ran.boots, kernel["forks"]) == (1, 2)
    for name in ("leaves-traces", "sees-no-traces"):
        assert cell(ran, name)["outcome"] == "passed", cell(ran, name)["reason"]


def test_where_guests_cannot_be_forked_they_are_shared_and_it_is_said(
    tmp_path: Path, with_qemu: WithQemu
) -> None:
    env = with_qemu(CANNOT_GO_ON)
    ran = run_lab(tmp_path, "--lab", LAB, "-s", "scenarios/*traces", env=env)
    assert "scenarios share guests: QEMU did not start" in ran.output
    (kernel,) = ran.results["kernels"]
    assert "no incoming here" in kernel["fork_note"]
    assert (ran.boots, kernel["forks"]) == (2, 0)
    assert cell(ran, "leaves-traces")["outcome"] == "passed"
    # That is what sharing means: what the first one wrote is there.
    assert cell(ran, "sees-no-traces")["outcome"] == "failed"


# --- what an earlier run froze ---------------------------------------------------------------


@pytest.fixture(scope="module")
def lab_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab, with a kernel argument that no other guest has: nobody froze such a one before."""
    folder = tmp_path_factory.mktemp("own") / "lab"
    shutil.copytree(LAB.parent, folder)
    with (folder / "lab.yaml").open("a") as file:
        file.write(f"guest: {{arguments: [lab_test={secrets.token_hex(8)}]}}\n")
    return folder / "lab.yaml"


KEEPING = {"LAB_FROZEN_GIB": "4"}


def play_traces(lab: Path, results_dir: Path, *, env: dict[str, str] | None = None) -> Ran:
    """Two scenarios, both of which pass in any fork."""
    arguments = ("--lab", lab, "-s", "scenarios/*traces")
    ran = run_lab(results_dir, *arguments, env={**KEEPING, **(env or {})})
    for name in ("leaves-traces", "sees-no-traces"):
        assert cell(ran, name)["outcome"] == "passed", cell(ran, name)["reason"]
    return ran


def test_the_second_run_boots_nothing(lab_of_its_own: Path, tmp_path: Path) -> None:
    ran = play_traces(lab_of_its_own, tmp_path / "1")
    (first,) = ran.results["kernels"]
    assert (first["was_frozen"], ran.boots, first["forks"]) == (False, 1, 2)
    ran = play_traces(lab_of_its_own, tmp_path / "2")
    (second,) = ran.results["kernels"]
    assert (second["was_frozen"], second["boots"], second["forks"]) == (True, 0, 2)
    assert second["fork_note"] == ""
    assert second["boot_seconds"] is None
    assert "Linux version" in (ran.run_dir / "6.1/frozen.log").read_text()
    assert (
        "of a guest that an earlier run booted and froze"
        in (ran.run_dir / "report.txt").read_text()
    )


def test_with_another_module_the_guest_is_another_and_from_then_on_it_takes_no_boot(
    lab_of_its_own: Path, tmp_path: Path
) -> None:
    play_traces(lab_of_its_own, tmp_path / "1")
    source = lab_of_its_own.parent / "module/late.c"
    text = source.read_text()
    try:
        for number in (1, 2):
            source.write_text(f"{text}\nint late_changed_{number};\n")
            ran = play_traces(lab_of_its_own, tmp_path / f"changed-{number}")
            (kernel,) = ran.results["kernels"]
            # One without modules is kept from the second time on.
            assert (kernel["was_frozen"], ran.boots) == (number == 2, 2 - number)
            assert kernel["fork_note"] == ""
            built = (ran.run_dir / "6.1/modules/late/late.ko").read_bytes()
            assert f"late_changed_{number}".encode() in built
            loaded = said(ran, "leaves-traces", 3)
            assert loaded.split()[0] == hashlib.sha256(built).hexdigest()
            assert "share=on" in (ran.run_dir / "6.1/furnished/argv").read_text()
        ran = play_traces(lab_of_its_own, tmp_path / "again")
        assert "Linux version" in (ran.run_dir / "6.1/frozen.log").read_text()
        assert said(ran, "leaves-traces", 3) == loaded
    finally:
        source.write_text(text)


def test_a_frozen_guest_that_does_not_go_on_is_told_and_another_is_booted(
    lab_of_its_own: Path, tmp_path: Path, with_qemu: WithQemu
) -> None:
    """A QEMU, the same as before, that goes on with no guest but those that it booted itself."""
    env = with_qemu(GOES_ON_ONLY_AFTER_A_BOOT)
    beside = Path(env["PATH"].partition(":")[0])
    beside.chmod(0o777)  # QEMU runs as nobody
    play_traces(lab_of_its_own, tmp_path / "1", env=env)
    (beside / "booted").unlink()
    ran = play_traces(lab_of_its_own, tmp_path / "2", env=env)
    (kernel,) = ran.results["kernels"]
    assert (kernel["was_frozen"], ran.boots, kernel["forks"]) == (False, 1, 2)
    told = kernel["fork_note"]
    assert re.match("the guest that was frozen .* does not go on: QEMU did not start: not so", told)
    assert told.endswith("another was booted")


def test_only_what_is_whole_goes_on(lab_of_its_own: Path, tmp_path: Path) -> None:
    play_traces(lab_of_its_own, tmp_path / "1")
    for kept in (default_cache_dir() / "frozen").iterdir():
        if kept.stat().st_mtime >= lab_of_its_own.stat().st_mtime:
            with (kept / "memory").open("r+b") as file:
                file.seek(32 << 20)
                file.write(b"something else")
    ran = play_traces(lab_of_its_own, tmp_path / "2")
    (kernel,) = ran.results["kernels"]
    assert (kernel["was_frozen"], ran.boots) == (False, 1)
