"""``results.json`` read back: the value that it was written from.

The shapes are those of the dataclasses; what the file writes in another shape has a reader of its
own here. A key that is missing takes the value's default, so what an older lab wrote can be read as
far as all that has none is there. A file may come from anywhere: nothing in it is believed but its
shape, and its texts are shown as hostile as those of a guest.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from orchestrator.foundation.errors import UsageError
from orchestrator.plan.apichanges import API_CHANGES, ApiChange
from orchestrator.plan.frames import CodeAddress, Frame, SourceLocation
from orchestrator.plan.model import FindingClass
from orchestrator.plan.outcome import (
    CellResult,
    CommandResult,
    FolderBuild,
    KernelResult,
    RunResult,
)
from orchestrator.plan.version import VersionRange
from orchestrator.plan.visible import clip, visible
from orchestrator.plan.yamlsource import shown_path
from orchestrator.policy.reports.results import SCHEMA_VERSION

RESULTS_FILE = "results.json"
JUDGED_FILE = "judged.jsonl"
MAX_RESULTS_BYTES = 1 << 30
"""A run of 25000 cells that all failed has some hundred megabytes."""
_SHOWN = 60


class ShapeError(ValueError):
    """What was read is no result of a run; says where in it, and why."""


def load_results(run: Path) -> RunResult:
    """The result of a run, from its folder or from the file itself.

    Raises ``UsageError`` that says which file, and what is wrong with it.
    """
    path = run / RESULTS_FILE if run.is_dir() else run
    shown = visible(str(shown_path(path)))
    try:
        if path.stat().st_size > MAX_RESULTS_BYTES:
            raise UsageError(f"{shown} is larger than {MAX_RESULTS_BYTES >> 20} MiB: not read")
        data = json.loads(path.read_bytes())
        result = parse_results(data)
        return _with_judged(result, run / JUDGED_FILE) if run.is_dir() else result
    except FileNotFoundError as error:
        raise UsageError(_missing(run, shown), hint="`lab report RUN` takes a run's folder") from (
            error
        )
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror}") from error
    except ShapeError as error:
        raise UsageError(
            f"{shown} is not what this lab writes: {error}",
            hint="show it with the lab that wrote it (`lab_version` in the file), or run again",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown} is damaged: {clip(visible(str(error)), 200)}") from error


def _with_judged(result: RunResult, path: Path) -> RunResult:
    """A result that was written while its run went on, with the cells that were judged after it."""
    if not result.interrupted or not path.is_file():
        return result
    if path.stat().st_size > MAX_RESULTS_BYTES:
        raise UsageError(f"{visible(str(shown_path(path)))} is too large: not read")
    lines = path.read_bytes().split(b"\n")
    whole = lines[:-1]  # a run that was killed may have begun another
    known = {(cell.kernel, cell.scenario) for cell in result.cells}
    more: dict[str, list[CellResult]] = {}
    for number, line in enumerate(whole, 1):
        place = f"{path.name}:{number}"
        cell: CellResult = _read_class(CellResult, _parse_line(line, place), place)
        if (cell.kernel, cell.scenario) not in known:
            more.setdefault(cell.kernel, []).append(cell)
    kernels = tuple(
        dataclasses.replace(kernel, cells=(*kernel.cells, *more.get(kernel.name, ())))
        for kernel in result.kernels
    )
    return dataclasses.replace(result, kernels=kernels)


def _parse_line(line: bytes, place: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"{place} is damaged: {clip(visible(str(error)), 200)}") from error


def _missing(run: Path, shown: str) -> str:
    if run.is_dir():
        return f"there is no {shown}: no scenario of that run was judged before it ended"
    return f"there is no run {visible(str(shown_path(run)))}"


def parse_results(data: object) -> RunResult:
    """The value of what ``results.json`` holds. Raises ``ShapeError``."""
    if not isinstance(data, dict):
        raise ShapeError(f"it holds {_shown(data)} where a run's result should be")
    version = data.get("schema")
    if version != SCHEMA_VERSION:
        raise ShapeError(f"its `schema` is {_shown(version)}, and {SCHEMA_VERSION} is understood")
    result: RunResult = _read_class(RunResult, data, "")
    return result


def _read(kind: Any, value: object, place: str) -> Any:
    """``value`` as one of ``kind``; ``place`` says where it stands."""
    if kind in _READERS:
        return _READERS[kind](value, place)
    if dataclasses.is_dataclass(kind):
        return _read_class(typing.cast("type[Any]", kind), value, place)
    origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong("a list", value, place)
        (each, _) = get_args(kind)
        return tuple(_read(each, item, f"{place}[{number}]") for number, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        (other,) = (each for each in get_args(kind) if each is not type(None))
        return None if value is None else _read(other, value, place)
    return _read_plain(kind, origin, value, place)


def _read_plain(kind: Any, origin: object, value: object, place: str) -> Any:
    if origin is Literal:
        if value in get_args(kind):
            return value
        raise _wrong(f"one of {', '.join(map(str, get_args(kind)))}", value, place)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise _wrong(f"one of {', '.join(e.value for e in kind)}", value, place) from None
    if kind is Path:
        return Path(_read_plain(str, None, value, place))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _wrong(_NAMES.get(kind, kind.__name__), value, place)
    return value


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
# Fields that the file calls otherwise.
_KEYS = {(SourceLocation, "text"): "source", (FolderBuild, "name"): "folder"}


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, str, Any, bool], ...]:
    """Of each field its name, its key in the file, its type, and whether it must be there."""
    # The log's module names this type for checkers alone.
    hints = typing.get_type_hints(kind, localns={"FindingClass": FindingClass})
    return tuple(
        (
            each.name,
            _KEYS.get((kind, each.name), each.name),
            hints[each.name],
            each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING,
        )
        for each in dataclasses.fields(kind)
    )


def _read_class(kind: type[Any], value: object, place: str, **known: object) -> Any:
    """A value of a dataclass from an object of the file; ``known`` are fields that are not there.

    Every name that is a key of the file is looked for; others of the file are left alone.
    """
    data = _object(value, place)
    for name, key, hint, required in _fields(typing.cast("Hashable", kind)):
        if name in known:
            continue
        if key in data:
            known[name] = _read(hint, data[key], f"{place}.{key}" if place else key)
        elif required:
            raise ShapeError(f"{place or 'the whole'} has no `{key}`")
    return kind(**known)


def _object(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong("an object", value, place)
    return value


def _wrong(wanted: str, value: object, place: str) -> ShapeError:
    return ShapeError(f"{place} is {_shown(value)} and should be {wanted}")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return clip(visible(json.dumps(value, ensure_ascii=False)), _SHOWN)


# --- what the file writes in another shape --------------------------------------------------


def _read_kernel(value: object, place: str) -> KernelResult:
    """Its cells do not say which kernel they are of."""
    data = _object(value, place)
    name = _read(str, data.get("name"), f"{place}.name")
    cells = data.get("cells")
    if not isinstance(cells, list):
        raise _wrong("a list", cells, f"{place}.cells")
    read = tuple(
        _read_class(CellResult, cell, f"{place}.cells[{number}]", kernel=name)
        for number, cell in enumerate(cells)
    )
    kernel: KernelResult = _read_class(KernelResult, data, place, cells=read)
    return kernel


def _read_command(value: object, place: str) -> CommandResult:
    """What the file does not hold of the output is cut off, and ``truncated`` says so."""
    data = _object(value, place)
    whole = True
    streams: dict[str, bytes] = {}
    for name in ("stdout", "stderr"):
        where = f"{place}.{name}"
        stream = _object(data.get(name), where)
        streams[name] = _read_bytes(stream, where)
        whole &= len(streams[name]) == stream.get("bytes")
    command: CommandResult = _read_class(CommandResult, data, place, **streams)
    return command if whole else dataclasses.replace(command, truncated=True)


def _read_bytes(stream: Mapping[str, Any], place: str) -> bytes:
    encoded = stream.get("base64")
    if encoded is None:
        text: str = _read(str, stream.get("text"), f"{place}.text")
        return text.encode("utf-8", errors="surrogatepass")
    try:
        return base64.b64decode(_read(str, encoded, f"{place}.base64"), validate=True)
    except binascii.Error as error:
        raise ShapeError(f"{place}.base64 is damaged: {error}") from error


def _read_frame(value: object, place: str) -> Frame:
    """The file has the address's parts among the frame's."""
    data = _object(value, place)
    address = dict(data, module=data.get("module") or "")
    frame: Frame = _read_class(Frame, data, place, address=_read_class(CodeAddress, address, place))
    return frame


def _read_change(value: object, place: str) -> ApiChange:
    """One of the table's, or what the file says of one that is not in it any more."""
    data = _object(value, place)
    advice, bound, commit = (
        _read(str, data.get(key), f"{place}.{key}") for key in ("advice", "kernels", "commit")
    )
    for change in API_CHANGES:
        if (change.advice, change.bound, change.commit) == (advice, bound, commit):
            return change
    return ApiChange(VersionRange.parse(""), bound, commit, advice, ())


_READERS: dict[Any, Callable[[object, str], Any]] = {
    KernelResult: _read_kernel,
    CommandResult: _read_command,
    Frame: _read_frame,
    ApiChange: _read_change,
}
