"""Drivers that a distribution's kernel is without, and how a lab gets one that has them.

Looked up in November 2026: Debian's ``cloud-amd64`` kernels 5.10, 6.1, 6.12 and 7.3 export nothing
of media, cfg80211, sound, USB, I2C, hwmon or DRM; Ubuntu's ``generic`` kernels have ``videodev``,
``cfg80211`` and their like in ``linux-modules-extra-RELEASE`` (5.4.0-216).
"""

from __future__ import annotations

import re

from orchestrator.plan.visible import clip, visible

_MAX_NAME = 60
_CLOUD = re.compile(r"-cloud-(\w+)$")
# modpost of Linux 5.4, and of 5.10 and later.
_UNDEFINED = re.compile(r'^ERROR: (?:modpost: )?"(\w+)" \[[^\]]*\] undefined!')
# modprobe(8) of kmod 22 to 34.
_ABSENT = re.compile(rb"modprobe: FATAL: Module (\S+) not found in directory")


def advise_drivers(release: str) -> str:
    """How the kernel with this ``uname -r`` comes by all of its distribution's drivers, as the
    end of a sentence; empty where nothing is known.
    """
    if cloud := _CLOUD.search(release):
        return (
            f"Debian's cloud kernels are without most drivers, and `flavour: {cloud[1]}` in this "
            "kernel's entry in lab.yaml takes the one with all"
        )
    if release.endswith("-generic"):
        return (
            "Ubuntu has many drivers in linux-modules-extra, which `extra: true` in this kernel's "
            "entry in lab.yaml takes, too"
        )
    return ""


def advise_build(message: str, release: str) -> str:
    """The same where a build's error is that the kernel exports no such symbol; else empty.

    Ubuntu's headers know the symbols of all its packages, so the advice is for Debian's kernels.
    """
    small = _CLOUD.search(release) is not None
    return advise_drivers(release) if small and _UNDEFINED.match(message) else ""


def explain_absent(module: str, stderr: bytes, release: str) -> str:
    """Why ``modprobe`` found no module that ``module`` depends on, safe to show; empty where
    that is not what it says.
    """
    found = _ABSENT.search(stderr)
    if found is None:
        return ""
    name = visible(clip(found[1].decode(errors="replace"), _MAX_NAME))
    told = f"{module} needs the kernel's module {name}, which is not among its packages here"
    advice = advise_drivers(release)
    return f"{told}: {advice}" if advice else told
