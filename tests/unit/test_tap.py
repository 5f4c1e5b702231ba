"""TAP and KTAP: what the specifications say, what programs really print, and what they may not."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.plan import tap
from orchestrator.plan.outcome import Outcome
from orchestrator.plan.tap import (
    MAX_DEPTH,
    MAX_FAULTS,
    TapReport,
    count_in_words,
    has_version_line,
    parse_logged_tap,
    parse_tap,
)

from .taps import (
    KSELFTEST,
    KTAP_DEEP,
    KUNIT_LOG,
    OLD_KUNIT_LOG,
    TAP13_YAML,
    TAP14_SUBTESTS,
)


def lines(report: TapReport) -> list[str]:
    """Each test in a line: its outcome, its name, and what is said of it."""
    return [f"{test.outcome.value} {test.line}" for test in report.tests]


# --- what programs print ---------------------------------------------------------------------


def test_nested_tests_are_named_by_all_that_they_are_in() -> None:
    report = parse_tap(KTAP_DEEP)
    assert report.faults == ()
    assert lines(report) == [
        "passed net: ipv4: connect",
        "failed net: ipv4: bind # bind: EADDRINUSE at net.c:12",
        "skipped net: ipv6 # SKIP no IPv6 here",
        "passed timers",
    ]
    assert count_in_words(report.tests) == "tests: 2 passed, 1 failed, 1 skipped"
    assert report.failed[0].details == ("bind: EADDRINUSE at net.c:12",)


def test_a_kselftest_as_its_header_prints_it() -> None:
    report = parse_tap(KSELFTEST)
    assert report.faults == ()
    assert lines(report) == [
        "passed mmap anonymous",
        "failed mmap shared # mmap: Invalid argument",
        "skipped mmap huge # XFAIL not before 6.9",
        "skipped mmap dax # SKIP no pmem",
        "failed mmap slow # TIMEOUT 45 seconds",
    ]
    assert report.failed[0].details == ("mmap: Invalid argument", "the next one")


def test_a_block_of_yaml_is_no_result() -> None:
    report = parse_tap(TAP13_YAML)
    assert report.faults == ()
    assert lines(report) == [
        "passed Input file opened",
        'failed First line # message: "ok 7 - not a result"',
        "passed test 3",
    ]
    assert 'message: "ok 7 - not a result"' in report.failed[0].details


def test_subtests_of_tap_14() -> None:
    report = parse_tap(TAP14_SUBTESTS)
    assert report.faults == ()
    assert lines(report) == [
        "passed foo.tap: this passed",
        "skipped bar.tap: object of type Foo # TODO not written",
        "passed bar.tap: second # part \\o/",
    ]


def test_what_a_module_logs_with_its_name_before_each_line() -> None:
    report = parse_logged_tap(KUNIT_LOG)
    assert report.faults == ()
    assert lines(report) == [
        "passed sums: adds",
        "failed sums: subtracts # subtracts: EXPECTATION FAILED at sums.c:9",
    ]
    assert report.failed[0].details == ("subtracts: EXPECTATION FAILED at sums.c:9",)


def test_what_kernels_logged_without_versions() -> None:
    report = parse_logged_tap(OLD_KUNIT_LOG)
    assert report.faults == ()
    assert lines(report) == ["passed example: simple", "passed second: other"]


# --- outcomes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ok 1", "passed test 1"),
        ("ok", "passed test 1"),
        ("ok - named", "passed named"),
        ("ok 1 named", "passed named"),
        ("ok 1 - named", "passed named"),
        ("ok 1 - - dash", "passed - dash"),
        ("not ok 1 named", "failed named"),
        ("ok 1 a # rcode=0", "passed a # rcode=0"),
        ("ok 1 issue #42", "passed issue #42"),
        ("ok 1 a # SKIP", "skipped a # SKIP"),
        ("not ok 1 a # SKIP why", "skipped a # SKIP why"),
        ("ok 1 a # skip: why", "skipped a # SKIP why"),
        ("ok 1 a # Skipped why", "skipped a # SKIP why"),
        ("ok 1 # SKIP why", "skipped test 1 # SKIP why"),
        ("not ok 1 a # TODO later", "skipped a # TODO later"),
        ("ok 1 a # TODO later", "passed a # TODO later"),
        ("ok 1 a # XFAIL", "skipped a # XFAIL"),
        ("not ok 1 a # XFAIL", "skipped a # XFAIL"),
        ("ok 1 a # TIMEOUT 5 s", "failed a # TIMEOUT 5 s"),
        ("not ok 1 a # ERROR x", "failed a # ERROR x"),
        ("not ok 1 a # SKIPPER", "skipped a # SKIP"),
        ("not ok 1 a # TODOS", "failed a # TODOS"),
        ("ok 1 a\r", "passed a"),
    ],
)
def test_result_lines(line: str, said: str) -> None:
    report = parse_tap(f"1..1\n{line}\n")
    assert lines(report) == [said]
    assert report.faults == ()


@pytest.mark.parametrize("line", ["okay 1", "OK 1", "not  ok 1", "1..x", "# ok 1", "ok1", "x ok 1"])
def test_what_only_looks_like_a_result(line: str) -> None:
    assert lines(parse_tap(f"1..1\nok 1 a\n{line}\n")) == ["passed a"]


def test_the_kernels_other_lines_are_no_results_in_ktap() -> None:
    """KTAP's results have numbers; "ok" at the beginning of a driver's message does not count."""
    report = parse_tap("KTAP version 1\n1..1\nok then\nok 1 a\n")
    assert (lines(report), report.faults) == (["passed a"], ())


def test_a_failure_without_a_number_is_none_the_less_one() -> None:
    assert lines(parse_tap("KTAP version 1\nok 1 a\nnot ok b\n")) == ["passed a", "failed b"]


def test_ktap_has_no_yaml_for_nested_tests_to_hide_in() -> None:
    text = "KTAP version 1\n1..2\nok 1 a\n  ---\n  1..1\n  not ok 1 b\n  ...\nok 2 c\n"
    assert [test.name for test in parse_tap(text).failed] == ["c: b"]


def test_a_failure_of_the_whole_that_no_part_shows_is_told() -> None:
    text = "KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 a\nnot ok 1 suite\n"
    assert lines(parse_tap(text)) == ["passed suite: a", "failed suite"]


def test_a_failure_of_a_part_counts_whatever_the_whole_says() -> None:
    text = "KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  not ok 1 a\nok 1 suite\n"
    assert lines(parse_tap(text)) == ["failed suite: a"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1..0 # SKIP no device\n", "no device"), ("TAP version 13\n1..0 # skipped: x\n", "x")],
)
def test_a_plan_that_skips_all(text: str, reason: str) -> None:
    report = parse_tap(text)
    assert (report.skipped, report.all_skipped, report.faults) == (reason, True, ())


def test_only_what_says_so_is_all_skipped() -> None:
    assert parse_tap("1..2\nok 1 # SKIP\nok 2 # SKIP\n").all_skipped
    assert not parse_tap("1..2\nok 1 # SKIP\nok 2 # XFAIL\n").all_skipped
    assert not parse_tap("1..2\nok 1 # SKIP\nok 2\n").all_skipped
    assert not parse_tap("").all_skipped


def test_a_line_that_may_be_of_another_failure_is_no_message() -> None:
    """Perl's tests say why behind a result, the kernel's before it."""
    report = parse_tap("TAP version 13\n1..2\nnot ok 1 a\n# got 3\nnot ok 2 b\n# got 4\n")
    assert lines(report) == ["failed a # got 3", "failed b"]
    assert report.failed[1].details == ("got 3", "got 4")
    report = parse_tap("KTAP version 1\n1..2\n# got 3\nnot ok 1 a\n# got 4\nnot ok 2 b\n")
    assert lines(report) == ["failed a # got 3", "failed b # got 4"]


# --- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1..3\nok 1\nok 2\n", "the plan is 1..3, and 2 results came"),
        ("1..1\nok 1\nok 2\n", "the plan is 1..1, and 2 results came"),
        ("ok 1\nok 2\n1..3\n", "the plan is 1..3, and 2 results came"),
        ("1..2\n", "the plan is 1..2, and 0 results came"),
        ("1..0\n", "the plan is 1..0: there was nothing to test"),
        ("1..1\n1..1\nok 1\n", "a second plan: 1..1, then 1..1"),
        ("1..2\nok 1\nok 1\n", "test 1 came twice"),
        ("1..2\nok 1\nok 3\n", "test 3 came, and 2 results in all"),
        ("TAP version 13\nok 1\n", "it has no plan: nobody can tell whether these are all"),
        ("KTAP version 1\nok 1 a\nok 3 c\n", "test 3 came, and 2 results in all"),
        ("", "there is no result of a test in it"),
        ("TAP version 14\nhello\n", "there is no result of a test in it"),
        ("1..1\nok 1\n  ---\n", "a block of YAML has no end"),
        ("1..2\nok 1\n  ---\n  not ok 2\nok 2\n", "a block of YAML has no end"),
        ("1..2\nok 1\nBail out! no disk\n", "bail out: no disk"),
        ("1..2\nok 1\nBail out!\n", "bail out: no reason given"),
        ("1..1\n  1..1\n  ok 1 a\n", "there is no result of what the test 'a' is a part of"),
        ("KTAP version 1\n1..1\n  1..2\n  ok 1 a\nok 1 b\n", "the plan is 1..2, and 1 result"),
    ],
)
def test_faults(text: str, fault: str) -> None:
    assert any(each.startswith(fault) for each in parse_tap(text).faults)


def test_nothing_that_comes_after_a_bail_out_counts() -> None:
    report = parse_tap("1..3\nok 1 a\n    ok 1 b\nBail out! no disk\nnot ok 2 c\n")
    assert report.faults == ("bail out: no disk",)
    assert report.failed == ()


@pytest.mark.parametrize(
    "text",
    [
        "KTAP version 1\nok 1 a\nok 2 b\n",
        "1..2\nok 2 b\nok 1 a\n",
        "ok 1 a\nok 2 b\n1..2\n",
        "TAP version 13\n1..1\nok 1 a\nTAP version 13\n1..1\nok 1 b\n",
        "noise\n\n1..2\nok 1 a\n  indented noise\nok 2 b\n",
    ],
)
def test_what_is_no_fault(text: str) -> None:
    report = parse_tap(text)
    assert (report.faults, len(report.tests)) == ((), 2)


def test_a_log_may_begin_in_the_middle() -> None:
    report = parse_logged_tap(["ok 7 - late"])
    assert (report.faults, lines(report)) == ((), ["passed late"])


# --- is it TAP at all ------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["TAP version 13", "TAP version 14 ", "  KTAP version 1\r"])
def test_a_version_line_says_so(line: str) -> None:
    assert has_version_line(f"some noise\n{line}\n")


@pytest.mark.parametrize("line", ["", "# TAP version 13", "TAP version", "tap version 13", "1..3"])
def test_nothing_else_does(line: str) -> None:
    assert not has_version_line(f"{line}\nok 1\n")


# --- what a guest may try --------------------------------------------------------------------


def test_names_and_messages_are_safe_to_show() -> None:
    report = parse_tap("1..1\n# \x1b[31m\nnot ok 1 a\u202eb # ERROR \x07" + "x" * 5000 + "\n")
    (test,) = report.tests
    assert test.name == "a\\u202eb"
    assert test.message.startswith("\\x07xxx")
    assert len(test.message) <= 200
    assert test.details == ("\\x1b[31m",)


def test_depth_is_bounded() -> None:
    text = "".join(" " * depth + "ok 1\n" for depth in range(1000))
    assert f"tests are nested deeper than {MAX_DEPTH} levels" in parse_tap(text).faults


def test_results_are_bounded() -> None:
    report = parse_tap("".join(f"ok {number}\n" for number in range(1, 6000)))
    assert "it has more than 5000 results" in report.faults
    assert len(report.tests) == 5000


def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "MAX_LINES", 10)
    assert "it has more than 10 lines" in parse_tap("1..1\nok 1\n" + "\n" * 20).faults


def test_faults_are_bounded() -> None:
    assert len(parse_tap("1..1\n" * 500).faults) == MAX_FAULTS


@pytest.mark.parametrize(
    "text",
    [
        "ok 1 " + "#" * 2_000_000,
        "ok 1 " + "# " * 1_000_000,
        "not ok" + " " * 2_000_000 + "x",
        "1..9" + " " * 2_000_000 + "x",
        "  ---\n" * 400_000,
        "not ok 1\n" + "noise\n" * 600_000,
        "KTAP version 1\n" * 130_000,
        "  ok 1\nok 1\n" * 2500,
        "1..1\n" + "".join(f"{' ' * (n % 7)}ok {n}\n" for n in range(5000)),
    ],
)
def test_time_is_bounded(text: str) -> None:
    """A few MiB take some tenths of a second; what is quadratic would take minutes."""
    started = time.process_time()
    parse_tap(text)
    has_version_line(text)
    parse_logged_tap(text.split("\n"))
    assert time.process_time() - started < 10


PIECES = st.sampled_from(
    [
        *("ok", "not ok", " ", "  ", "    ", "\n", "1", "2", "1..2", "1..0", "#", "# SKIP", " - a"),
        *("KTAP version 1\n", "TAP version 13\n", "---\n", "...\n", "Bail out!", "# TODO", "\r"),
        *("# Subtest: x", "\x1b[2J", "\u202e", "ok 1 a\n", "not ok 2 b\n", "XFAIL", "x: "),
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=300))
@example("1..2\n  ok 1\n    ok 1\n ok 1\nok 1\n")
def test_any_text_is_read(text: str) -> None:
    for report in (parse_tap(text), parse_logged_tap(text.split("\n"))):
        said = [
            *report.faults,
            *(line for test in report.tests for line in (test.line, *test.details)),
        ]
        assert all(each.isprintable() for each in said)
        assert all(len(test.path) <= MAX_DEPTH for test in report.tests)
        assert report.tests or report.faults or report.skipped is not None


@settings(deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_a_failure_is_never_lost(noise: str) -> None:
    """Whatever was said before: it is seen, or what was said is faulty or forgives it."""
    report = parse_tap(f"{noise}\nKTAP version 1\n1..1\nnot ok 1 the last\n")
    failed = [test for test in report.failed if test.path[-1] == "the last"]
    assert failed or report.faults
    assert all(test.outcome is Outcome.FAILED for test in report.failed)
