"""The pytest plugin: a lab's scenarios as items of pytest, and its guests as a fixture.

Where neither ``--lab`` nor ``lab`` in pytest's ini file names a lab, it has options and marks to
show, and does nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from orchestrator.doors.pytest_guest import LabGuest

MARKS = (
    "lab: a scenario of a lab, on one of its kernels (the lab marks them)",
    "kernel(name, version): the kernel that a scenario is played on (the lab marks them)",
    "kernels(range): the kernels that a test with `lab_guest` is for, such as '>=5.6'",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("lab", "kernel modules in virtual machines (kmod-lab)")
    group.addoption(
        "--lab", action="append", default=[], metavar="FILE", help="a lab.yaml to play; repeatable"
    )
    group.addoption(
        "--lab-kernel",
        action="append",
        default=[],
        metavar="RANGE",
        help="as `lab run -k`: a kernel's name, a group, an image, or versions; repeatable",
    )
    group.addoption("--lab-offline", action="store_true", help="use what is cached, no network")
    group.addoption(
        "--lab-jobs", type=_positive, metavar="N", help="so many guests at a time, as `lab run -j`"
    )
    group.addoption(
        "--lab-results", metavar="DIR", help="where runs are kept (lab-results beside lab.yaml)"
    )
    parser.addini("lab", type="paths", help="labs to play, where --lab names none")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks; the rest only where there is a lab."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if config.getoption("lab") or config.getini("lab"):
        from orchestrator.doors.pytest_cells import SESSION
        from orchestrator.doors.pytest_session import LabSession

        config.pluginmanager.register(LabSession(config), SESSION)


@pytest.fixture
def lab_guest(request: pytest.FixtureRequest) -> Iterator[LabGuest]:
    """A guest of its own for one test: a kernel of the lab, booted, the lab's modules in place.

    The test is played on each of the lab's kernels (``--lab-kernel``; by default those of the group
    ``quick``), or those of them that ``@pytest.mark.kernels`` names. When it is over, what it
    left loaded is unloaded, and what the kernel complained of is an error.
    """
    from orchestrator.doors.pytest_guest import open_guest

    with open_guest(request) as guest:
        yield guest
