"""Reading the Test Anything Protocol, and the kernel's own kind of it.

TAP is that of https://testanything.org, versions 12 to 14; KTAP is version 1 of Linux
Documentation/dev-tools/ktap.rst. They differ in little that matters here: KTAP may leave out a
plan, and indents what is nested by two columns instead of four. Lines that are of neither are
notes and decide nothing, as ktap.rst has it: the kernel logs between them.

The text comes from a guest. Each line is looked at once, and lines, depth, results and all that
is kept of them are bounded. What is wrong with the protocol is a fault: then what the tests say
cannot be trusted to be all.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.plan.outcome import Outcome, SubResult
from orchestrator.plan.visible import clip, visible

MAX_LINES = 100_000
MAX_TESTS = 5_000
MAX_DEPTH = 8
MAX_FAULTS = 20
MAX_NAME = 200
MAX_DETAILS = 8
"""How many lines around a failure are kept, on each side of its result."""
_MAX_LINE = 2_000

_VERSION = re.compile(r"(K?)TAP version \d{1,4} *")
_PLAN = re.compile(r"1\.\.(\d{1,9})(?: *#(.*))? *")
_RESULT = re.compile(r"(not ok|ok)(?: +(\d{1,9})(?= |$))?(?: +-(?= |$))?(?: +(.*))?")
_DIRECTIVE = re.compile(
    r"(?:^| )# *(SKIP[A-Z]*|TODO|XFAIL|TIMEOUT|ERROR)(?=[ :]|$)[ :]*(.*)", re.IGNORECASE
)
_REMARK = re.compile(r"(?:^| )# (.*)")
_BAIL_OUT = "Bail out!"
_ENDLESS_YAML = "a block of YAML has no end: what is in it may have been tests"
# Neither is a pass, and neither fails what it is a part of.
_EXPECTED = ("XFAIL", "TODO")
_FAILING = ("TIMEOUT", "ERROR")


@dataclass(frozen=True)
class TapReport:
    """What was said of tests, and what is wrong with how it was said."""

    tests: tuple[SubResult, ...] = ()
    """Every test that is not made of others, in their order; of those that are, the ones that
    failed although none of their parts did.
    """
    faults: tuple[str, ...] = ()
    """Safe to show."""
    skipped: str | None = None
    """Why nothing was tested, where the plan says so (``1..0 # SKIP``)."""

    @property
    def failed(self) -> tuple[SubResult, ...]:
        """The tests that failed."""
        return tuple(test for test in self.tests if test.outcome is Outcome.FAILED)

    @property
    def all_skipped(self) -> bool:
        """Whether every test says of itself that it was skipped, or there was none to be."""
        if not self.tests:
            return self.skipped is not None
        return all(test.directive == "SKIP" for test in self.tests)


def count_in_words(tests: Sequence[SubResult]) -> str:
    """How many came to what: ``tests: 8 passed, 1 failed``."""
    counts = Counter(test.outcome for test in tests)
    order = (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED)
    return "tests: " + ", ".join(f"{counts[each]} {each.value}" for each in order if counts[each])


def has_version_line(text: str) -> bool:
    """Whether a line of the text says that it is TAP or KTAP."""
    lines = text.split("\n")[:MAX_LINES]
    return any(_VERSION.fullmatch(line[:_MAX_LINE].strip(" \r")) for line in lines)


def parse_tap(text: str, *, is_whole: bool = True) -> TapReport:
    """What a text says of tests. ``is_whole``: it is all that there is, so that a plan that is
    missing at its top counts as a fault where it is TAP's.
    """
    return _parse(text.split("\n"), is_whole)


def parse_logged_tap(texts: Sequence[str]) -> TapReport:
    """What lines of the kernel's log say of tests.

    What stands before the version line, most often a module's name, is taken off all lines that
    have it. Older kernels log neither a version nor a plan for the suites of a module
    (Linux 5.10, lib/kunit/test.c, ``__kunit_test_suites_init()``).
    """
    prefix = _prefix_in(texts[:MAX_LINES])
    lines = [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]
    return _parse(lines, is_whole=False)


def _prefix_in(lines: Sequence[str]) -> str:
    """What stands before the first version line on its line, without the indentation."""
    for line in lines:
        at = line.find("TAP version ", 0, _MAX_LINE)
        if at > 0 and line[at - 1] == "K":
            at -= 1
        if at >= 0 and _VERSION.fullmatch(line[at:_MAX_LINE].rstrip(" \r")):
            before = line[:at]
            bare = before.rstrip(" ")
            return bare if bare in ("", before) else f"{bare} "
    return ""


# --- parsing -------------------------------------------------------------------------------


@dataclass
class _Test:
    """A result that may still get names in front of its own, and lines behind it."""

    path: list[str]
    outcome: Outcome
    directive: str
    message: str
    before: tuple[str, ...] = ()
    """Lines since the result before it."""
    after: list[str] = field(default_factory=list)
    is_after_failure: bool = False
    """Whether the lines before it may be what TAP says behind the result before it."""

    def result(self) -> SubResult:
        """As it is told. A failure that says nothing itself is told with a line beside it."""
        message, details = self.message, list[str]()
        if self.outcome is Outcome.FAILED:
            details = [*self.before, *self.after]
            beside = self.before[-1:] or tuple(self.after[:1])
            if not message and beside and not (self.before and self.is_after_failure):
                message = beside[0]
        path = tuple(reversed(self.path))
        return SubResult(path, self.outcome, self.directive, message, tuple(details))


@dataclass
class _Block:
    """Tests of one level, and what is known of them so far."""

    indent: int
    is_ktap: bool
    plan: int | None = None
    numbers: set[int] = field(default_factory=set)
    count: int = 0
    tests: list[_Test] = field(default_factory=list)
    parts: list[_Test] | None = None
    """The tests of a block below, whose own result is still to come."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing but its version was said."""
        return self.plan is None and not self.count and self.parts is None


class _Parser:
    """Follows the lines of a text; blocks that are open are a stack, each deeper than the last."""

    def __init__(self, is_whole: bool) -> None:
        self._is_whole = is_whole
        self._open = [_Block(0, is_ktap=False)]
        self._tests: list[_Test] = []
        self._faults: list[str] = []
        self._recent: deque[str] = deque(maxlen=MAX_DETAILS)
        self._last: _Test | None = None
        self._last_indent = 0
        self._yaml: int | None = None
        """How far a block of YAML is indented, while one is open."""
        self._skipped: str | None = None
        self._count = 0
        self.is_over = False
        """Whether it bailed out, or said more than is read."""

    def feed(self, line: str) -> None:
        """Take the next line."""
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        text = text.rstrip(" \r")
        if self._is_yaml(text, indent):
            if text not in ("---", "..."):
                self._note(text)
        elif text.startswith(_BAIL_OUT):
            self._give_up(f"bail out: {_shown(text.removeprefix(_BAIL_OUT)) or 'no reason given'}")
        elif found := _VERSION.fullmatch(text):
            self._begin(indent, bool(found[1]))
        elif found := _PLAN.fullmatch(text):
            self._plan(indent, int(found[1]), found[2])
        elif (found := _RESULT.fullmatch(text)) and self._counts(found):
            self._result(indent, found)
        elif text:
            self._note(text)

    def _counts(self, found: re.Match[str]) -> bool:
        """Whether a line is a result. KTAP's have numbers: an "ok" without one is of a driver's
        message, for one. A failure that has none is not passed over.
        """
        return not self._open[-1].is_ktap or found[2] is not None or found[1] == "not ok"

    def _give_up(self, why: str) -> None:
        self.fault(why)
        self.is_over = True

    def fault(self, why: str) -> None:
        """Say what is wrong."""
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(why)

    def report(self) -> TapReport:
        """What it all comes to."""
        if self._yaml is not None and not self.is_over:
            self.fault(_ENDLESS_YAML)
        while self._open:
            self._close()
        if not (self._tests or self._faults or self._skipped is not None):
            self.fault("there is no result of a test in it")
        return TapReport(
            tuple(test.result() for test in self._tests), tuple(self._faults), self._skipped
        )

    # --- lines that decide nothing ---------------------------------------------------------

    def _is_yaml(self, text: str, indent: int) -> bool:
        """Whether a line is of a block of YAML behind a result, which is indented further.

        KTAP has no such blocks: there the lines may be nested tests.
        """
        if self._yaml is None:
            is_further = self._last is not None and indent > self._last_indent
            if text == "---" and is_further and not self._open[-1].is_ktap:
                self._yaml = indent
            return self._yaml is not None
        if text and indent < self._yaml:
            self._yaml = None
            self.fault(_ENDLESS_YAML)
            return False
        if text == "...":
            self._yaml = None
        return True

    def _note(self, text: str) -> None:
        """Keep a line for the next result, and for the last, should it have failed: KTAP's notes
        come before their result, TAP's may come behind it.
        """
        shown = _shown(text.removeprefix("#"))
        self._recent.append(shown)
        if self._last is None or self._open[-1].is_ktap:
            return
        if len(self._last.after) < MAX_DETAILS:
            self._last.after.append(shown)

    # --- blocks ----------------------------------------------------------------------------

    def _begin(self, indent: int, is_ktap: bool) -> None:
        """A version line: the tests of a level begin, or, at the top, those of another text."""
        block = self._block_at(indent)
        if block is not None and not block.is_empty:
            self._close()
            if not self._open:
                self._open.append(_Block(0, is_ktap))
            block = self._block_at(indent)
        if block is not None:
            block.is_ktap = is_ktap

    def _block_at(self, indent: int) -> _Block | None:
        """The block that a line of the protocol belongs to; None where it would be too deep."""
        was_deeper = self._open[-1].indent > indent
        while self._open[-1].indent > indent:
            self._close()
        above = self._open[-1]
        if above.indent == indent:
            return above
        if len(self._open) == MAX_DEPTH:
            self._give_up(f"tests are nested deeper than {MAX_DEPTH} levels")
            return None
        block = _Block(indent, above.is_ktap)
        if was_deeper:  # its first test is one that begins with its parts
            block.parts, above.parts = above.parts, None
        elif above.parts is not None:
            self._tell_lost(above.parts)
        self._open.append(block)
        return block

    def _tell_lost(self, parts: list[_Test]) -> None:
        """Say that parts of a test came, and no result of their own for it."""
        if not self.is_over:
            name = f" {_named(parts[-1])!r}" if parts else "s that were planned"
            self.fault(f"there is no result of what the test{name} is a part of")

    def _close(self) -> None:
        """End the deepest block, and hand its tests to the one that it is in."""
        block = self._open.pop()
        if block.parts is not None:
            self._tell_lost(block.parts)
            block.tests += block.parts
        if not self.is_over:
            self._check_plan(block)
        if not self._open:
            self._tests += block.tests
        elif self._open[-1].parts is None:
            self._open[-1].parts = block.tests
        else:
            self._open[-1].parts += block.tests

    def _check_plan(self, block: _Block) -> None:
        is_top = not self._open
        has_plan = block.plan is not None
        total = block.count if block.plan is None else block.plan
        highest = max(block.numbers, default=0)
        if block.count != total:
            self.fault(f"the plan is 1..{total}, and {_results(block.count)} came")
        elif highest > total and (has_plan or block.is_ktap or self._is_whole):
            self.fault(f"test {highest} came, and {_results(block.count)} in all")
        if is_top and block.count and self._is_whole and not (has_plan or block.is_ktap):
            self.fault("it has no plan: nobody can tell whether these are all the tests")

    def _plan(self, indent: int, number: int, remark: str | None) -> None:
        block = self._block_at(indent)
        if block is None:
            return
        if block.plan is not None:
            self.fault(f"a second plan: 1..{block.plan}, then 1..{number}")
            return
        block.plan = number
        if number or len(self._open) > 1:
            return
        if remark is None:
            self.fault("the plan is 1..0: there was nothing to test")
        else:
            said = re.sub(r"^ *SKIP[A-Z]*[ :]*", "", remark, flags=re.IGNORECASE)
            self._skipped = _shown(said)

    # --- results ---------------------------------------------------------------------------

    def _result(self, indent: int, found: re.Match[str]) -> None:
        block = self._block_at(indent)
        if block is None:
            return
        self._count += 1
        if self._count > MAX_TESTS:
            self._give_up(f"it has more than {MAX_TESTS} results")
            return
        block.count += 1
        number = int(found[2]) if found[2] else block.count
        if number in block.numbers:
            self.fault(f"test {number} came twice")
        block.numbers.add(number)
        test = _read_test(found[1] == "ok", number, found[3] or "")
        test.before = tuple(self._recent)
        test.is_after_failure = (
            not block.is_ktap and self._last is not None and self._last.outcome is Outcome.FAILED
        )
        self._recent.clear()
        self._last, self._last_indent = test, indent
        parts, block.parts = block.parts, None
        block.tests += [test] if parts is None else _joined(test, parts)


def _joined(whole: _Test, parts: list[_Test]) -> list[_Test]:
    """The parts of a test under its name, and the test itself where it has failed alone."""
    for part in parts:
        part.path += whole.path
        if part.outcome is Outcome.FAILED and whole.directive in _EXPECTED:
            part.outcome, part.directive = Outcome.SKIPPED, whole.directive
    alone = whole.outcome is Outcome.FAILED and not any(
        part.outcome is Outcome.FAILED for part in parts
    )
    return [*parts, whole] if alone or not parts else parts


def _read_test(is_ok: bool, number: int, rest: str) -> _Test:
    """A result by its words: the description, and what stands behind a ``#``."""
    name, directive, message = rest, "", ""
    if found := _DIRECTIVE.search(rest):
        name, directive, message = rest[: found.start()], found[1].upper(), found[2]
        directive = "SKIP" if directive.startswith("SKIP") else directive
    elif found := _REMARK.search(rest):
        name, message = rest[: found.start()], found[1]
    outcome = Outcome.PASSED if is_ok else Outcome.FAILED
    if directive in ("SKIP", "XFAIL") or (directive == "TODO" and not is_ok):
        outcome = Outcome.SKIPPED
    elif directive in _FAILING:
        outcome = Outcome.FAILED
    shown = _shown(name.replace("\\#", "#")) or f"test {number}"
    return _Test([shown], outcome, directive, _shown(message))


def _parse(lines: Sequence[str], is_whole: bool) -> TapReport:
    parser = _Parser(is_whole)
    for number, line in enumerate(lines):
        if number == MAX_LINES:
            parser.fault(f"it has more than {MAX_LINES} lines")
            break
        parser.feed(line[:_MAX_LINE])
        if parser.is_over:
            break
    return parser.report()


def _named(test: _Test) -> str:
    return ": ".join(reversed(test.path))


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"


def _shown(text: str) -> str:
    return clip(visible(text.strip()), MAX_NAME)
