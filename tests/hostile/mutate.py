"""Mutations of YAML files, drawn by chance: bytes, lines, and the structure of a document."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.foundation.errors import ConfigError
from orchestrator.plan.yamlsource import parse_yaml

Mutation = Callable[[bytes, random.Random], bytes]

DEEP = 20_000
WIDE = 60_000
WORDS: tuple[bytes, ...] = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x1b]52;c;eA==\x07",
    b"\r",
    b"\t",
    b"\x85",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    "\u202e".encode(),
    "\u2028".encode(),
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object/apply:os.system [id]",
    b"!!binary ",
    b"? ",
    b"- ",
    b": ",
    b"{",
    b"]",
    b"|+\n",
    b"---\n",
    b"...\n",
    b"%YAML 9.9\n",
    b"'",
    b'"\\UFFFFFFFF"',
    b"1e99999",
    b"0x" + b"f" * 5000,
    b"9" * 5000,
    b".inf",
    b".nan",
    b"~",
    b"../../../etc/passwd",
    b"/dev/zero",
    b"/proc/self/mem",
    b"(a*)*" * 20,
    b"\\",
)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 70,
    10**300,
    1e300,
    -0.0,
    "",
    " ",
    "x" * 100_000,
    "\u202e\u0007",
    "../..",
    "/",
    "~",
    "*",
    "**/*",
    "[!",
    ">=9 <1",
    [],
    {},
    [[]],
    {"": ""},
    {"repeat": {"text": "x", "times": 1 << 40}},
    ["x"] * 1000,
)


# --- bytes and lines ------------------------------------------------------------------------


def flip(data: bytes, chance: random.Random) -> bytes:
    """A few bits are others."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def insert_word(data: bytes, chance: random.Random) -> bytes:
    """Something stands where it does not belong."""
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(WORDS) + data[place:]


def cut(data: bytes, chance: random.Random) -> bytes:
    """The end is missing, or a piece from within."""
    first, second = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    return data[:first] if chance.random() < 0.5 else data[:first] + data[second:]


def _change_lines(change: Callable[[list[bytes], int, random.Random], None]) -> Mutation:
    def mutate(data: bytes, chance: random.Random) -> bytes:
        lines = data.split(b"\n")
        change(lines, chance.randrange(len(lines)), chance)
        return b"\n".join(lines)

    return mutate


def _swap_lines(lines: list[bytes], at: int, chance: random.Random) -> None:
    other = chance.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _repeat_line(lines: list[bytes], at: int, chance: random.Random) -> None:
    lines[at:at] = [lines[at]] * chance.choice((1, 2, 1000))


def _drop_line(lines: list[bytes], at: int, _: random.Random) -> None:
    del lines[at]


def _indent_line(lines: list[bytes], at: int, chance: random.Random) -> None:
    lines[at] = chance.choice((b" ", b"   ", b"\t", b"\xc2\xa0")) + lines[at]


def _lengthen_line(lines: list[bytes], at: int, chance: random.Random) -> None:
    lines[at] += chance.choice((b"x", b" ", b"#", b"9", b"(")) * chance.choice((300, 1 << 20))


# --- the whole file -------------------------------------------------------------------------


def encode_otherwise(data: bytes, chance: random.Random) -> bytes:
    """Other encodings, line ends, and marks of byte order."""
    text = data.decode()
    return chance.choice(
        (
            text.encode("utf-16"),
            text.encode("utf-16-le"),
            text.encode("utf-32"),
            text.encode("utf-8-sig"),
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            data.replace(b"  ", b"\t"),
            b"\xef\xbb\xbf" * 3 + data,
            data + b"\0" * 4096,
            text.encode("utf-7"),
        )
    )


def bomb(data: bytes, chance: random.Random) -> bytes:
    """What a careless reader of YAML dies of: depth, width, aliases, merged keys."""
    laughs = b"".join(
        b"k%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1) if n else b"lol"] * 10))
        for n in range(10)
    )
    return chance.choice(
        (
            b"[" * DEEP,
            b"{a: " * DEEP,
            b"- " * DEEP,
            b"x: " + b"[" * 31 + b"]" * 31 + b"\n" + data,
            b"".join(b"%s- x\n" % (b" " * n) for n in range(1000)),
            b"a: [" + b"x," * WIDE + b"]\n",
            b"".join(b"k%d: v\n" % n for n in range(WIDE)),
            laughs + data,
            b"base: &b {lab: x}\n<<: *b\n" + data,
            b"base: &b {}\n<<: [*b, *b]\n" + data,
            b"a: &a [*a]\n" + data,
            b"x: !!set {a, b}\n" + data,
            b"x: !!omap [a: b]\n" + data,
            b"? {lab: x}\n: y\n" + data,
            data + b"\n---\n" + data,
            data + b"\n" + data,
            b"",
            b"\n" * 100_000,
            b"#" * (1 << 20),
            b" " * (2 << 20),
        )
    )


# --- the structure --------------------------------------------------------------------------


def reshape(data: bytes, chance: random.Random) -> bytes:
    """A few places of the document hold something else; keys are gone, twice, or others."""
    try:
        tree = _plain(parse_yaml(data, Path("x")).value)
    except ConfigError:
        return data
    for _ in range(chance.choice((1, 1, 2, 5))):
        places = list(_places(tree))
        if places:
            _change(*chance.choice(places), places, chance)
    return json.dumps(tree, ensure_ascii=chance.random() < 0.5, default=str).encode(
        "utf-8", "surrogatepass"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def _change(holder: Any, key: Any, places: list[tuple[Any, Any]], chance: random.Random) -> None:
    kind = chance.randrange(6)
    if kind == 0:
        holder[key] = chance.choice(ODD)
    elif kind == 1:
        del holder[key]
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3 and isinstance(holder, dict):
        holder[str(key) + chance.choice(("s", " ", "\u200b", "\n", ""))] = holder.pop(key)
    elif kind == 4:
        other, place = chance.choice(places)
        # A copy: a tree that holds itself is no file.
        holder[key] = json.loads(json.dumps(other[place]))
    elif isinstance(holder, dict):
        holder[chance.choice(("run", "steps", "lab", "x" * 300, "<<", "0", "\u0000"))] = "x"
    else:
        holder[:] = holder * 50


MUTATIONS: dict[str, Mutation] = {
    "bits": flip,
    "words": insert_word,
    "cuts": cut,
    "lines swapped": _change_lines(_swap_lines),
    "lines repeated": _change_lines(_repeat_line),
    "lines dropped": _change_lines(_drop_line),
    "lines indented": _change_lines(_indent_line),
    "lines lengthened": _change_lines(_lengthen_line),
    "encodings": encode_otherwise,
    "bombs": bomb,
    "structure": reshape,
    "structure again": reshape,
    "structure and bits": lambda data, chance: flip(reshape(data, chance), chance),
}
"""By name, for what a failing test prints."""
