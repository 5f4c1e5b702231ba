"""Lines for a terminal or a file: bounded, with nothing in them that is not printable."""

from __future__ import annotations

import textwrap

from orchestrator.plan.visible import clip, visible

WIDTH = 80
MAX_TEXT = 600
MAX_LINE = 200


def wrapped(text: str, indent: str) -> list[str]:
    """In lines of at most 80 columns; a word that is longer than a line is broken."""
    shown = clip(visible(text), MAX_TEXT)
    return textwrap.wrap(shown, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]


def cut(line: str) -> str:
    """The line, cut where it is too long even for a file."""
    return clip(visible(line), MAX_LINE)
