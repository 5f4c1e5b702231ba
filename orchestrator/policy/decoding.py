"""Giving the frames of the kernel's reports the lines of source that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.symbols import Code, Symbols
from orchestrator.plan.frames import CodeAddress, Frame
from orchestrator.plan.klog import Finding


def decode_findings(
    findings: Sequence[Finding], modules: Mapping[str, BuiltModule], symbols: Symbols
) -> tuple[Finding, ...]:
    """The findings with the code of each frame in one of ``modules``.

    A frame of which nothing is known keeps its symbol, and a note that says why. Never raises.
    """
    addresses: dict[str, list[CodeAddress]] = {}
    for finding in findings:
        for frame in finding.frames:
            if frame.address.module in modules:
                addresses.setdefault(frame.address.module, []).append(frame.address)
    code: dict[CodeAddress, Code] = {}
    for name, wanted in addresses.items():
        code |= symbols.resolve(modules[name], wanted)
    return tuple(
        replace(finding, frames=tuple(_decoded(frame, code) for frame in finding.frames))
        for finding in findings
    )


def _decoded(frame: Frame, code: Mapping[CodeAddress, Code]) -> Frame:
    if frame.address not in code:
        return frame
    locations, note = code[frame.address]
    return replace(frame, code=locations, note=note)
