"""YAML text to values with positions: what is taken, and that hostile files are not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.foundation.errors import ConfigError, Position
from orchestrator.plan import yamlsource
from orchestrator.plan.yamlsource import (
    Document,
    WrittenFloat,
    WrittenInt,
    load_yaml,
    parse_yaml,
    shown_path,
)

# No deadline: the machine may be busy with guests.
UNHURRIED = settings(deadline=None)

F = Path("f.yaml")
QUOTE_STAR = "write the value out; text that begins with '*' or '&' must be in quotes"
QUOTES = "text that begins so must be in quotes"
BACKSLASH = "double quotes make escapes of backslashes, single quotes leave them alone"
COLON = "text with ': ' in it must be in quotes; or the indentation is wrong"
ABOVE = "this does not continue what is above it"
ABOVE_HINT = "check the indentation, and that text after a closing quote is not left over"
TAG = "text that begins with '!' must be in quotes"


def parse(text: str) -> Document:
    return parse_yaml(text.encode(), F)


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("True", "True"),
        ("FALSE", "FALSE"),
        ("Null", "Null"),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("0x10", 16),
        ("0o17", 15),
        ("0644", "0644"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0b11", "0b11"),
        ("2026-11-23", "2026-11-23"),
        ("5.4", 5.4),
        ("6.10", 6.1),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        ("1e999", "1e999"),
        ("9" * 41, "9" * 41),
        ("05.4", "05.4"),
        (".5", ".5"),
        ("5.", "5."),
        ("5.4.0", "5.4.0"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("=", "="),
        ("a#b", "a#b"),
        ("a # b", "a"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("''", ""),
        ('"\\0\\e[31m\\u00e9"', "\0\x1b[31mé"),
        ("|\n  5\n", "5\n"),
        (">-\n  a\n  b\n", "a b"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("!!int 5", 5),
        ("!!float 5.5", 5.5),
        ('!!bool "true"', True),
        ("!!null ~", None),
        ("!!seq [a]", ("a",)),
        ("!!map {b: c}", {"b": "c"}),
        ("[]", ()),
        ("{}", {}),
        ("[a, [b, 1], {c: d}]", ("a", ("b", 1), {"c": "d"})),
    ],
)
def test_values(written: str, value: object) -> None:
    found = parse(f"key: {written}").at(("key",))
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("written", "kind"),
    [("6.10", WrittenFloat), ("0x10", WrittenInt), ("-7", WrittenInt), ("1e3", WrittenFloat)],
)
def test_numbers_remember_their_text(
    written: str, kind: type[WrittenInt] | type[WrittenFloat]
) -> None:
    found = parse(written).value
    assert isinstance(found, kind)
    assert found.source == written


def test_keys_are_text_as_written() -> None:
    text = "5.4: a\n6.10: b\n0x10: c\ntrue: d\nnull: e\n'q': f\n2026-11-23: g\n\"<<\": h\n"
    assert parse(text).value == {
        "5.4": "a",
        "6.10": "b",
        "0x10": "c",
        "true": "d",
        "null": "e",
        "q": "f",
        "2026-11-23": "g",
        "<<": "h",
    }


def test_line_ends_of_windows_and_a_byte_order_mark_are_taken() -> None:
    document = parse("\ufeffa:\r\n  b: 1\r\n")
    assert document.value == {"a": {"b": 1}}
    assert document.position_of(("a", "b")) == Position(F, 2, 6)
    assert parse("\ufeffa: 1").key_position_of(("a",)) == Position(F, 1, 1)


# --- positions ------------------------------------------------------------------------------

SAMPLE = """\
lab: demo
kernels:
  deb12:
    image: x
list:
  - one
  - name: é two
    deep: [a, {b: c}]
absent:
text: |
  block
"""


@pytest.mark.parametrize(
    ("path", "value_at", "key_at"),
    [
        ((), (1, 1), (1, 1)),
        (("lab",), (1, 6), (1, 1)),
        (("kernels",), (3, 3), (2, 1)),
        (("kernels", "deb12"), (4, 5), (3, 3)),
        (("kernels", "deb12", "image"), (4, 12), (4, 5)),
        (("list",), (6, 3), (5, 1)),
        (("list", 0), (6, 5), (6, 5)),
        (("list", 1), (7, 5), (7, 5)),
        (("list", 1, "deep", 1, "b"), (8, 19), (8, 16)),
        (("absent",), (9, 8), (9, 1)),
        (("text",), (10, 7), (10, 1)),
        (("kernels", "deb12", "version"), (4, 5), (4, 5)),
        (("list", 7, "x"), (6, 3), (6, 3)),
        (("nothing", "of", 1, "this"), (1, 1), (1, 1)),
    ],
)
def test_positions(
    path: tuple[str | int, ...], value_at: tuple[int, int], key_at: tuple[int, int]
) -> None:
    document = parse(SAMPLE)
    assert document.position_of(path) == Position(F, *value_at)
    assert document.key_position_of(path) == Position(F, *key_at)


def test_nearest() -> None:
    document = parse(SAMPLE)
    assert document.nearest(("list", 1, "deep")) == ("list", 1, "deep")
    assert document.nearest(("list", 1, "shallow", 3)) == ("list", 1)
    assert document.nearest(("nope",)) == ()


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("", "1:1", "the file is empty", ""),
        ("# nothing\n\n", "1:1", "the file is empty", ""),
        ("a: &x 1\nb: *x\n", "1:4", "anchors ('&name') are not taken", QUOTE_STAR),
        ("a: &x [*x]\n", "1:4", "anchors ('&name') are not taken", QUOTE_STAR),
        ("a: *x\n", "1:4", "aliases ('*name') are not taken", QUOTE_STAR),
        ("*x : a\n", "1:1", "aliases ('*name') are not taken", QUOTE_STAR),
        ("a: *\n", "1:4", "'*' and '&' cannot begin a value", QUOTES),
        ("- a: 1\n  <<: {b: 2}\n", "2:3", "merge keys ('<<') are not taken", ""),
        ("a: 1\nb: 2\na: 3\n", "3:1", "key 'a' is there twice", "the first is at f.yaml:1:1"),
        ("{5.4: 1, '5.4': 2}", "1:10", "key '5.4' is there twice", "the first is at f.yaml:1:2"),
        ("a: 1\n---\nb: 2\n", "2:1", "a second document begins here",
         "one file holds one document"),
        ("a: 1\n...\n---\n", "3:1", "a second document begins here",
         "one file holds one document"),
        ("%YAML 1.1\n---\na: 1\n", "1:1", "directives ('%') are not taken", ""),
        ("%TAG !e! tag:e,2000:\n---\na: 1\n", "1:1", "directives ('%') are not taken", ""),
        ("a: !!python/object/apply:os.system [id]", "1:4",
         "tag '!!python/object/apply:os.system' is not taken", TAG),
        ("a: !!python/name:os.system ''", "1:4", "tag '!!python/name:os.system' is not taken", TAG),
        ("a: !!binary aGk=", "1:4", "tag '!!binary' is not taken", TAG),
        ("a: !!timestamp 2026-11-23", "1:4", "tag '!!timestamp' is not taken", TAG),
        ("a: !!set {b}", "1:4", "tag '!!set' is not taken", TAG),
        ("a: !!seq {b: c}", "1:4", "tag '!!seq' is not taken", TAG),
        ("a: !=5.9", "1:4", "tag '!=5.9' is not taken", TAG),
        ("a: !!int five", "1:4", "'five' is not a whole number, as its tag says", ""),
        ("a: !!bool yes", "1:4", "'yes' is not true or false, as its tag says", ""),
        ("? [a]\n: b", "1:3", "a list cannot be a key",
         "text with '{' or '[' at its start must be in quotes"),
        ("{a: b}: c", "1:1", "a mapping cannot be a key",
         "text with '{' or '[' at its start must be in quotes"),
        ("?\n: b", "1:2", "a key is missing before ':'", ""),
        ("k" * 201 + ": b", "1:1", "a key longer than 200 characters", ""),
        ("a:\n\t- b", "2:1", "a tab where YAML wants blanks", "indent with blanks"),
        ("a:\n  - b\n\tc: d", "3:1", "a tab where YAML wants blanks", "indent with blanks"),
        ("a: |\n\tb", "2:1", "a tab where YAML wants blanks", "indent with blanks"),
        ("a: @b", "1:4", "'@' cannot begin a value", QUOTES),
        ("a: `b`", "1:4", "'`' cannot begin a value", QUOTES),
        ("a: %b", "1:4", "'%' cannot begin a value", QUOTES),
        ("a: |x", "1:4", "'|' and '>' begin a block of text, on the lines below", QUOTES),
        ("a: ? b", "1:4", "'?' is not allowed here", QUOTES),
        ("a: !<b", "1:7", "not valid YAML: expected '>', but found '\\x00'", ""),
        ("a: >=5.6", "1:4", "'|' and '>' begin a block of text, on the lines below", QUOTES),
        ("a: b: c", "1:5", "':' is not allowed here", COLON),
        ("a: 1\n b: 2", "2:3", "':' is not allowed here", COLON),
        ("a: 1\nb\nc: 2\n", "2:1", "no ':' after this key",
         "a line is 'key: value' or '- item'; long text needs quotes or '|'"),
        ("a:\n  b: 1\n c: 2", "3:2", ABOVE, ABOVE_HINT),
        ("a: 'b' c", "1:8", ABOVE, ABOVE_HINT),
        ("a\nb\n...\nc: d\n", "4:1", ABOVE, ABOVE_HINT),
        ("a: - b", "1:4", "'- ' is not allowed here", "a list begins on the line below its key"),
        ("a: }", "1:4", "a value is missing here", QUOTES),
        ("a: [b, c", "1:9", "expected ',' or ']'", ""),
        ("a: {b: c", "1:9", "expected ',' or '}'", ""),
        ("a: 'b", "1:4", "a quote that is never closed", ""),
        ('a: "b\n---\nc: d', "1:4", "a quote that is never closed", ""),
        ('a: "\\d+"', "1:6", "unknown escape '\\' and 'd'", BACKSLASH),
        ('a: "\\xg0"', "1:7", "an escape that lacks some of its 2 hexadecimal digits", BACKSLASH),
        ('a: "\\UFFFFFFFF"', "1:7", "an escape that means no character", ""),
        ('a: "\\U00110000"', "1:7", "an escape that means no character", ""),
        ('a: "\\ud800"', "1:4", "half of a surrogate pair, U+D800",
         r'write the whole character: "\U0001F600", or the character itself'),
        ('"\\udfff": a', "1:1", "half of a surrogate pair, U+DFFF",
         r'write the whole character: "\U0001F600", or the character itself'),
        ("a: \0", "1:4", "control character U+0000",
         r'within double quotes it can be written "\u0000"'),
        ("é: b\n# \x1b[31m", "2:3", "control character U+001B",
         r'within double quotes it can be written "\u001b"'),
        ("a: b\x85c: d", "1:5", "control character U+0085",
         r'within double quotes it can be written "\u0085"'),
        ("a: \u2028", "1:4", "control character U+2028",
         r'within double quotes it can be written "\u2028"'),
        ("a: b\rc: d", "1:5", "control character U+000D",
         r'within double quotes it can be written "\u000d"'),
        ("a: \ufeff", "1:4", "control character U+FEFF",
         r'within double quotes it can be written "\ufeff"'),
    ],
)  # fmt: skip
def test_refuses(text: str, place: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.message == f"f.yaml:{place}: {message}"
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: b\nc: \xe9t\xe9\n", "f.yaml:2:4: not UTF-8: byte 0xe9"),
        ("é: ü\n".encode("latin-1"), "f.yaml:1:1: not UTF-8: byte 0xe9"),
        ("é: ".encode() + b"\xff", "f.yaml:1:4: not UTF-8: byte 0xff"),
        (b"\xef\xbb\xbfa: \xff", "f.yaml:1:4: not UTF-8: byte 0xff"),
        (b"a: \xed\xa0\x80", "f.yaml:1:4: not UTF-8: byte 0xed"),
        ("a: b".encode("utf-16"), "f.yaml:1:1: the file is UTF-16"),
        (b"\xfe\xff\0a", "f.yaml:1:1: the file is UTF-16"),
    ],
)
def test_refuses_what_is_not_utf8(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(data, F)
    assert caught.value.message == message
    assert caught.value.hint.endswith("as UTF-8")


# --- hostile files --------------------------------------------------------------------------

ALIAS_BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIAS_BOMB, "f.yaml:1:4: anchors ('&name') are not taken"),
        ("[" * 100_000, "f.yaml:1:33: nested more than 32 deep"),
        ("{a: " * 100_000, "f.yaml:1:129: nested more than 32 deep"),
        ("- " * 100_000, "f.yaml:1:65: nested more than 32 deep"),
        ("? " * 100_000, "f.yaml:1:3: a mapping cannot be a key"),
        ("\n".join(" " * n + "a:" for n in range(1000)), "f.yaml:33:33: nested more than 32 deep"),
    ],
)
def test_bombs_end_at_once(text: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.message == message
    # Milliseconds where nothing else runs; the bound only has to tell them from a bomb.
    assert time.process_time() - started < 1.0


def test_depth_up_to_the_limit_is_taken() -> None:
    assert parse("[" * 32 + "]" * 32).value != ()


def test_number_of_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlsource, "MAX_NODES", 100)
    assert len(parse("- a\n" * 99).value or ()) == 99  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        parse("- a\n" * 100)
    assert caught.value.message == "f.yaml:100:3: more than 100 values in one file"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    return caught.value.message


def test_refuses_a_large_file_unread(folder: Path) -> None:
    path = folder / "large.yaml"
    with path.open("wb") as stream:
        stream.truncate(100 << 20)
    started = time.process_time()
    assert _refusal(path) == "large.yaml is too large: more than 1048576 bytes"
    assert time.process_time() - started < 0.5


def test_takes_a_file_of_just_the_limit(folder: Path) -> None:
    (folder / "full.yaml").write_bytes(b"a: b\n#".ljust(1 << 20, b"x"))
    assert load_yaml(folder / "full.yaml").value == {"a": "b"}


def test_refuses_what_is_no_regular_file(folder: Path) -> None:
    os.mkfifo(folder / "fifo.yaml")
    (folder / "dir.yaml").mkdir()
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "null.yaml").symlink_to("/dev/zero")
    assert _refusal(folder / "fifo.yaml") == "cannot read fifo.yaml: it is not a regular file"
    assert _refusal(folder / "null.yaml") == "cannot read null.yaml: it is not a regular file"
    assert _refusal(folder / "dir.yaml") == "cannot read dir.yaml: it is a folder"
    assert _refusal(folder / "none.yaml") == "cannot read none.yaml: No such file or directory"
    assert _refusal(folder / "dir.yaml" / "x" / "y").endswith("No such file or directory")
    assert _refusal(folder / "loop.yaml").startswith("cannot read loop.yaml: Too many levels")
    assert _refusal(Path("a\0b")) == "cannot read 'a\\x00b': not a file name"
    assert _refusal(Path("x" * 300)).endswith("File name too long")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_refuses_an_unreadable_file(folder: Path) -> None:
    (folder / "f.yaml").write_text("a: b")
    (folder / "f.yaml").chmod(0)
    assert _refusal(Path("f.yaml")) == "cannot read f.yaml: Permission denied"


def test_shows_paths_relative_to_where_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = folder / "a" / "b.yaml"
    below.parent.mkdir()
    below.write_text("a: [\n")
    assert shown_path(below) == Path("a/b.yaml")
    assert _refusal(below).startswith("a/b.yaml:2:1: ")
    monkeypatch.chdir(below.parent)
    assert shown_path(Path("../a/b.yaml")) == Path("b.yaml")
    assert shown_path(Path("../c.yaml")) == Path("../c.yaml")
    assert shown_path(folder / "c.yaml") == folder / "c.yaml"


# --- any text -------------------------------------------------------------------------------

fragments = st.sampled_from(
    [*"\"'[]{}:,-?*&!|>%@`#~\t\n \\0a.é", ": ", "- ", "\n  ", "<<", "---\n", "|\n", "true", "5.4"]
)


def outcome(data: bytes) -> Document | ConfigError:
    """What comes of it; anything but these two is a crash."""
    try:
        return parse_yaml(data, F)
    except ConfigError as error:
        return error


@given(st.lists(fragments, max_size=40).map("".join))
@UNHURRIED
def test_any_text_gives_a_document_or_a_config_error(text: str) -> None:
    found = outcome(text.encode())
    where = found.where if isinstance(found, ConfigError) else found.position_of(())
    assert where is not None
    assert 1 <= where.line <= text.count("\n") + 1


@given(st.binary(max_size=60))
@UNHURRIED
def test_any_bytes_give_a_document_or_a_config_error(data: bytes) -> None:
    found = outcome(data)
    assert isinstance(found, Document) or found.where is not None


# --- the two parsers -------------------------------------------------------------------------

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("kmod", "images", "tests")
    for path in (REPOSITORY / folder).rglob("*.yaml")
    if "data" not in path.parts
)


def taken_by(loader: type[yaml.SafeLoader] | None, data: bytes) -> object:
    """The document, or what was said of it, as this parser gives it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yamlsource, "FAST_LOADER", loader)
        try:
            return parse_yaml(data, F)
        except ConfigError as error:
            return error.render()


needs_libyaml = pytest.mark.skipif(
    yamlsource.FAST_LOADER is None, reason="PyYAML is built without libyaml here"
)


@needs_libyaml
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_both_parsers_give_the_same_of_our_files(path: Path) -> None:
    data = path.read_bytes()
    assert taken_by(yamlsource.FAST_LOADER, data) == taken_by(None, data)


@needs_libyaml
@given(
    st.lists(
        st.sampled_from(
            (
                *("a", "b: ", "- ", "\n", "  ", "[", "]", "{", "}", ", ", ": ", "'", '"', "#", "1"),
                *("~", "|\n", ">-\n", "? ", "&x ", "*x", "!!str ", "---", "...", "%", "\\u00e9"),
                "\u00e9",
            )
        ),
        max_size=30,
    )
)
@UNHURRIED
def test_both_parsers_give_the_same_of_anything(parts: list[str]) -> None:
    data = "".join(parts).encode()
    assert taken_by(yamlsource.FAST_LOADER, data) == taken_by(None, data)
