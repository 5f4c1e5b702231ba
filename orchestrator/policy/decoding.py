"""Giving the frames of the kernel's reports the lines of source that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.adapters.kbuild import BuiltModule
from orchestrator.adapters.symbols import Code, Symbols
from orchestrator.plan.frames import CodeAddress, Frame, SourceLocation
from orchestrator.plan.klog import Finding
from orchestrator.plan.stacks import Stack


def decode_findings(
    findings: Sequence[Finding], modules: Mapping[str, BuiltModule], symbols: Symbols
) -> tuple[Finding, ...]:
    """The findings with the code of each frame in one of ``modules``.

    A frame of which nothing is known keeps its symbol, and a note that says why. Never raises.
    """
    frames = (frame for finding in findings for frame in finding.frames)
    code = _look_up(frames, modules, symbols)
    return tuple(replace(each, frames=_decoded(each.frames, code)) for each in findings)


def decode_stacks(
    stacks: Sequence[Stack], modules: Mapping[str, BuiltModule], symbols: Symbols
) -> tuple[Stack, ...]:
    """The stacks with the code of each frame in one of ``modules``, as ``decode_findings``."""
    code = _look_up((frame for stack in stacks for frame in stack.frames), modules, symbols)
    return tuple(replace(each, frames=_decoded(each.frames, code)) for each in stacks)


def _look_up(
    frames: Iterable[Frame], modules: Mapping[str, BuiltModule], symbols: Symbols
) -> Mapping[CodeAddress, Code]:
    addresses: dict[str, list[CodeAddress]] = {}
    for frame in frames:
        if frame.address.module in modules:
            addresses.setdefault(frame.address.module, []).append(frame.address)
    code: dict[CodeAddress, Code] = {}
    for name, wanted in addresses.items():
        code |= symbols.resolve(modules[name], wanted)
    return code


def _decoded(frames: Iterable[Frame], code: Mapping[CodeAddress, Code]) -> tuple[Frame, ...]:
    return tuple(_with_code(frame, *code.get(frame.address, ((), ""))) for frame in frames)


def _with_code(frame: Frame, locations: tuple[SourceLocation, ...], note: str) -> Frame:
    return replace(frame, code=locations, note=note) if locations or note else frame
