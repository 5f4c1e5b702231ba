"""Debug kernels see what a default kernel of the same source does not."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import LABS, Ran, run_lab

pytestmark = pytest.mark.nightly  # three kernels are built first

# Scenario, the kernel that sees it, and what it is called there.
MISTAKES = {
    "use-after-free": ("debug", "kasan"),
    "lock-inversion": ("debug", "lockdep"),
    "sleep-in-atomic": ("debug", "atomic-sleep"),
    "leak": ("debug", "kmemleak"),
    "race": ("kcsan", "kcsan"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    results = tmp_path_factory.mktemp("debug") / "results"
    return run_lab(results, "--lab", LABS / "debug/lab.yaml")


def cell(ran: Ran, kernel: str, name: str) -> dict[str, Any]:
    return ran.cells()[kernel, f"scenarios/{name}"]


def test_the_kernels_are_what_they_are_called(ran: Ran) -> None:
    releases = {k["name"]: k["identity"]["release"] for k in ran.results["kernels"]}
    assert releases["default"].endswith("-lab")
    assert releases["debug"].endswith("-lab-debug")
    assert releases["kcsan"].endswith("-lab-kcsan")


def test_the_kernels_themselves_have_nothing_to_complain_of(ran: Ran) -> None:
    """lockdep is silent after its first report, so that one must not come before the scenarios."""
    assert [kernel["boot_findings"] for kernel in ran.results["kernels"]] == [[], [], []]


@pytest.mark.parametrize("kernel", ["default", "debug", "kcsan"])
def test_an_innocent_module_is_innocent_everywhere(ran: Ran, kernel: str) -> None:
    innocent = cell(ran, kernel, "innocent")
    assert (innocent["outcome"], innocent["reason"]) == ("passed", "")


@pytest.mark.parametrize("name", MISTAKES)
def test_the_default_kernel_sees_nothing(ran: Ran, name: str) -> None:
    blind = cell(ran, "default", name)
    assert (blind["outcome"], blind["findings"]) == ("passed", [])


@pytest.mark.parametrize("name", MISTAKES)
def test_the_kernel_that_looks_sees_it(ran: Ran, name: str) -> None:
    kernel, kind = MISTAKES[name]
    seen = cell(ran, kernel, name)
    assert seen["outcome"] == "failed"
    found = {finding["kind"]: finding for finding in seen["findings"]}
    assert kind in found, seen["findings"]
    assert found[kind]["culprit"]["file"] == "culprit.c"


def test_what_was_lost_is_told_once_with_its_line(ran: Ran) -> None:
    """By its address alone: the module is gone when it is looked for."""
    (leak,) = cell(ran, "debug", "leak")["findings"]
    assert leak["culprit"]["function"] == "culprit_leak"
    assert leak["headline"].startswith("memory leak: ")
    assert "kmalloc(128" in leak["culprit"]["source"]
