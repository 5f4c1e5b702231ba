"""A debug kernel sees what a default kernel of the same source does not."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import LABS, Ran, run_lab

pytestmark = pytest.mark.nightly  # two kernels are built first

# Scenario, and what the debug kernel calls it.
MISTAKES = {
    "use-after-free": "kasan",
    "lock-inversion": "lockdep",
    "sleep-in-atomic": "atomic-sleep",
    "leak": "kmemleak",
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


@pytest.mark.parametrize("kernel", ["default", "debug"])
def test_an_innocent_module_is_innocent_on_both(ran: Ran, kernel: str) -> None:
    innocent = cell(ran, kernel, "innocent")
    assert (innocent["outcome"], innocent["reason"]) == ("passed", "")


@pytest.mark.parametrize("name", MISTAKES)
def test_the_default_kernel_sees_nothing(ran: Ran, name: str) -> None:
    blind = cell(ran, "default", name)
    assert (blind["outcome"], blind["findings"]) == ("passed", [])


@pytest.mark.parametrize(("name", "kind"), MISTAKES.items())
def test_the_debug_kernel_sees_it(ran: Ran, name: str, kind: str) -> None:
    seen = cell(ran, "debug", name)
    assert seen["outcome"] == "failed"
    assert kind in [finding["kind"] for finding in seen["findings"]], seen["findings"]
