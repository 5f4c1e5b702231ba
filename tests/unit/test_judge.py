"""What was expected against what happened: every way to fail, and how it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.frames import CodeAddress, Frame, SourceLocation
from orchestrator.plan.judge import (
    MAX_REGEX_INPUT,
    diff_bytes,
    diff_hex,
    judge_bytes,
    judge_findings,
    judge_hang,
    judge_log,
    judge_module,
    judge_read,
    judge_run,
    judge_write,
)
from orchestrator.plan.klog import Finding, Record
from orchestrator.plan.model import (
    LogExpect,
    LogLine,
    Match,
    ModuleExpect,
    ReadExpect,
    RunExpect,
    WriteExpect,
)
from orchestrator.plan.outcome import CommandResult, Mismatch


def ran(
    status: int | None = 0,
    signal: str | None = None,
    stdout: bytes = b"",
    stderr: bytes = b"",
    seconds: float = 0.1,
    truncated: bool = False,
) -> CommandResult:
    return CommandResult("true", status, signal, stdout, stderr, seconds, truncated)


def messages(mismatches: tuple[Mismatch, ...]) -> list[str]:
    return [mismatch.message for mismatch in mismatches]


def is_bounded(mismatches: tuple[Mismatch, ...]) -> bool:
    lines = [line for each in mismatches for line in (each.message, *each.diff)]
    return len(lines) < 200 and all(len(line) < 1000 for line in lines)


# --- commands ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "result", "told"),
    [
        (RunExpect(), ran(), []),
        (RunExpect(), ran(1), ["ended by exit status 1, expected exit status 0"]),
        (RunExpect(), ran(None, "SIGKILL"), ["ended by signal SIGKILL, expected exit status 0"]),
        (RunExpect(), ran(None), ["ended by nothing that is known, expected exit status 0"]),
        (RunExpect(status=1), ran(1), []),
        (RunExpect(status=1), ran(0), ["ended by exit status 0, expected exit status 1"]),
        (RunExpect(status=143), ran(None, "SIGTERM"), []),
        (RunExpect(status=143), ran(143), []),
        (
            RunExpect(status=143),
            ran(None, "SIGKILL"),
            ["ended by signal SIGKILL, expected exit status 143"],
        ),
        (RunExpect(signal="SIGKILL"), ran(None, "SIGKILL"), []),
        (RunExpect(signal="SIGKILL"), ran(0), ["ended by exit status 0, expected signal SIGKILL"]),
        (
            RunExpect(signal="SIGKILL"),
            ran(None, "SIGSEGV"),
            ["ended by signal SIGSEGV, expected signal SIGKILL"],
        ),
        (RunExpect(stdout="a\n"), ran(stdout=b"a\n"), []),
        (RunExpect(within=1.0), ran(seconds=1.0), []),
        (RunExpect(within=1.0), ran(seconds=1.5), ["took 1.50 s, expected at most 1 s"]),
        (RunExpect(stderr=Match(contains=("no",))), ran(stderr=b"no such file"), []),
        (RunExpect(stderr=Match(contains=("no",))), ran(), ['stderr lacks "no"']),
        (
            RunExpect(stdout="a", stderr="b", within=1.0, status=2),
            ran(0, stdout=b"x", stderr=b"y", seconds=3),
            [
                "ended by exit status 0, expected exit status 2",
                "stdout is not what is expected: 1 byte, expected 1; "
                "the first difference is at byte 0",
                "stderr is not what is expected: 1 byte, expected 1; "
                "the first difference is at byte 0",
                "took 3.00 s, expected at most 1 s",
            ],
        ),
    ],
)
def test_a_command(expect: RunExpect, result: CommandResult, told: list[str]) -> None:
    assert messages(judge_run(expect, result)) == told


def test_a_plain_string_stands_for_the_output() -> None:
    assert judge_run(RunExpect.model_validate("a\n"), ran(stdout=b"a\n")) == ()
    assert len(judge_run(RunExpect.model_validate("a\n"), ran(stdout=b"a"))) == 1


def test_a_failed_command_shows_the_end_of_what_it_printed() -> None:
    stderr = b"".join(b"line %d\n" % number for number in range(100)) + b"insmod: \x1b[31mno"
    (mismatch,) = judge_run(RunExpect(), ran(1, stdout=b"hello\n", stderr=stderr))
    assert mismatch.what == "status"
    assert mismatch.diff[-2:] == ("stderr: insmod: \\x1b[31mno", "stdout: hello")
    assert "stderr: line 99" in mismatch.diff
    assert "stderr: line 9" not in mismatch.diff


def test_a_failed_command_that_printed_nothing_says_so() -> None:
    (mismatch,) = judge_run(RunExpect(), ran(1))
    assert mismatch.diff == ("it printed nothing",)


def test_output_beyond_what_is_kept_cannot_be_judged() -> None:
    result = ran(stdout=b"x" * 100, truncated=True)
    (mismatch,) = judge_run(RunExpect(stdout=Match(lacks=("y",))), result)
    assert "cannot be judged" in mismatch.message
    assert judge_run(RunExpect(), result) == ()


# --- system calls --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "content", "errno", "told"),
    [
        (ReadExpect(), b"any", None, []),
        (ReadExpect(), b"", "EIO", ["failed with EIO, expected success"]),
        (ReadExpect(content="a"), b"", "EIO", ["failed with EIO, expected success"]),
        (ReadExpect(errno="EIO"), b"", "EIO", []),
        (ReadExpect(errno="EIO"), b"abc", None, ["3 bytes read, expected the error EIO"]),
        (ReadExpect(errno="EIO"), b"", "EINVAL", ["failed with EINVAL, expected EIO"]),
        (ReadExpect(content=""), b"", None, []),
        (ReadExpect(content=Match(size=2)), b"abc", None, ["content has 3 bytes, expected 2"]),
    ],
)
def test_a_read(expect: ReadExpect, content: bytes, errno: str | None, told: list[str]) -> None:
    assert messages(judge_read(expect, content, errno, 0.1)) == told


@pytest.mark.parametrize(
    ("expect", "written", "errno", "told"),
    [
        (WriteExpect(), 5, None, []),
        (WriteExpect(), 3, None, ["3 of 5 bytes written, expected 5"]),
        (WriteExpect(written=3), 3, None, []),
        (WriteExpect(written=3), 5, None, ["5 of 5 bytes written, expected 3"]),
        (WriteExpect(), None, None, ["an unknown part of 5 bytes written, expected 5"]),
        (WriteExpect(), None, "EFAULT", ["failed with EFAULT, expected success"]),
        (WriteExpect(errno="EFAULT"), None, "EFAULT", []),
        (WriteExpect(errno="EFAULT"), 5, None, ["5 of 5 bytes written, expected the error"]),
    ],
)
def test_a_write(
    expect: WriteExpect, written: int | None, errno: str | None, told: list[str]
) -> None:
    found = messages(judge_write(expect, 5, written, errno, 0.1))
    assert len(found) == len(told)
    assert all(one.startswith(other) for one, other in zip(found, told, strict=True))


@pytest.mark.parametrize(
    ("expect", "errno", "told"),
    [
        (ModuleExpect(), None, []),
        (ModuleExpect(), "ENOMEM", ["failed with ENOMEM, expected success"]),
        (ModuleExpect(errno="ENOMEM"), None, ["it succeeded, expected the error ENOMEM"]),
        (ModuleExpect(errno="ENOMEM"), "ENOMEM", []),
        (ModuleExpect(errno="ENOMEM"), "EEXIST", ["failed with EEXIST, expected ENOMEM"]),
    ],
)
def test_a_module(expect: ModuleExpect, errno: str | None, told: list[str]) -> None:
    assert messages(judge_module(expect, errno, 0.1)) == told


def test_time_is_judged_whatever_else_went_wrong() -> None:
    late = "took 9.00 s, expected at most 1 s"
    assert late in messages(judge_read(ReadExpect(within=1.0), b"", "EIO", 9.0))
    assert late in messages(judge_write(WriteExpect(within=1.0), 5, 3, None, 9.0))
    assert late in messages(judge_module(ModuleExpect(within=1.0), None, 9.0))


def test_an_error_that_was_not_expected_is_explained() -> None:
    because = "the kernel is locked down"
    expected = ModuleExpect(errno="EEXIST")
    assert messages(judge_module(ModuleExpect(), "EPERM", 0.1, because)) == [
        "failed with EPERM, expected success: the kernel is locked down"
    ]
    assert messages(judge_module(expected, "EPERM", 0.1, because)) == [
        "failed with EPERM, expected EEXIST: the kernel is locked down"
    ]
    assert messages(judge_module(expected, "EEXIST", 0.1, because)) == []


# --- output --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "data", "told"),
    [
        ("", b"", []),
        (Match(equals="caf\u00e9\n"), b"caf\xc3\xa9\n", []),
        (Match(hex="00 FF"), b"\x00\xff", []),
        (Match(contains=("a", "b")), b"xbxa", []),
        (Match(contains=("a", "b\n")), b"xa", ['out lacks "b\\n"']),
        (Match(lacks=("a",)), b"bcd", []),
        (Match(lacks=("c", "d")), b"bc", ['out must not contain "c", it does at byte 1']),
        (Match(matches="^b+$"), b"a\nbb\nc", []),
        (Match(matches="^x"), b"a\nb", ['out does not match "^x"']),
        (Match(matches=r"\\xff"), b"\xff", []),
        (Match(size=0), b"", []),
    ],
)
def test_output(match: str | Match, data: bytes, told: list[str]) -> None:
    assert messages(judge_bytes("out", match, data)) == told


def test_a_regex_sees_no_more_than_it_can_chew() -> None:
    data = b"x" * MAX_REGEX_INPUT + b"y"
    (mismatch,) = judge_bytes("out", Match(matches="y"), data)
    assert "in its first 65536 bytes" in mismatch.message
    assert is_bounded((mismatch,))


def test_texts_differ_by_lines() -> None:
    expected, actual = b"".join(b"line %d\n" % n for n in range(9)), b"line 0\nline one\n"
    diff = diff_bytes(expected, actual)
    assert diff[:2] == ("--- expected", "+++ actual")
    assert "-line 1" in diff
    assert "+line one" in diff
    assert " line 0" in diff


@pytest.mark.parametrize(
    ("expected", "actual", "shown"),
    [
        (b"a\n", b"a", ("-a", "+a", "\\ no newline at the end")),
        (b"a", b"a\n", ("-a", "\\ no newline at the end", "+a")),
        (b"a\n", b"a\n\n", (" a", "+")),
        (b"a\n", b"", ("-a",)),
        (b"a b\n", b"a\tb\n", ("-a b", "+a\\tb")),
        (
            b"HelloWorld!\n",
            b"HelloWorld!\n\x00",
            (" HelloWorld!", "+\\0", "\\ no newline at the end"),
        ),
        (b"a\n", b"a\r\n", ("-a", "+a\\r")),
        (b"a\n", "a\u202e\n".encode(), ("-a", "+a\\u202e")),
    ],
)
def test_what_cannot_be_seen_is_shown(
    expected: bytes, actual: bytes, shown: tuple[str, ...]
) -> None:
    assert diff_bytes(expected, actual)[3:] == shown


def test_what_looks_alike_is_shown_in_hexadecimal() -> None:
    assert diff_bytes(b"a\\0\n", b"a\x00\n")[2:] == (
        "-00000000  61 5c 30 0a                                      |a\\0.|",
        "+00000000  61 00 0a                                         |a..|",
    )


def test_binaries_differ_around_the_first_difference() -> None:
    expected, actual = bytes(range(256)) * 8, bytearray(bytes(range(256)) * 8)
    actual[1000] = 0
    diff = diff_bytes(expected, bytes(actual))
    assert any(line.startswith("-000003e0") for line in diff)
    assert any(line.startswith("+000003e0") for line in diff)
    assert diff[2].startswith(" 000003c0")
    assert diff[-1] == "… and more"
    assert len(diff) < 30


def test_a_binary_that_ends_too_early() -> None:
    assert diff_hex(b"\x00" * 20, b"\x00" * 16)[2:] == (
        " 00000000  " + " ".join(["00"] * 16) + "  |" + "." * 16 + "|",
        "-00000010  00 00 00 00                                      |....|",
    )


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (b"x" * 300_000, b"x" * 299_999 + b"y"),
        (b"a\n" * 100_000, b"b\n" * 100_000),
        (b"", b"\xff" * 1_000_000),
        (b"a " * 1000, b"b " * 1000),
        (b"\n" * 400, b"x\n" * 400),
    ],
)
def test_differences_are_bounded(expected: bytes, actual: bytes) -> None:
    found = judge_bytes("out", Match(hex=expected.hex()), actual)
    assert is_bounded(found)
    assert is_bounded((Mismatch("out", "", diff_bytes(expected, actual)),))


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_output_is_as_expected_or_the_difference_is_shown(expected: bytes, actual: bytes) -> None:
    found = judge_bytes("out", Match(hex=expected.hex()), actual)
    assert (found == ()) == (expected == actual)
    diff = diff_bytes(expected, actual)
    assert all(line.isprintable() for line in diff)
    if expected != actual:
        assert any(line[0] in "+-" for line in diff[2:])


# --- the kernel log ------------------------------------------------------------------------


def log(*texts: str) -> tuple[Record, ...]:
    return tuple(Record(number, number / 8, text) for number, text in enumerate(texts))


LOGGED = log("m: loaded", "m: open", "m: read 5", "m: read 7", "m: close", "m: open", "m: close")


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        (LogExpect(has=("loaded",)), []),
        (LogExpect(has=("loaded", "open", "close", "open")), []),
        (LogExpect(has=("close", "open", "loaded")), ['"loaded" was logged, but not after "open"']),
        (LogExpect(has=("close", "open", "loaded"), in_any_order=True), []),
        (LogExpect(has=("loaded", "loaded")), ['"loaded" was logged, but not after "loaded"']),
        (LogExpect(has=("open",) * 3), ['"open" was logged, but not after "open"']),
        (LogExpect(has=("open",) * 2, in_any_order=True), []),
        (
            LogExpect(has=("open",) * 3, in_any_order=True),
            ['"open" was logged 2 times, expected 3'],
        ),
        (LogExpect(has=("gone",)), ['"gone" was not logged']),
        (LogExpect(has=("gone",), in_any_order=True), ['"gone" was not logged']),
        (LogExpect(has=("loaded", "gone", "close")), ['"gone" was not logged']),
        (LogExpect(has=(LogLine(regex=r"read \d$"),)), []),
        (LogExpect(has=(LogLine(regex=r"^read"),)), ["/^read/ was not logged"]),
        (
            LogExpect(has=("open", "loaded")),
            ['"loaded" was logged, but not after "open"'],
        ),
        (LogExpect(has=(LogLine(text="open", count=2), "loaded")), []),
        (LogExpect(has=("loaded", LogLine(text="open", count=2), "read 5")), []),
        (
            LogExpect(has=(LogLine(text="open", count=1),)),
            ['"open" was logged 2 times, expected 1'],
        ),
        (
            LogExpect(has=(LogLine(text="gone", count=2),)),
            ['"gone" was logged 0 times, expected 2'],
        ),
        (LogExpect(has=(LogLine(text="gone", count=0), "loaded")), []),
        (
            LogExpect(has=(LogLine(text="open", count=0),)),
            ['"open" was logged 2 times, expected 0'],
        ),
        (LogExpect(lacks=("gone",)), []),
        (LogExpect(lacks=("open",)), ['"open" must not be logged, it was 2 times']),
        (LogExpect(lacks=(LogLine(regex="read 5"),)), ["/read 5/ must not be logged, it was once"]),
        (
            LogExpect(has=("gone", "lost"), lacks=("loaded",)),
            [
                '"gone" was not logged',
                '"lost" was not logged',
                '"loaded" must not be logged, it was once',
            ],
        ),
    ],
)
def test_the_log(expect: LogExpect, told: list[str]) -> None:
    assert messages(judge_log(expect, LOGGED)) == told


def test_the_log_is_shown_once_with_the_closest_line() -> None:
    found = judge_log(LogExpect(has=("m: unloaded", "m: gone")), LOGGED)
    assert found[0].diff[0] == "closest: m: loaded"
    assert found[0].diff[1] == "the log, 7 lines:"
    assert found[0].diff[2] == "  [    0.000000] m: loaded"
    assert not any("the log" in line for line in found[1].diff)


def test_an_empty_log_says_so() -> None:
    (mismatch,) = judge_log(LogExpect(has=("x",)), ())
    assert mismatch.diff == ("nothing was logged",)


def test_a_flood_in_the_log_is_bounded_and_cannot_reach_the_terminal() -> None:
    found = judge_log(LogExpect(has=("x",), lacks=("y",)), log(*["\x1b[2Jy" * 1000] * 1000))
    assert is_bounded(found)
    assert all(line.isprintable() for each in found for line in each.diff)


# --- findings ------------------------------------------------------------------------------


def finding(kind: str, headline: str = "it broke", lines: int = 3) -> Finding:
    return Finding(kind, headline, 1, lines, ("\x1b[31m",) * lines)  # type: ignore[arg-type]


def test_nothing_expected_and_nothing_found() -> None:
    assert judge_findings((), ()) == ((), ())


def test_an_expected_finding_is_told_so() -> None:
    marked, found = judge_findings(("oops",), (finding("oops"), finding("oops")))
    assert [each.expected for each in marked] == [True, True]
    assert found == ()


def test_an_unexpected_finding_shows_its_lines() -> None:
    marked, (mismatch,) = judge_findings((), (finding("oops", "BUG: \x07", 500),))
    assert not marked[0].expected
    assert mismatch.what == "kernel"
    assert mismatch.message == "unexpected oops: BUG: \\x07"
    assert mismatch.diff[0] == "\\x1b[31m"
    assert is_bounded((mismatch,))


def test_an_unexpected_finding_names_the_modules_own_line() -> None:
    """The line of the module that called what was inlined from a header; shown safely."""
    header = SourceLocation("list_add", "include/linux/list.h", 70)
    own = SourceLocation("m_add\x1b", "m.c", 12, "list_add(a, b);", own=True)
    frame = Frame(CodeAddress("m_add", 1, 2, "m"), 1, code=(header, own))
    found = replace(finding("oops"), frames=(frame,))
    _, mismatches = judge_findings((), (found, finding("oops")))
    assert messages(mismatches) == [
        "unexpected oops: it broke: m_add\\x1b at m.c:12 (2 times, this is the first)"
    ]


def test_many_of_a_class_are_one_mismatch() -> None:
    _, found = judge_findings((), [finding("warning")] * 200 + [finding("bug")])
    assert messages(found) == [
        "unexpected warning: it broke (200 times, this is the first)",
        "unexpected bug: it broke",
    ]


def test_what_is_expected_and_absent_is_a_mismatch() -> None:
    _, found = judge_findings(("oops", "panic", "oops"), (finding("oops"),))
    assert messages(found) == ["expected panic in the kernel's log; it complained of oops"]
    _, found = judge_findings(("panic",), ())
    assert messages(found) == ["expected panic in the kernel's log; it complained of nothing"]


def test_another_class_than_expected_is_two_mismatches() -> None:
    _, found = judge_findings(("oops",), (finding("warning"),))
    assert [each.message.split(":")[0] for each in found] == [
        "unexpected warning",
        "expected oops in the kernel's log; it complained of warning",
    ]


def test_a_lost_log_is_for_others_to_judge() -> None:
    marked, found = judge_findings((), (finding("lost-log"),))
    assert (marked[0].expected, found) == (False, ())
    _, found = judge_findings(("lost-log",), ())
    assert len(found) == 1


def test_a_step_that_did_not_end_says_what_it_had_read() -> None:
    assert judge_hang(20.0) == Mismatch("time", "it did not end within 20 s")
    endless = "it did not end within 2.5 s, and 600 bytes had been read: the file may have no end"
    assert judge_hang(2.5, 600) == Mismatch("time", endless)
