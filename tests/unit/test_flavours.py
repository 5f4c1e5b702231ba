"""What is said where a kernel is without the drivers that a module needs."""

from __future__ import annotations

import pytest

from orchestrator.plan.flavours import advise_build, advise_drivers, explain_absent

CLOUD, UBUNTU = "6.1.0-56-cloud-amd64", "5.4.0-216-generic"
# What kmod 27 said in a guest, and modpost of 5.4 and of 6.1.
SAID = b"modprobe: FATAL: Module videodev not found in directory /lib/modules/5.4.0-216-generic\n"
OLD = 'ERROR: "video_ioctl2" [/lab/src/m/m.ko] undefined!'
NEW = 'ERROR: modpost: "video_ioctl2" [/lab/src/m/m.ko] undefined!'


def test_a_module_that_the_packages_have_not_is_told_with_what_mends_it() -> None:
    assert explain_absent("cam", SAID, UBUNTU) == (
        "cam needs the kernel's module videodev, which is not among its packages here: Ubuntu has "
        "many drivers in linux-modules-extra, which `extra: true` in this kernel's entry in "
        "lab.yaml takes, too"
    )
    assert "`flavour: amd64`" in explain_absent("cam", SAID, CLOUD)
    assert explain_absent("cam", SAID, "6.1.192-lab").endswith("not among its packages here")


@pytest.mark.parametrize("said", [b"", b"insmod: ENOENT", b"modprobe: ERROR: could not insert 'x'"])
def test_other_failures_are_not_explained_so(said: bytes) -> None:
    assert explain_absent("cam", said, UBUNTU) == ""


def test_what_the_guest_says_is_shown_as_text() -> None:
    said = b"modprobe: FATAL: Module \x1b[2J" + b"x" * 999 + b" not found in directory"
    told = explain_absent("cam", said, "mine")
    assert "\x1b" not in told
    assert len(told) < 200


@pytest.mark.parametrize("message", [OLD, NEW])
def test_a_symbol_that_a_cloud_kernel_has_not(message: str) -> None:
    assert "`flavour: amd64`" in advise_build(message, CLOUD)
    assert advise_build(message, UBUNTU) == ""
    assert advise_build(message, "6.1.0-56-amd64") == ""


def test_other_errors_of_a_build_have_nothing_to_do_with_it() -> None:
    assert advise_build("hello.c:1:1: error: unknown type", CLOUD) == ""
    assert advise_drivers("6.1.192-lab") == ""
