"""Making text from a guest safe to show: on a terminal, in XML, in a report.

Everything a guest printed passes through here before anybody sees it. A terminal obeys
escape sequences, XML 1.0 forbids most control characters, and a reader is deceived by
what turns the direction of writing or has no width.
"""

from __future__ import annotations

_NAMES = {"\t": "\\t", "\r": "\\r", "\n": "\\n", "\0": "\\0"}


def visible(text: str) -> str:
    """One line of text with every character that is not printable as an escape.

    Not printable is what ``str.isprintable`` calls so: controls (also those of eight
    bits), format characters such as U+202E, surrogates, what is not assigned, and every
    blank but the space. Backslashes stay as they are, so this cannot be undone.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def visible_lines(text: str) -> tuple[str, ...]:
    """The lines of a text, each as ``visible``; a carriage return before a newline is dropped."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return tuple(visible(line.removesuffix("\r")) for line in lines)


def decode(data: bytes) -> str:
    """Bytes as text, whatever they are; those that are no UTF-8 as escapes."""
    return data.decode("utf-8", errors="backslashreplace")


def clip(line: str, width: int) -> str:
    """The line, cut to ``width`` characters with an ellipsis where it is longer."""
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def _escape(char: str) -> str:
    if char in _NAMES:
        return _NAMES[char]
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
