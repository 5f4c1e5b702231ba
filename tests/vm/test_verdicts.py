"""Verdicts on scenarios whose outcomes are known, good and bad, in one run of real guests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import LABS, Ran, run_lab

PASSED = (
    "quiet",
    "log-window",
    "load-fails-as-expected",
    "load-twice",
    "unload-of-nothing",
    "files",
    "background",
    "forged-log",
    "reboot",
    "warns-as-expected",
    "warns-as-allowed",
    "oops-leaves-no-trace-behind",
    "bug-as-expected",
    "panics-as-expected",
    "last-but-healthy",
    "litters-nothing",
    "litters-as-it-may",
    "litters-and-reboots",
    "brings-a-module-of-the-kernel",
)
# Scenario, and what the reason must say.
FAILED = {
    "wrong-output": "stdout is not what is expected",
    "wrong-status": "exit status 3, expected exit status 0",
    "missing-log-line": '"misbehave: loaded with fault=some" was not logged',
    "load-fails": "failed with ENODEV, expected success: its init function returned -ENODEV",
    "endless-file": "the file has no end",
    "warns": "unexpected warning: WARNING: CPU:",
    "warns-after-the-end": "allow[1] of lab.yaml would allow it, but expired on 2020-01-31",
    "does-not-warn": "expected warning",
    "oops": "unexpected oops: BUG: kernel NULL pointer dereference",
    "panics": "unexpected panic: Kernel panic - not syncing: as asked",
    "hangs": "load misbehave: it did not end within 15 s: it sleeps in misbehave_hang at ",
    "hangs-without-ssh": "(msleep_interruptible)",
    "hangs-in-the-background": "it did not print 'loaded' within 15 s: it sleeps in ",
    "hangs-outside-modules": ": it did not end within 15 s: sleep (pid ",
    "powers-off": "powered off or rebooted",
    "litters-proc": "left behind: /proc/litter",
    "litters-a-device": "left behind: /dev/litter, /sys/class/misc/litter",
    "litters-a-cache": "left behind: /sys/kernel/slab/litter_cache",
    "litters-a-region": "left behind: /proc/devices: char ",
    "litters-ports": "unexpected oops: BUG: ",
    "stays-loaded": "left behind: /sys/module/litter (still loaded)",
    "is-held": "unload litter: failed with EAGAIN, expected success; held by sleep (pid ",
    "never-ends-its-unload": "unload litter: it did not end within 15 s: it sleeps in litter_exit",
}
ERRORS = {
    "no-such-module": "no folder of the lab builds the module 'absent'; built: litter, misbehave"
}
SKIPPED = {"not-for-this-kernel": "it is for kernels <6.0, this is 6.1."}


# Scenario, the mark in misbehave.c of the line to blame, and the function that it is in.
CULPRITS = {
    "oops": ("oops", "misbehave_oops"),
    "warns": ("warning", "misbehave_init"),
    "warns-as-expected": ("warning", "misbehave_init"),
    "warns-as-allowed": ("warning", "misbehave_init"),
    "bug-as-expected": ("bug", "misbehave_init"),
    "panics": ("panic", "misbehave_init"),
    "panics-as-expected": ("panic", "misbehave_init"),
}
# Scenario, the mark and the function of the line at which its step hangs, and in which file.
HANGS = {
    "hangs": ("hang", "misbehave_hang", "misbehave.c"),
    "hangs-without-ssh": ("hang", "misbehave_hang", "misbehave.c"),
    "hangs-in-the-background": ("hang", "misbehave_hang", "misbehave.c"),
    "never-ends-its-unload": ("stuck", "litter_exit", "litter.c"),
}
SOURCES = LABS / "verdicts/module"


def marked(mark: str, file: str = "misbehave.c") -> tuple[int, str]:
    """Number and text of the line with this mark."""
    lines = enumerate((SOURCES / file).read_text().splitlines(), 1)
    return next((n, line.strip()) for n, line in lines if f"/* here: {mark} */" in line)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_lab(
        tmp_path_factory.mktemp("verdicts") / "results", "--lab", LABS / "verdicts/lab.yaml"
    )


def cell(ran: Ran, name: str) -> dict[str, Any]:
    return ran.cells()["6.1", f"scenarios/{name}"]


def test_every_scenario_is_spoken_of_here(ran: Ran) -> None:
    names = {scenario.removeprefix("scenarios/") for _, scenario in ran.cells()}
    assert names == {*PASSED, *FAILED, *ERRORS, *SKIPPED}


@pytest.mark.parametrize("name", PASSED)
def test_passed(ran: Ran, name: str) -> None:
    assert (cell(ran, name)["outcome"], cell(ran, name)["reason"]) == ("passed", "")


@pytest.mark.parametrize(("name", "reason"), FAILED.items())
def test_failed(ran: Ran, name: str, reason: str) -> None:
    assert cell(ran, name)["outcome"] == "failed"
    assert reason in cell(ran, name)["reason"]


@pytest.mark.parametrize(("name", "reason"), ERRORS.items())
def test_error(ran: Ran, name: str, reason: str) -> None:
    assert cell(ran, name)["outcome"] == "error"
    assert reason in cell(ran, name)["reason"]


@pytest.mark.parametrize(("name", "reason"), SKIPPED.items())
def test_skipped(ran: Ran, name: str, reason: str) -> None:
    assert cell(ran, name)["outcome"] == "skipped"
    assert reason in cell(ran, name)["reason"]


def test_an_error_decides_the_exit_status(ran: Ran) -> None:
    assert ran.status == 3
    assert "the lab broke" in ran.output


def test_steps_after_a_failure_are_not_reached(ran: Ran) -> None:
    steps = cell(ran, "wrong-output")["steps"]
    assert [step["outcome"] for step in steps] == ["failed", "skipped"]
    assert steps[1]["reason"] == "not reached"


def test_a_difference_is_shown(ran: Ran) -> None:
    mismatch = cell(ran, "wrong-output")["steps"][0]["mismatches"][0]
    assert "-2" in mismatch["diff"]
    assert "+two" in mismatch["diff"]


def test_scenarios_have_guests_of_their_own(ran: Ran) -> None:
    """One boot for all of them, and one for each scenario that reboots."""
    (kernel,) = ran.results["kernels"]
    reboots = ("reboot", "litters-and-reboots")
    assert ran.boots == 1 + len(reboots)
    played = [cell for cell in kernel["cells"] if cell["steps"]]
    assert kernel["forks"] == len(played)


def test_what_is_left_behind_is_in_the_results(ran: Ran) -> None:
    assert cell(ran, "litters-a-device")["left_behind"] == [
        {"name": "/dev/litter", "place": "/dev"},
        {"name": "/sys/class/misc/litter", "place": "/sys/class/misc"},
    ]
    assert cell(ran, "litters-ports")["left_behind"] == [
        {"name": "/proc/ioports", "place": "/proc/ioports"}
    ]
    for name in ("litters-nothing", "litters-as-it-may", "is-held", "last-but-healthy"):
        assert cell(ran, name)["left_behind"] == []


def test_names_left_behind_are_read_without_harm(ran: Ran) -> None:
    """Whoever looked a file up whose module is gone would make the kernel oops."""
    for name in ("litters-proc", "litters-a-device", "litters-a-cache", "litters-a-region"):
        assert cell(ran, name)["findings"] == []


def test_who_holds_a_module_is_told(ran: Ran) -> None:
    steps = cell(ran, "is-held")["steps"]
    mismatch = next(step for step in steps if step["outcome"] == "failed")["mismatches"][0]
    assert mismatch["message"].endswith(" through /dev/litter")
    assert [line[:20] for line in mismatch["diff"]] == ["held by: sleep (pid "]
    again = steps[-1]["mismatches"][0]
    assert again["message"] == "failed with EAGAIN, expected success"
    report = (ran.run_dir / "report.txt").read_text()
    assert "       held by: sleep (pid " in report


@pytest.mark.parametrize("name", ["hangs", "hangs-without-ssh", "hangs-outside-modules"])
def test_a_hang_leaves_the_answers_to_sysrq(ran: Ran, name: str) -> None:
    log = (ran.run_dir / cell(ran, name)["evidence"] / "kernel.log").read_text()
    assert "sysrq: Show Blocked State" in log
    assert "sysrq: Show backtrace of all active CPUs" in log
    assert ("sysrq: Show State" in log) == (name == "hangs-without-ssh")


@pytest.mark.parametrize(("name", "place"), HANGS.items())
def test_the_line_of_a_hang_is_named(ran: Ran, name: str, place: tuple[str, str, str]) -> None:
    mark, function, file = place
    number, text = marked(mark, file)
    hung = cell(ran, name)["hang"]["stacks"][0]
    culprit = {"function": function, "file": file, "line": number}
    assert hung["culprit"] == {**culprit, "source": text, "own": True}
    assert cell(ran, name)["findings"] == []
    where = f" sleeps in {function} at {file}:{number} (msleep_interruptible)"
    assert cell(ran, name)["reason"].endswith(where)
    report = (ran.run_dir / "report.txt").read_text()
    assert f"  first in a module: {function} at {file}:{number}\n" in report
    assert f": {text}\n" in report
    assert hung["of_step"] == (name != "hangs-without-ssh")


def test_a_step_that_hangs_elsewhere_is_told_too(ran: Ran) -> None:
    (stack, *_) = cell(ran, "hangs-outside-modules")["hang"]["stacks"]
    assert (stack["task"], stack["of_step"], stack["state"]) == ("sleep", True, "S")
    assert cell(ran, "hangs-outside-modules")["reason"].endswith("nanosleep")


def test_what_is_allowed_is_kept_with_its_reason(ran: Ran) -> None:
    (finding,) = cell(ran, "warns-as-allowed")["findings"]
    reason = "it warns as it is asked to"
    allowed = {"entry": 0, "reason": reason, "until": "2999-12-31", "expired": False}
    assert (finding["kind"], finding["allowed"]) == ("warning", allowed)
    report = (ran.run_dir / "report.txt").read_text()
    assert "allowed in scenarios/warns-as-allowed on 6.1: warning: WARNING: " in report
    assert f"  until 2999-12-31: {reason}" in report


def test_what_the_allow_list_is_good_for_is_told(ran: Ran) -> None:
    used, expired, unused = ran.results["allow"]
    assert (used["count"], used["unused"], used["expired"]) == (1, False, False)
    assert (expired["count"], expired["expired"]) == (1, True)
    assert (unused["count"], unused["unused"]) == (0, True)
    for said in ("allow[1] of lab.yaml", "allow[2] of lab.yaml (never said) is unused"):
        assert said in " ".join(ran.output.split())
        assert said in (ran.run_dir / "report.txt").read_text()


def test_a_splat_is_in_its_own_cell_alone(ran: Ran) -> None:
    for name in ("quiet", "last-but-healthy", "oops-leaves-no-trace-behind"):
        assert cell(ran, name)["findings"] == []
    findings = cell(ran, "oops")["findings"]
    assert [finding["kind"] for finding in findings] == ["oops"]
    assert "misbehave" in findings[0]["modules"]


@pytest.mark.parametrize(("name", "mark", "function"), [(n, *c) for n, c in CULPRITS.items()])
def test_the_line_to_blame_is_named(ran: Ran, name: str, mark: str, function: str) -> None:
    number, text = marked(mark)
    (finding,) = cell(ran, name)["findings"]
    culprit = {"function": function, "file": "misbehave.c", "line": number}
    assert finding["culprit"] == {**culprit, "source": text, "own": True}
    if cell(ran, name)["outcome"] == "failed":
        assert cell(ran, name)["reason"].endswith(f": {function} at misbehave.c:{number}")


def test_the_whole_trace_is_decoded(ran: Ran) -> None:
    (oops,) = cell(ran, "oops")["findings"]
    frames = [frame for frame in oops["frames"] if frame["module"] and frame["reliable"]]
    fault, caller = frames[:2]
    assert (fault["symbol"], fault["exact"]) == ("misbehave_oops", True)
    number, text = marked("caller")
    assert [(each["line"], each["source"]) for each in caller["code"]] == [(number, text)]
    report = (ran.run_dir / "report.txt").read_text()
    for mark in ("oops", "caller"):
        number, text = marked(mark)
        assert f" at misbehave.c:{number}: {text}" in report
        assert mark != "oops" or f"misbehave.c:{number}: {text}" in ran.output


def test_the_report_explains_each_failure(ran: Ran) -> None:
    report = (ran.run_dir / "report.txt").read_text()
    for name, reason in {**FAILED, **ERRORS}.items():
        assert f"scenarios/{name}" in report
        assert reason.split(":", maxsplit=1)[0] in " ".join(report.split())


def test_a_module_that_does_not_compile_fails_what_needs_it(tmp_path: Path) -> None:
    ran = run_lab(tmp_path / "results", "--lab", LABS / "broken-build/lab.yaml")
    assert ran.status == 1
    cells = ran.cells()
    for kernel in ("5.4", "6.12"):
        needing = cells[kernel, "scenarios/needs-it"]
        assert needing["outcome"] == "failed"
        assert "broken does not build: broken.c:6:" in needing["reason"]
        assert "broken_nowhere_declared" in needing["reason"]
        assert needing["build"]["change"] is None
        assert cells[kernel, "scenarios/does-not-need-it"]["outcome"] == "passed"
    check_a_change_of_the_api_is_named(ran)


def check_a_change_of_the_api_is_named(ran: Ran) -> None:
    """The error is in a macro of the kernel's; the line that uses it is the module's."""
    name = "scenarios/needs-the-api-of-5.4"
    assert ran.cells()["5.4", name]["outcome"] == "passed"
    failed = ran.cells()["6.12", name]
    advice = "class_create() takes no owner: write class_create(name)"
    assert failed["outcome"] == "failed"
    assert failed["reason"].startswith("dated does not build: dated.c:11:")
    assert f"likely: {advice}, since 6.4 (1aaba11da9aa)" in failed["reason"]
    build = failed["build"]
    assert (build["module"], build["file"], build["line"]) == ("dated", "dated.c", 11)
    assert build["source"] == '        dated_class = class_create(THIS_MODULE, "dated");'
    assert build["change"] == {"advice": advice, "kernels": "since 6.4", "commit": "1aaba11da9aa"}
    report = (ran.run_dir / "report.txt").read_text()
    assert '   11 | dated_class = class_create(THIS_MODULE, "dated");\n      | ' in report
