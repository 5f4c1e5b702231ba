"""``results.json``: the whole result for scripts; its shape is ``results.schema.json``."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from importlib import resources
from typing import Any

from orchestrator.plan.boundary import Boundary, Stretch, Trial, describe, find_boundaries
from orchestrator.plan.buildfailure import BuildFailure
from orchestrator.plan.frames import Frame, SourceLocation
from orchestrator.plan.klog import Finding
from orchestrator.plan.outcome import (
    CellResult,
    CommandResult,
    FolderBuild,
    Hang,
    KernelResult,
    Mismatch,
    Outcome,
    RunResult,
    StepResult,
    SubResult,
    judge_result,
)
from orchestrator.plan.stacks import Stack
from orchestrator.plan.visible import decode

SCHEMA_VERSION = 1
"""Goes up when a reader of the file would have to change; new keys alone do not."""
MAX_STREAM_BYTES = 1 << 16
"""How much of a command's output is in the file; the transcript in the evidence has all."""


def load_schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    text = resources.files(__package__).joinpath("results.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def render_results(result: RunResult) -> str:
    """The file's text. What a guest printed is in it raw: ASCII, with JSON's own escapes."""
    return json.dumps(_run(result), indent=2) + "\n"


def render_judged(cell: CellResult) -> str:
    """A line of ``judged.jsonl``: the cell as it is in ``results.json``, with its kernel's name."""
    return json.dumps({"kernel": cell.kernel, **_cell(cell)}) + "\n"


def _run(result: RunResult) -> dict[str, Any]:
    verdict = judge_result(result)
    return {
        "schema": SCHEMA_VERSION,
        "lab": result.lab,
        "run_id": result.run_id,
        "lab_version": result.lab_version,
        "started": result.started,
        "seconds": round(result.seconds, 3),
        "accelerator": result.accelerator,
        "accelerator_reason": result.accelerator_reason,
        "qemu_version": result.qemu_version,
        "sandbox": result.sandbox,
        "interrupted": result.interrupted,
        "exit_status": verdict.exit_status,
        "verdict": verdict.message,
        "counts": {outcome.value: result.count(outcome) for outcome in Outcome},
        "boundaries": [_boundary(boundary) for boundary in find_boundaries(result)],
        "allow": [asdict(use) for use in result.allow],
        "revision": asdict(result.revision),
        "scenarios": [asdict(place) for place in result.scenarios],
        "folders": [asdict(place) for place in result.folders],
        "inputs": [asdict(each) for each in result.inputs],
        "kernels": [_kernel(kernel) for kernel in result.kernels],
    }


def _boundary(boundary: Boundary) -> dict[str, Any]:
    return {
        "scenario": boundary.scenario,
        "shape": boundary.shape.value,
        "summary": describe(boundary),
        "stretches": [_stretch(stretch) for stretch in boundary.stretches],
        "untested": [_trial(trial) for trial in boundary.untested],
        "unplaced": [_trial(trial) for trial in boundary.unplaced],
    }


def _stretch(stretch: Stretch) -> dict[str, Any]:
    return {
        "outcome": None if stretch.outcome is None else stretch.outcome.value,
        "first": str(stretch.first),
        "last": str(stretch.last),
        "trials": [_trial(trial) for trial in stretch.trials],
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "kernel": trial.kernel,
        "version": None if trial.version is None else str(trial.version),
        "outcome": trial.outcome.value,
        "reason": trial.reason,
    }


def _kernel(kernel: KernelResult) -> dict[str, Any]:
    identity = kernel.identity
    return {
        "name": kernel.name,
        "identity": None
        if identity is None
        else {
            "name": identity.name,
            "release": identity.release,
            "version": identity.version,
            "source": identity.source,
            "packages": list(identity.packages),
            "kernel_sha256": identity.kernel_sha256,
        },
        "error": kernel.error,
        "hint": kernel.hint,
        "evidence": kernel.evidence,
        "last_lines": list(kernel.last_lines),
        "was_frozen": kernel.was_frozen,
        "boot_format": kernel.boot_format,
        "boot_note": kernel.boot_note,
        "boot_seconds": _seconds(kernel.boot_seconds),
        "build_seconds": _seconds(kernel.build_seconds),
        "builds": [_build(build) for build in kernel.builds],
        "build_note": kernel.build_note,
        "boots": kernel.boots,
        "boot_findings": [_finding(finding) for finding in kernel.boot_findings],
        "forks": kernel.forks,
        "fork_note": kernel.fork_note,
        "retried": list(kernel.retried),
        "hosts": list(kernel.hosts),
        "cells": [_cell(cell) for cell in kernel.cells],
    }


def _build(build: FolderBuild) -> dict[str, Any]:
    return {
        "folder": build.name,
        "by": build.by,
        "seconds": round(build.seconds, 3),
        "error": build.error,
    }


def _cell(cell: CellResult) -> dict[str, Any]:
    return {
        "scenario": cell.scenario,
        "outcome": cell.outcome.value,
        "reason": cell.reason,
        "seconds": round(cell.seconds, 3),
        "taint_before": cell.taint_before,
        "taint_after": cell.taint_after,
        "evidence": None if cell.evidence is None else cell.evidence.as_posix(),
        "steps": [_step(step) for step in cell.steps],
        "findings": [_finding(finding) for finding in cell.findings],
        "left_behind": [{"name": each.name, "place": each.place} for each in cell.left_behind],
        "build": None if cell.build is None else _build_failure(cell.build),
        "hang": None if cell.hang is None else _hang(cell.hang),
        "artifacts": [asdict(artifact) for artifact in cell.artifacts],
        "collect_notes": list(cell.collect_notes),
    }


def _hang(hang: Hang) -> dict[str, Any]:
    return {
        "step": hang.step,
        "explanation": hang.explanation,
        "stacks": [_stack(stack) for stack in hang.stacks],
    }


def _stack(stack: Stack) -> dict[str, Any]:
    return {
        "task": stack.task,
        "pid": stack.pid,
        "state": stack.state,
        "cpu": stack.cpu,
        "of_step": stack.of_step,
        "waits": stack.waits,
        "culprit": None if stack.culprit is None else _location(stack.culprit),
        "frames": [_frame(frame) for frame in stack.frames],
        "lines": list(stack.lines),
    }


def _build_failure(failure: BuildFailure) -> dict[str, Any]:
    change = failure.change
    return {
        "module": failure.module,
        "file": failure.file,
        "line": failure.line,
        "column": failure.column,
        "message": failure.message,
        "source": failure.source,
        "caret": failure.caret,
        "change": None
        if change is None
        else {"advice": change.advice, "kernels": change.bound, "commit": change.commit},
        "advice": failure.advice,
    }


def _step(step: StepResult) -> dict[str, Any]:
    return {
        "number": step.number,
        "title": step.title,
        "outcome": step.outcome.value,
        "seconds": round(step.seconds, 3),
        "reason": step.reason,
        "mismatches": [_mismatch(mismatch) for mismatch in step.mismatches],
        "command": None if step.command is None else _command(step.command),
        "tests": [_test(test) for test in step.tests],
    }


def _test(test: SubResult) -> dict[str, Any]:
    return {
        "name": test.name,
        "path": list(test.path),
        "outcome": test.outcome.value,
        "directive": test.directive,
        "message": test.message,
        "details": list(test.details),
    }


def _mismatch(mismatch: Mismatch) -> dict[str, Any]:
    return {"what": mismatch.what, "message": mismatch.message, "diff": list(mismatch.diff)}


def _command(command: CommandResult) -> dict[str, Any]:
    return {
        "command": command.command,
        "status": command.status,
        "signal": command.signal,
        "seconds": round(command.seconds, 3),
        "truncated": command.truncated,
        "stdout": _stream(command.stdout),
        "stderr": _stream(command.stderr),
    }


def _stream(data: bytes) -> dict[str, Any]:
    shown = data[:MAX_STREAM_BYTES]
    text = decode(shown)
    stream = {"bytes": len(data), "text": text}
    if text.encode() != shown:
        stream["base64"] = base64.b64encode(shown).decode("ascii")
    return stream


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "headline": finding.headline,
        "expected": finding.expected,
        "allowed": None
        if finding.allowed is None
        else {
            "entry": finding.allowed.entry,
            "reason": finding.allowed.reason,
            "until": finding.allowed.until,
            "expired": finding.allowed.expired,
        },
        "first": finding.first,
        "last": finding.last,
        "modules": list(finding.modules),
        "culprit": None if finding.culprit is None else _location(finding.culprit),
        "frames": [_frame(frame) for frame in finding.frames],
        "lines": list(finding.lines),
    }


def _frame(frame: Frame) -> dict[str, Any]:
    address = frame.address
    last = len(frame.code) - 1
    return {
        "symbol": address.symbol,
        "offset": address.offset,
        "size": address.size,
        "module": address.module or None,
        "exact": address.exact,
        "reliable": frame.reliable,
        "line": frame.line,
        "aside": frame.aside,
        "code": [
            {**_location(location), "inlined": number < last}
            for number, location in enumerate(frame.code)
        ],
        "note": frame.note,
    }


def _location(location: SourceLocation) -> dict[str, Any]:
    return {
        "function": location.function,
        "file": location.file,
        "line": location.line,
        "source": location.text,
        "own": location.own,
    }


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
