"""Comparing what a scenario expects with what happened: each unmet expectation as a value.

All functions are pure and all output is bounded, however much a guest printed. Regular
expressions are Python's ``re``, which cannot be given up on once it runs: they see the
first ``MAX_REGEX_INPUT`` of what they are matched with, and ``model`` bounds their own
length, but a pattern with nested repetition can still take for ever. It would be the
user's own file that does so.
"""

from __future__ import annotations

import difflib
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from orchestrator.plan.klog import Finding, Record
from orchestrator.plan.model import (
    FindingClass,
    LogExpect,
    LogLine,
    Match,
    ModuleExpect,
    ReadExpect,
    RunExpect,
    WriteExpect,
    hex_to_bytes,
)
from orchestrator.plan.outcome import CommandResult, Mismatch
from orchestrator.plan.visible import clip, decode, visible, visible_lines

MAX_REGEX_INPUT = 1 << 16
MAX_DIFF_LINES = 60
MAX_LINE = 200
MAX_EXCERPT_LINES = 30
# Beyond these a comparison line by line takes too long, and nobody would read it.
MAX_DIFF_INPUT_LINES = 500
MAX_DIFF_INPUT_BYTES = 1 << 16
_TAIL_LINES = 10
_NO_NEWLINE = "\\ no newline at the end"
_HEX_WIDTH = 16
_HEX_ROWS_BEFORE = 2
_HEX_ROWS = 10

_Differ = Callable[[bytes, bytes], tuple[str, ...]]


# --- commands ------------------------------------------------------------------------------


def judge_run(expect: RunExpect, result: CommandResult) -> tuple[Mismatch, ...]:
    """What a command did against what it must do."""
    return (
        *_judge_exit(expect, result),
        *_judge_streams(expect, result),
        *_judge_time(expect.within, result.seconds),
    )


def _judge_exit(expect: RunExpect, result: CommandResult) -> Iterator[Mismatch]:
    ended = _ending(result.status, result.signal)
    if expect.signal is not None:
        if result.signal != expect.signal:
            message = f"ended by {ended}, expected signal {expect.signal}"
            yield Mismatch("signal", message, _tails(result))
        return
    status = 0 if expect.status is None else expect.status
    if _shell_status(result) != status:
        yield Mismatch("status", f"ended by {ended}, expected exit status {status}", _tails(result))


def _shell_status(result: CommandResult) -> int | None:
    """The exit status as a shell tells it: 128 and the signal's number where one ended it."""
    if result.signal is None:
        return result.status
    number = signal.Signals.__members__.get(result.signal)
    return None if number is None else 128 + number


def _ending(status: int | None, signal: str | None) -> str:
    if signal is not None:
        return f"signal {signal}"
    return "nothing that is known" if status is None else f"exit status {status}"


def _tails(result: CommandResult) -> tuple[str, ...]:
    """The last lines of what a command printed, for a reader who asks why it failed."""
    lines: list[str] = []
    for name, data in (("stderr", result.stderr), ("stdout", result.stdout)):
        tail = visible_lines(decode(data[-MAX_LINE * _TAIL_LINES :]))[-_TAIL_LINES:]
        lines += [f"{name}: {clip(line, MAX_LINE)}" for line in tail]
    return tuple(lines) or ("it printed nothing",)


def _judge_streams(expect: RunExpect, result: CommandResult) -> Iterator[Mismatch]:
    wanted = (("stdout", expect.stdout, result.stdout), ("stderr", expect.stderr, result.stderr))
    checked = [(name, match, data) for name, match, data in wanted if match is not None]
    if checked and result.truncated:
        size = len(result.stdout) + len(result.stderr)
        yield Mismatch(
            "output",
            f"it printed more than the {size} bytes that the lab keeps, "
            "so what is expected of its output cannot be judged",
        )
        return
    for name, match, data in checked:
        yield from judge_bytes(name, match, data)


def _judge_time(within: float | None, seconds: float) -> Iterator[Mismatch]:
    if within is not None and seconds > within:
        yield Mismatch("time", f"took {seconds:.2f} s, expected at most {within:g} s")


# --- system calls --------------------------------------------------------------------------


def judge_read(
    expect: ReadExpect, content: bytes, errno: str | None, seconds: float
) -> tuple[Mismatch, ...]:
    """What a read gave against what it must give; ``errno`` is None where it succeeded."""
    happened = f"{_bytes(len(content))} read"
    found = list(_judge_errno(expect.errno, errno, happened))
    if not found and errno is None and expect.content is not None:
        found += judge_bytes("content", expect.content, content)
    return (*found, *_judge_time(expect.within, seconds))


def judge_hang(seconds: float, read: int = 0) -> Mismatch:
    """What is wrong with a step that did not end; ``read`` bytes had come from a file by then."""
    came = f", and {_bytes(read)} had been read: the file may have no end" if read else ""
    return Mismatch("time", f"it did not end within {seconds:g} s{came}")


def judge_write(
    expect: WriteExpect, wanted: int, written: int | None, errno: str | None, seconds: float
) -> tuple[Mismatch, ...]:
    """What a write of ``wanted`` bytes gave against what it must give."""
    count = "an unknown part" if written is None else str(written)
    happened = f"{count} of {_bytes(wanted)} written"
    found = list(_judge_errno(expect.errno, errno, happened))
    must = wanted if expect.written is None else expect.written
    if not found and errno is None and written != must:
        found.append(Mismatch("written", f"{happened}, expected {must}"))
    return (*found, *_judge_time(expect.within, seconds))


def judge_module(
    expect: ModuleExpect, errno: str | None, seconds: float, why: str = ""
) -> tuple[Mismatch, ...]:
    """What loading or unloading gave against what it must give; ``why`` explains the error."""
    return (
        *_judge_errno(expect.errno, errno, "it succeeded", why),
        *_judge_time(expect.within, seconds),
    )


def _judge_errno(
    expected: str | None, errno: str | None, happened: str, why: str = ""
) -> Iterator[Mismatch]:
    if errno == expected:
        return
    because = f": {why}" if why else ""
    if errno is None:
        yield Mismatch("errno", f"{happened}, expected the error {expected}")
    elif expected is None:
        yield Mismatch("errno", f"failed with {errno}, expected success{because}")
    else:
        yield Mismatch("errno", f"failed with {errno}, expected {expected}{because}")


# --- bytes ---------------------------------------------------------------------------------


def judge_bytes(name: str, match: str | Match, data: bytes) -> tuple[Mismatch, ...]:
    """Some output, called ``name``, against what it must be like; plain text means exactly it."""
    if isinstance(match, str):
        match = Match(equals=match)
    return tuple(_judge_match(name, match, data))


def _judge_match(name: str, match: Match, data: bytes) -> Iterator[Mismatch]:
    if match.equals is not None:
        yield from _judge_equal(name, match.equals.encode(), data, diff_bytes)
    if match.hex is not None:
        yield from _judge_equal(name, hex_to_bytes(match.hex), data, diff_hex)
    if match.size is not None and len(data) != match.size:
        message = f"{name} has {_bytes(len(data))}, expected {match.size}"
        yield Mismatch(name, message, _excerpt(data))
    for text in match.contains:
        if text.encode() not in data:
            yield Mismatch(name, f"{name} lacks {_quoted(text)}", _excerpt(data))
    for text in match.lacks:
        at = data.find(text.encode())
        if at >= 0:
            message = f"{name} must not contain {_quoted(text)}, it does at byte {at}"
            yield Mismatch(name, message, _excerpt(data))
    if match.matches is not None:
        yield from _judge_regex(name, match.matches, data)


def _judge_equal(name: str, expected: bytes, data: bytes, diff: _Differ) -> Iterator[Mismatch]:
    if data != expected:
        at = _first_difference(expected, data)
        yield Mismatch(
            name,
            f"{name} is not what is expected: {_bytes(len(data))}, expected {len(expected)}; "
            f"the first difference is at byte {at}",
            diff(expected, data),
        )


def _judge_regex(name: str, regex: str, data: bytes) -> Iterator[Mismatch]:
    if re.search(regex, decode(data[:MAX_REGEX_INPUT]), re.MULTILINE):
        return
    where = f" (in its first {MAX_REGEX_INPUT} bytes)" if len(data) > MAX_REGEX_INPUT else ""
    yield Mismatch(name, f"{name} does not match {_quoted(regex)}{where}", _excerpt(data))


def _first_difference(one: bytes, other: bytes) -> int:
    if one == other:
        return len(one)
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"


def _quoted(text: str) -> str:
    return f'"{clip(visible(text), MAX_LINE)}"'


def _excerpt(data: bytes) -> tuple[str, ...]:
    """The beginning of some output, as text or, if it is none, as a hexadecimal dump."""
    if not data:
        return ("it is empty",)
    head = data[: MAX_LINE * MAX_EXCERPT_LINES]
    if not _is_text(head):
        return _bounded([*_dump(head[: _HEX_WIDTH * _HEX_ROWS])], len(data) > len(head))
    lines = [clip(line, MAX_LINE) for line in visible_lines(decode(head))]
    return _bounded(lines[:MAX_EXCERPT_LINES], len(data) > len(head))


def _bounded(lines: Sequence[str], more: bool) -> tuple[str, ...]:
    return (*lines, "… and more") if more else tuple(lines)


# --- differences ---------------------------------------------------------------------------


def diff_bytes(expected: bytes, actual: bytes) -> tuple[str, ...]:
    """How two outputs differ, readable: by lines if they are text, else in hexadecimal."""
    size = max(len(expected), len(actual))
    lines = max(expected.count(b"\n"), actual.count(b"\n"))
    if size > MAX_DIFF_INPUT_BYTES or lines > MAX_DIFF_INPUT_LINES:
        return diff_hex(expected, actual)
    if not (_is_text(expected) and _is_text(actual)):
        return diff_hex(expected, actual)
    shown = list(_diff_lines(expected, actual))
    if max(map(len, shown)) > MAX_LINE or not _shows_difference(shown):
        return diff_hex(expected, actual)
    return _bounded(shown[:MAX_DIFF_LINES], len(shown) > MAX_DIFF_LINES)


def _is_text(data: bytes) -> bool:
    """UTF-8 that is mostly printable: a NUL at its end does not make a line a binary."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    odd = sum(not (char.isprintable() or char in "\n\t") for char in text)
    return odd * 10 <= max(len(text), 20)


def _diff_lines(expected: bytes, actual: bytes) -> Iterator[str]:
    one, other = _lines(expected), _lines(actual)
    yield "--- expected"
    yield "+++ actual"
    for line in list(difflib.unified_diff(one, other, lineterm=""))[2:]:
        yield visible(line.removesuffix("\n"))
        if line[0] in " +-" and not line.endswith("\n"):
            yield _NO_NEWLINE


def _shows_difference(shown: Sequence[str]) -> bool:
    """Whether a reader sees it: an escape looks like its own spelling out."""
    removed = [line[1:] for line in shown[2:] if line[0] == "-"]
    added = [line[1:] for line in shown[2:] if line[0] == "+"]
    return removed != added or _NO_NEWLINE in shown


def _lines(data: bytes) -> list[str]:
    return [line for line in re.split(r"(?<=\n)", data.decode()) if line]


def diff_hex(expected: bytes, actual: bytes) -> tuple[str, ...]:
    """How two outputs differ, as hexadecimal dumps around the first difference."""
    row = max(0, _first_difference(expected, actual) // _HEX_WIDTH - _HEX_ROWS_BEFORE)
    start, end = row * _HEX_WIDTH, (row + _HEX_ROWS) * _HEX_WIDTH
    shown = ["--- expected", "+++ actual"]
    for at in range(start, min(end, max(len(expected), len(actual))), _HEX_WIDTH):
        one, other = expected[at : at + _HEX_WIDTH], actual[at : at + _HEX_WIDTH]
        if one == other:
            shown.append(f" {_dump_row(one, at)}")
        else:
            shown += [f"-{_dump_row(one, at)}"] if one else []
            shown += [f"+{_dump_row(other, at)}"] if other else []
    return _bounded(shown, end < max(len(expected), len(actual)))


def _dump(data: bytes) -> Iterator[str]:
    for at in range(0, len(data), _HEX_WIDTH):
        yield _dump_row(data[at : at + _HEX_WIDTH], at)


def _dump_row(row: bytes, at: int) -> str:
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
    return f"{at:08x}  {row.hex(' '):{3 * _HEX_WIDTH - 1}}  |{text}|"


# --- the kernel log ------------------------------------------------------------------------


def judge_log(expect: LogExpect, records: Sequence[Record]) -> tuple[Mismatch, ...]:
    """The records of a window against what they must and must not say.

    In order means: each line of ``has`` is found after the one that was found for the line
    before it. A line with ``count`` is counted in the whole window and has no place in the
    order: what is counted is often a pattern that other lines of ``has`` match too.
    """
    has = [_as_line(line) for line in expect.has]
    found = _judge_any_order(has, records) if expect.in_any_order else _judge_order(has, records)
    mismatches = [
        *_judge_counts(has, records),
        *found,
        *_judge_lacks([_as_line(line) for line in expect.lacks], records),
    ]
    if mismatches:  # the log itself once, with the first
        first = mismatches[0]
        mismatches[0] = replace(first, diff=(*first.diff, *_log_excerpt(records)))
    return tuple(mismatches)


def _as_line(line: str | LogLine) -> LogLine:
    return LogLine(text=line) if isinstance(line, str) else line


def _is_in(line: LogLine, record: Record) -> bool:
    if line.text is not None:
        return line.text in record.text
    assert line.regex is not None
    return re.search(line.regex, record.text[:MAX_REGEX_INPUT], re.MULTILINE) is not None


def _named(line: LogLine) -> str:
    return _quoted(line.text) if line.text is not None else f"/{visible(line.regex or '')}/"


def _judge_counts(has: Sequence[LogLine], records: Sequence[Record]) -> Iterator[Mismatch]:
    for line in has:
        if line.count is None:
            continue
        count = sum(_is_in(line, record) for record in records)
        if count != line.count:
            yield Mismatch("log", f"{_named(line)} was logged {count} times, expected {line.count}")


def _judge_order(has: Sequence[LogLine], records: Sequence[Record]) -> Iterator[Mismatch]:
    place, before = 0, ""
    for line in has:
        if line.count is not None:
            continue
        at = next((i for i in range(place, len(records)) if _is_in(line, records[i])), None)
        if at is not None:
            place, before = at + 1, f" after {_named(line)}"
        elif any(_is_in(line, record) for record in records):
            yield Mismatch("log", f"{_named(line)} was logged, but not{before}")
        else:
            yield Mismatch("log", f"{_named(line)} was not logged", _closest(line, records))


def _judge_any_order(has: Sequence[LogLine], records: Sequence[Record]) -> Iterator[Mismatch]:
    wanted = Counter(line for line in has if line.count is None)
    for line, times in wanted.items():
        count = sum(_is_in(line, record) for record in records)
        if count == 0:
            yield Mismatch("log", f"{_named(line)} was not logged", _closest(line, records))
        elif count < times:
            yield Mismatch("log", f"{_named(line)} was logged {count} times, expected {times}")


def _judge_lacks(lacks: Sequence[LogLine], records: Sequence[Record]) -> Iterator[Mismatch]:
    for line in lacks:
        hits = [record for record in records if _is_in(line, record)]
        if hits:
            times = f"{len(hits)} times" if len(hits) > 1 else "once"
            diff = tuple(f"logged: {_shown(record)}" for record in hits[:3])
            yield Mismatch("log", f"{_named(line)} must not be logged, it was {times}", diff)


def _closest(line: LogLine, records: Sequence[Record]) -> tuple[str, ...]:
    """The logged line most like the one that is missing: most often it is a slip."""
    if line.text is None:
        return ()
    texts = [record.text[:MAX_LINE] for record in records[:MAX_DIFF_INPUT_LINES]]
    close = difflib.get_close_matches(line.text, texts, n=1)
    return tuple(f"closest: {visible(text)}" for text in close)


def _log_excerpt(records: Sequence[Record]) -> tuple[str, ...]:
    if not records:
        return ("nothing was logged",)
    shown = [f"  {_shown(record)}" for record in records[-MAX_EXCERPT_LINES:]]
    left = len(records) - len(shown)
    title = f"the log, {len(records)} lines" + (f" (the first {left} not shown):" if left else ":")
    return (title, *shown)


def _shown(record: Record) -> str:
    stamp = "" if record.time is None else f"[{record.time:12.6f}] "
    return clip(stamp + visible(record.text), MAX_LINE)


# --- what the kernel complained of ---------------------------------------------------------


def judge_findings(
    expected: Sequence[FindingClass], findings: Sequence[Finding]
) -> tuple[tuple[Finding, ...], tuple[Mismatch, ...]]:
    """The findings, each told whether it was expected, and what is wrong with them.

    What is expected is not allowed too: it must come, whatever the allow-list says. One mismatch
    for each class of the others. A lost log is none: nothing is known of the kernel then, so
    whoever judges the cell must call it an error.
    """
    marked = tuple(
        replace(each, expected=True, allowed=None) if each.kind in expected else each
        for each in findings
    )
    harmful = [each for each in marked if not each.harmless]
    kinds = dict.fromkeys(each.kind for each in harmful)
    mismatches = [
        _unexpected([each for each in harmful if each.kind == kind])
        for kind in kinds
        if kind != "lost-log"
    ]
    seen = {each.kind for each in marked}
    others = ", ".join(sorted(seen)) or "nothing"
    mismatches += [
        Mismatch("kernel", f"expected {kind} in the kernel's log; it complained of {others}")
        for kind in dict.fromkeys(expected)
        if kind not in seen
    ]
    return marked, tuple(mismatches)


def _unexpected(findings: Sequence[Finding]) -> Mismatch:
    first = findings[0]
    times = f" ({len(findings)} times, this is the first)" if len(findings) > 1 else ""
    lines = [clip(visible(line), MAX_LINE) for line in first.lines[:MAX_EXCERPT_LINES]]
    where = f": {clip(visible(str(first.culprit)), MAX_LINE)}" if first.culprit else ""
    return Mismatch(
        "kernel",
        f"unexpected {first.kind}: {clip(visible(first.headline), MAX_LINE)}{where}{times}"
        f"{_expiry(first)}",
        _bounded(lines, len(first.lines) > MAX_EXCERPT_LINES),
    )


def _expiry(finding: Finding) -> str:
    allowed = finding.allowed
    if allowed is None:
        return ""
    return f"; allow[{allowed.entry}] of lab.yaml would allow it, but expired on {allowed.until}"
