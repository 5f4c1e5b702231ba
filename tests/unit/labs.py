"""A small lab for tests of what reads one."""

from __future__ import annotations

from pathlib import Path

from orchestrator.adapters.sources import entry_types
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.model import Lab

LAB = """\
lab: demo
modules: {hello: src}
kernels:
  "5.4": {image: focal, version: "5.4"}
  "6.1": {image: bookworm, version: "6.1"}
  "6.1-rt": {image: bookworm, version: "6.1", flavour: rt-amd64}
  "7.x": {image: trixie, version: "7.3"}
groups:
  quick: ["6.1", "5.4"]
  all: ["5.4", "6.1", "6.1-rt", "7.x"]
scenarios: [scenarios/*.yaml]
"""
SCENARIOS = """\
scenarios:
  loading:
    about: It loads.
    modules: [hello]
    steps:
      - log: {has: [hello]}
  loading-twice:
    modules: [hello]
    kernels: ">=5.6"
    steps:
      - log: {has: [hello]}
  uname:
    kernels: "<6.1.100"
    steps:
      - run: uname -r
"""


def write_lab(folder: Path, *, lab: str = LAB) -> Path:
    """The lab's file, with all that it names beside it."""
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "src/Kbuild").write_text("obj-m := hello.o\n")
    (folder / "scenarios").mkdir(exist_ok=True)
    (folder / "scenarios/all.yaml").write_text(SCENARIOS)
    (folder / "lab.yaml").write_text(lab)
    return folder / "lab.yaml"


def demo_lab(folder: Path) -> Lab:
    return load_lab(write_lab(folder), entry_types())
