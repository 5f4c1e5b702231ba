"""The table of what old trees and young compilers need."""

from __future__ import annotations

import pytest

from orchestrator.plan.quirks import (
    QUIRKS,
    find_quirks,
    find_unbuildable,
    render_compilers,
    suited_image,
)
from orchestrator.plan.version import KernelVersion


@pytest.mark.parametrize(
    ("version", "gcc", "words"),
    [
        ("6.12.1", 14, ()),
        ("5.4.291", 7, ()),
        ("5.4.291", 9, ("CC=gcc -fcf-protection=none",)),
        ("5.4.291", 12, ("CC=gcc -fcf-protection=none", "HOSTCC=gcc -fcommon")),
        ("6.1.5", 15, ("CC=gcc -std=gnu11", "HOSTCC=gcc -std=gnu11")),
        (
            "4.15.18",
            9,
            ("CC=gcc -fcf-protection=none -fmacro-prefix-map=/mnt/source/=",),
        ),
        ("7.1.0-rc2", 15, ()),
    ],
)
def test_what_compilers_are_told(version: str, gcc: int, words: tuple[str, ...]) -> None:
    assert render_compilers(find_quirks(KernelVersion.parse(version), gcc)) == words


@pytest.mark.parametrize(
    ("version", "gcc", "image"),
    [("6.15", 7, "bookworm"), ("5.15.1", 4, "bookworm"), ("3.10", 9, "")],
)
def test_what_cannot_be_built(version: str, gcc: int, image: str) -> None:
    found = find_unbuildable(KernelVersion.parse(version), gcc)
    assert found is not None
    assert found.image == image


def test_what_can() -> None:
    assert find_unbuildable(KernelVersion.parse("6.15"), 8) is None


@pytest.mark.parametrize(
    ("version", "image"),
    [
        ("4.15.18", "bionic"),
        ("5.4", "focal"),
        ("5.10.9", "bullseye"),
        ("6.1", "bookworm"),
        ("6.12", "trixie"),
        ("7.3", "trixie"),
    ],
)
def test_the_image_of_a_kernels_time(version: str, image: str) -> None:
    assert suited_image(KernelVersion.parse(version)) == image


def test_every_quirk_says_why() -> None:
    assert all(quirk.why and (quirk.cc or quirk.host_cc) for quirk in QUIRKS)
