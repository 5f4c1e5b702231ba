"""YAML text to values that know where they were written: the only import of yaml.

The files may come from strangers, so the parser's events are read one by one and
nothing is built that was not counted first: no aliases, no tags beyond the core ones,
no objects, limits on size, depth and number of values.

What is taken is the part of YAML on which people agree: ``true`` and ``false`` are the
only truth values (``yes``, ``on`` and their like are text), ``null``, ``~`` and nothing
at all are null, decimal, ``0x`` and ``0o`` numbers are whole numbers, and everything
else is text, dates, ``0644`` and ``1:30`` included. Keys are always text, as written.

The pure Python parser is used even where the C one is present: the two differ in the
marks that they give, in the words of their errors and, rarely, in what they accept, and
a file must mean the same everywhere. Sixty scenarios take it about a tenth of a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import yaml

from orchestrator.foundation.errors import ConfigError, Position

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_KEY = 200
MAX_QUOTED = 60

PlainValue: TypeAlias = (
    "str | int | float | bool | tuple[PlainValue, ...] | dict[str, PlainValue] | None"
)
ValuePath: TypeAlias = tuple[str | int, ...]
"""The way from a document's top to a value: keys and, in lists, numbers from 0."""


class WrittenInt(int):
    """A whole number that remembers how it was written (``0x10``)."""

    source: str

    def __new__(cls, value: int, source: str) -> WrittenInt:
        """The number ``value`` that stands in the file as ``source``."""
        number = super().__new__(cls, value)
        number.source = source
        return number


class WrittenFloat(float):
    """A number that remembers how it was written: ``6.10`` as a version is not 6.1."""

    source: str

    def __new__(cls, value: float, source: str) -> WrittenFloat:
        """The number ``value`` that stands in the file as ``source``."""
        number = super().__new__(cls, value)
        number.source = source
        return number


@dataclass(frozen=True)
class Document:
    """What a file holds: mappings as ``dict``, lists as ``tuple``, and where each thing is."""

    path: Path
    """The file, as messages show it."""
    value: PlainValue
    _positions: Mapping[ValuePath, Position] = field(repr=False)
    _key_positions: Mapping[ValuePath, Position] = field(repr=False)

    def nearest(self, path: ValuePath) -> ValuePath:
        """``path`` if something is there, else the way to what would hold it."""
        while path not in self._positions:
            path = path[:-1]
        return path

    def at(self, path: ValuePath) -> PlainValue:
        """The value at ``path``, which must exist."""
        value: Any = self.value
        for step in path:
            value = value[step]
        return value  # type: ignore[no-any-return]

    def position_of(self, path: ValuePath) -> Position:
        """Where the value at ``path`` begins; of what does not exist, what would hold it."""
        return self._positions[self.nearest(path)]

    def key_position_of(self, path: ValuePath) -> Position:
        """Where the key that leads to ``path`` begins; of what has no key, the value."""
        return self._key_positions.get(path) or self.position_of(path)


def load_yaml(path: Path) -> Document:
    """The document in the file; ``ConfigError`` if it cannot be read or is not taken."""
    return parse_yaml(_read_bounded(path), shown_path(path))


def parse_yaml(data: bytes, path: Path) -> Document:
    """The document in ``data``; ``path`` is what errors name. ``ConfigError`` if not taken."""
    text = _decode(data, path)
    _refuse_odd_characters(text, path)
    # libyaml reads ten times as fast. What it does not take, for whatever reason, is told in the
    # words of PyYAML's own parser; and it has other places for what is nothing.
    with contextlib.suppress(yaml.YAMLError, ConfigError, ValueError, OverflowError):
        if FAST_LOADER is not None and not _MARKED.search(text):
            return _Builder(path).build(_fast_events(FAST_LOADER(text)))
    loader = yaml.SafeLoader(text)
    try:
        return _Builder(path).build(_events(loader))
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, path) from None
    except (ValueError, OverflowError):
        # The parser hands escapes such as "\UFFFFFFFF" to chr() without a look at them.
        raise ConfigError(
            "an escape that means no character", where=_position(loader.get_mark(), path)
        ) from None


def render_yaml(value: Mapping[str, Any]) -> str:
    """Plain values as a document that ``parse_yaml`` reads back, keys in the order given."""
    text: str = yaml.dump(
        dict(value), Dumper=_Writer, sort_keys=False, width=1 << 12, allow_unicode=True
    )
    return text


class _Writer(yaml.SafeDumper):
    """Quotes what this module's reader, which is not PyYAML's own, would not take for text."""


def _write_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # "1e5" and "0o17" are text to PyYAML and numbers here; PyYAML writes U+2028 as it is.
    style = '"' if _ODD.search(text) else None if isinstance(_resolve(text), str) else "'"
    return writer.represent_scalar(f"{_CORE}str", text, style=style)


_Writer.add_representer(str, _write_text)


_MARKED = re.compile(r"^(?:---|\.\.\.|%)", re.MULTILINE)
FAST_LOADER: type[yaml.SafeLoader] | None = getattr(yaml, "CSafeLoader", None)


def _events(loader: yaml.SafeLoader) -> Iterator[yaml.Event]:
    while loader.check_event():
        yield loader.get_event()  # type: ignore[no-untyped-call]


def _fast_events(loader: yaml.SafeLoader) -> Iterator[yaml.Event]:
    for event in _events(loader):
        if isinstance(event, yaml.ScalarEvent) and not (event.value or event.style):
            raise ValueError("a value that is not there, and where it would be")
        yield event


def shown_path(path: Path) -> Path:
    """``path`` as messages show it: relative to the working directory when below it."""
    try:
        return Path(os.path.abspath(path)).relative_to(Path.cwd())
    except (OSError, ValueError):
        return path


def quoted(text: str) -> str:
    """Text of a file for a message: short, and nothing in it that a terminal would obey."""
    return repr(text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 1]}…")


# --- bytes and characters ---------------------------------------


def _read_bounded(path: Path) -> bytes:
    """The file's bytes, never more than ``MAX_BYTES`` of them, and of a regular file only."""
    shown = shown_path(path)
    try:
        # Looked at before it is opened: to open a device can already do something.
        _refuse_irregular(os.stat(path), shown)
        # A fifo that takes the file's place in between must not block us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            _refuse_irregular(os.fstat(stream.fileno()), shown)
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {shown}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"cannot read {str(shown)!r}: not a file name") from None
    if len(data) > MAX_BYTES:
        raise _too_large(shown)
    return data


def _refuse_irregular(status: os.stat_result, shown: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"cannot read {shown}: it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"cannot read {shown}: it is not a regular file")
    if status.st_size > MAX_BYTES:
        raise _too_large(shown)


def _too_large(shown: Path) -> ConfigError:
    return ConfigError(f"{shown} is too large: more than {MAX_BYTES} bytes")


def _decode(data: bytes, path: Path) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError("the file is UTF-16", where=Position(path, 1, 1), hint="save it as UTF-8")
    try:
        # A byte order mark at the very start is what some editors add; it means nothing.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8").removeprefix("\ufeff")
        raise ConfigError(
            f"not UTF-8: byte 0x{data[error.start]:02x}",
            where=_end_of(before, path),
            hint="save the file as UTF-8",
        ) from None


# Beside control characters: a carriage return alone and the three line ends that only
# YAML takes for such (lines would be counted as no editor does), byte order marks inside
# the text, and what is no character at all.
_ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|\r(?!\n)")


def _refuse_odd_characters(text: str, path: Path) -> None:
    if match := _ODD.search(text):
        raise ConfigError(
            f"control character U+{ord(match[0]):04X}",
            where=_end_of(text[: match.start()], path),
            hint=f'within double quotes it can be written "\\u{ord(match[0]):04x}"',
        )


def _end_of(text: str, path: Path) -> Position:
    """The position just after ``text``."""
    return Position(path, text.count("\n") + 1, len(text) - text.rfind("\n"))


# --- events to values ---------------------------------------


@dataclass
class _Open:
    """A list or mapping whose end has not come yet."""

    path: ValuePath
    position: Position
    items: list[PlainValue] | dict[str, PlainValue]
    key: str | None = None

    @property
    def wants_key(self) -> bool:
        return isinstance(self.items, dict) and self.key is None


class _Builder:
    """Makes a document of the parser's events, counting as it goes.

    A stack of its own instead of recursion: depth is then a number to check.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[_Open] = []
        self._nodes = 0
        self._root: PlainValue = None
        self._positions: dict[ValuePath, Position] = {}
        self._key_positions: dict[ValuePath, Position] = {}

    def build(self, events: Iterator[yaml.Event]) -> Document:
        """The document that the events tell of, to their end."""
        for event in events:
            self._take(event)
        if () not in self._positions:
            raise self._error("the file is empty", Position(self._path, 1, 1))
        return Document(self._path, self._root, self._positions, self._key_positions)

    def _take(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._check_start(event)
            case yaml.NodeEvent():
                self._check_node(event)
                self._take_node(event)
            case yaml.CollectionEndEvent():
                self._close()

    def _take_node(self, event: yaml.NodeEvent) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and top.wants_key:
            self._take_key(event, top)
        elif isinstance(event, yaml.ScalarEvent):
            position = self._position(event)
            self._put(_scalar(event, position), position)
        else:
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            self._open(event, {} if is_mapping else [])

    def _check_start(self, event: yaml.DocumentStartEvent) -> None:
        if event.version or event.tags:
            raise self._error("directives ('%') are not taken", self._position(event))
        if () in self._positions:
            raise self._error(
                "a second document begins here",
                self._position(event),
                hint="one file holds one document",
            )

    def _check_node(self, event: yaml.NodeEvent) -> None:
        position = self._position(event)
        if isinstance(event, yaml.AliasEvent):
            raise self._error("aliases ('*name') are not taken", position, hint=_QUOTE_STAR)
        if event.anchor is not None:
            raise self._error("anchors ('&name') are not taken", position, hint=_QUOTE_STAR)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None and event.tag not in _CORE_TAGS[type(event)]:
            raise self._error(
                f"tag {quoted(event.tag.replace(_CORE, '!!'))} is not taken",
                position,
                hint="text that begins with '!' must be in quotes",
            )
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(f"more than {MAX_NODES} values in one file", position)

    def _take_key(self, event: yaml.NodeEvent, top: _Open) -> None:
        position = self._position(event)
        if not isinstance(event, yaml.ScalarEvent):
            kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "list"
            raise self._error(
                f"a {kind} cannot be a key",
                position,
                hint="text with '{' or '[' at its start must be in quotes",
            )
        key = event.value
        if not event.style and key == "<<":
            raise self._error("merge keys ('<<') are not taken", position)
        if not event.style and key == "":
            raise self._error("a key is missing before ':'", position)
        if len(key) > MAX_KEY:
            raise self._error(f"a key longer than {MAX_KEY} characters", position)
        _refuse_halves(key, position)
        path = (*top.path, key)
        if path in self._key_positions:
            first = self._key_positions[path]
            raise self._error(
                f"key {quoted(key)} is there twice", position, hint=f"the first is at {first}"
            )
        self._key_positions[path] = position
        top.key = key

    def _open(self, event: yaml.NodeEvent, items: list[PlainValue] | dict[str, PlainValue]) -> None:
        position = self._position(event)
        if len(self._stack) >= MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep", position)
        self._stack.append(_Open(self._next_path(), position, items))

    def _close(self) -> None:
        done = self._stack.pop()
        value = tuple(done.items) if isinstance(done.items, list) else done.items
        self._put(value, done.position)

    def _put(self, value: PlainValue, position: Position) -> None:
        self._positions[self._next_path()] = position
        if not self._stack:
            self._root = value
            return
        top = self._stack[-1]
        if isinstance(top.items, list):
            top.items.append(value)
        else:
            assert top.key is not None
            top.items[top.key] = value
            top.key = None

    def _next_path(self) -> ValuePath:
        """The path of the value that comes next."""
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.items, list):
            return (*top.path, len(top.items))
        assert top.key is not None
        return (*top.path, top.key)

    def _position(self, event: yaml.Event) -> Position:
        return _position(event.start_mark, self._path)

    def _error(self, message: str, position: Position, hint: str = "") -> ConfigError:
        return ConfigError(message, where=position, hint=hint)


_QUOTE_STAR = "write the value out; text that begins with '*' or '&' must be in quotes"


# --- scalars ---------------------------------------

_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS: Mapping[str, tuple[type, str]] = {
    f"{_CORE}int": (WrittenInt, "a whole number"),
    f"{_CORE}float": (WrittenFloat, "a number with a point"),
    f"{_CORE}bool": (bool, "true or false"),
    f"{_CORE}null": (type(None), "null"),
}
_TEXT_TAGS = ("!", f"{_CORE}str")
_CORE_TAGS: Mapping[type[yaml.NodeEvent], tuple[str, ...]] = {
    yaml.ScalarEvent: (*_TEXT_TAGS, *_SCALAR_TAGS),
    yaml.SequenceStartEvent: (f"{_CORE}seq",),
    yaml.MappingStartEvent: (f"{_CORE}map",),
}

# Lengths are bounded because Python needs quadratic time for long numbers; what is longer
# is text. A leading zero makes text too: people do not agree whether 0644 is octal.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})|0x[0-9a-fA-F]{1,32}|0o[0-7]{1,40}")
_FLOAT = re.compile(
    r"[-+]?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,40}(?:[eE][-+]?[0-9]{1,2})?|[eE][-+]?[0-9]{1,2})"
)
_WORDS: Mapping[str, bool | None] = {
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "": None,
}


def _scalar(event: yaml.ScalarEvent, position: Position) -> PlainValue:
    """The value of a scalar: text if quoted or a block, else what it looks like."""
    text: str = event.value
    _refuse_halves(text, position)
    if event.tag in _TEXT_TAGS or (event.tag is None and event.style):
        return text
    value = _resolve(text)
    if event.tag is not None:
        wanted, words = _SCALAR_TAGS[event.tag]
        if not isinstance(value, wanted):
            raise ConfigError(f"{quoted(text)} is not {words}, as its tag says", where=position)
    return value


def _resolve(text: str) -> PlainValue:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return WrittenInt(int(text, 0), text)
    if _FLOAT.fullmatch(text):
        return WrittenFloat(float(text), text)
    return text


def _refuse_halves(text: str, position: Position) -> None:
    r"""Refuse what ``"\ud800"`` gives: half a character, that no file or terminal takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"half of a surrogate pair, U+{ord(text[error.start]):04X}",
            where=position,
            hint=r'write the whole character: "\U0001F600", or the character itself',
        ) from None


# --- the parser's errors, in plain words ---------------------------------------

_QUOTES = "text that begins so must be in quotes"
_BACKSLASH = "double quotes make escapes of backslashes, single quotes leave them alone"


@dataclass(frozen=True)
class _Plain:
    """What to say in place of one of the parser's problems."""

    problem: re.Pattern[str]
    message: str
    hint: str = ""
    at_context: bool = False
    """Point at where the thing began, not at where the parser gave up."""


def _plain(problem: str, message: str, hint: str = "", at_context: bool = False) -> _Plain:
    return _Plain(re.compile(problem), message, hint, at_context)


_SYNTAX: tuple[_Plain, ...] = (
    _plain(
        r"found character '\\t' that cannot start",
        "a tab where YAML wants blanks",
        "indent with blanks",
    ),
    _plain(
        r"found a tab|but found '\\t'",
        "a tab where YAML wants blanks",
        "indent with blanks",
    ),
    _plain(r"found character (.+) that cannot start", r"\1 cannot begin a value", _QUOTES),
    _plain(
        r"could not find expected ':'",
        "no ':' after this key",
        "a line is 'key: value' or '- item'; long text needs quotes or '|'",
        at_context=True,
    ),
    _plain(
        r"mapping values are not allowed",
        "':' is not allowed here",
        "text with ': ' in it must be in quotes; or the indentation is wrong",
    ),
    _plain(
        r"block scalar: expected",
        "'|' and '>' begin a block of text, on the lines below",
        _QUOTES,
        at_context=True,
    ),
    _plain(
        r"expected alphabetic or numeric character",
        "'*' and '&' cannot begin a value",
        _QUOTES,
        at_context=True,
    ),
    _plain(
        r"found unexpected (?:end of stream|document separator)",
        "a quote that is never closed",
        at_context=True,
    ),
    _plain(r"found unknown escape character (.+)", r"unknown escape '\\' and \1", _BACKSLASH),
    _plain(
        r"expected escape sequence of (\d+)",
        r"an escape that lacks some of its \1 hexadecimal digits",
        _BACKSLASH,
    ),
    _plain(r"expected (',' or '[\]}]')", r"expected \1"),
    _plain(
        r"expected <block end>|expected '<document start>'",
        "this does not continue what is above it",
        "check the indentation, and that text after a closing quote is not left over",
    ),
    _plain(r"expected the node content", "a value is missing here", _QUOTES),
    _plain(r"mapping keys are not allowed", "'?' is not allowed here", _QUOTES),
    _plain(
        r"sequence entries are not allowed",
        "'- ' is not allowed here",
        "a list begins on the line below its key",
    ),
)


def _syntax_error(error: yaml.MarkedYAMLError, path: Path) -> ConfigError:
    problem = f"{error.context}: {error.problem}"
    mark = error.problem_mark or error.context_mark
    for entry in _SYNTAX:
        if match := entry.problem.search(problem):
            mark = (error.context_mark if entry.at_context else None) or mark
            return ConfigError(
                match.expand(entry.message), where=_position(mark, path), hint=entry.hint
            )
    return ConfigError(f"not valid YAML: {error.problem}", where=_position(mark, path))


class _Mark(Protocol):
    """What the parser knows of a place; counts from 0."""

    line: int
    column: int


def _position(mark: _Mark | None, path: Path) -> Position:
    return Position(path, mark.line + 1, mark.column + 1) if mark else Position(path, 1, 1)
