"""``lab completion``: what a shell offers when a user presses Tab.

The script of each shell asks ``lab completion --words :WORD…`` for each Tab. The answer is made
from the parser, so it knows every command and option, and from the lab at hand, of which only
names are read: without pydantic and without a network, so that it comes at once.

What is offered is put on a command line as it is. A lab may be a stranger's, so a name that a
shell could take for more than a word is not offered.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.foundation.errors import ConfigError
from orchestrator.plan.paths import PACKAGE_DIR

FILES = ":files"
FOLDERS = ":folders"
"""Lines that leave the rest to the shell."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}(/[A-Za-z0-9][A-Za-z0-9._+-]{0,79})?")
_LAB = "lab.yaml"
_MANY = ("*", "+", argparse.REMAINDER, argparse.PARSER)


@dataclass(frozen=True)
class Candidate:
    """A word that could stand there, and what it is."""

    word: str
    about: str = ""


def script(shell: str) -> str:
    """The script that teaches ``shell``, bash, zsh or fish, to complete ``lab``."""
    return (PACKAGE_DIR / f"completions/lab.{shell}").read_text("utf-8")


def answer(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """What a shell's script asks for: a line for each candidate for the last of ``words``.

    The word, a tab, and what it is; or ``FILES`` or ``FOLDERS`` alone. ``words`` are those
    after ``lab``, up to the cursor.
    """
    typed = _Typed(parser)
    *before, last = _joined(words) or [""]
    for word in before:
        typed.take(word)
    option, equals, value = last.partition("=")
    if equals and typed.starts_option(option):
        typed.take(option)
        last, prefix = value, f"{option}="
    else:
        prefix = ""
    lines = []
    for found in typed.candidates(last):
        if found.word in (FILES, FOLDERS):
            lines.append(found.word)
        elif found.word.startswith(last):
            lines.append(f"{prefix}{found.word}\t{found.about}")
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def _joined(words: Sequence[str]) -> list[str]:
    """The words, without what bash makes of ``--lab=x``: it takes ``=`` for a word of its own."""
    kept: list[str] = []
    for number, word in enumerate(words):
        if word == "=" and number and words[number - 1].startswith("--"):
            if number + 1 == len(words):
                kept.append("")
            continue
        kept.append(word)
    return kept


@dataclass
class _Typed:
    """What was typed so far: which command it is in, and what may come next."""

    parser: argparse.ArgumentParser
    lab: Path = Path(_LAB)
    _option: argparse.Action | None = None
    _given: int = 0
    _place: int = 0
    _seen: list[argparse.Action] = field(default_factory=list)

    def take(self, word: str) -> None:
        """Go past a whole word."""
        if self._wants_value() and not (self._is_satisfied() and word.startswith("-")):
            self._given += 1
            if self._option is not None and self._option.dest == "lab":
                self.lab = Path(word)
        elif word.startswith("-") and len(word) > 1:
            name, equals, value = word.partition("=")
            self._option, self._given = self._find_option(name), 0
            if self._option is not None:
                self._seen.append(self._option)
            if equals:
                self.take(value)
        else:
            self._take_positional(word)

    def starts_option(self, name: str) -> bool:
        """Whether this is an option that takes a value, so that ``=`` may follow."""
        found = self._find_option(name)
        return not self._wants_value() and found is not None and found.nargs != 0

    def candidates(self, last: str) -> Iterator[Candidate]:
        """What could stand where ``last`` is being typed."""
        if self._wants_value():
            assert self._option is not None
            yield from self._values(self._option)
            if not self._is_satisfied():
                return
        if last.startswith("-"):
            yield from self._options()
            return
        positional = self._positional()
        if positional is not None:
            yield from self._values(positional)
        elif not self._wants_value():
            yield from self._options()

    def _find_option(self, name: str) -> argparse.Action | None:
        return self.parser._option_string_actions.get(name)

    def _wants_value(self) -> bool:
        if self._option is None:
            return False
        wanted = self._option.nargs
        if wanted in _MANY:
            return True
        return self._given < (wanted if isinstance(wanted, int) else 1)

    def _is_satisfied(self) -> bool:
        """Whether the option could do with the values that it has."""
        wanted = None if self._option is None else self._option.nargs
        return wanted in ("?", "*") or (wanted == "+" and self._given > 0)

    def _positional(self) -> argparse.Action | None:
        places = [action for action in self.parser._actions if not action.option_strings]
        return places[self._place] if self._place < len(places) else None

    def _take_positional(self, word: str) -> None:
        action = self._positional()
        self._option = None
        if isinstance(action, argparse._SubParsersAction):
            if word in action.choices:
                self.parser, self._place, self._seen = action.choices[word], 0, []
        elif action is not None and action.nargs not in _MANY:
            self._place += 1

    def _options(self) -> Iterator[Candidate]:
        for action in self.parser._actions:
            again = isinstance(action, argparse._AppendAction)
            if action.help == argparse.SUPPRESS or (action in self._seen and not again):
                continue
            # The long one says what it is.
            for name in action.option_strings[-1:]:
                yield Candidate(name, _about(action))

    def _values(self, action: argparse.Action) -> Iterator[Candidate]:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield Candidate(choice.dest, _about(choice))
        elif action.choices is not None:
            yield from (Candidate(str(choice)) for choice in action.choices)
        elif action.dest in ("kernel", "between"):
            yield from _kernels(self.lab)
        elif action.dest == "scenario":
            yield from _scenarios(self.lab)
        elif action.dest == "run":
            yield from _runs(self.lab)
        elif action.type is Path:
            yield Candidate(FOLDERS if action.metavar == "DIR" else FILES)


def _about(action: argparse.Action) -> str:
    return " ".join((action.help or "").split())


# --- the lab at hand ---------------------------------------------------------------------------


def _read(path: Path) -> Mapping[str, object]:
    """What stands in a file; nothing, where it is no file of ours."""
    from orchestrator.plan.yamlsource import load_yaml

    try:
        value = load_yaml(path).value
    except ConfigError:
        return {}
    return value if isinstance(value, dict) else {}


def _names(value: object) -> Iterator[str]:
    """The keys of a mapping that are safe on a command line."""
    keys = value if isinstance(value, dict) else {}
    yield from (key for key in keys if _SAFE.fullmatch(key))


def _kernels(path: Path) -> Iterator[Candidate]:
    """What ``-k`` takes: kernels, groups, images."""
    lab = _read(path)
    yield from (Candidate(name, "kernel") for name in _names(lab.get("kernels")))
    yield from (Candidate(name, "group of kernels") for name in _names(lab.get("groups")))
    entries = lab.get("kernels")
    for entry in entries.values() if isinstance(entries, dict) else ():
        image = entry.get("image") if isinstance(entry, dict) else None
        if isinstance(image, str) and _SAFE.fullmatch(image):
            yield Candidate(image, "kernels with this image")
    yield Candidate("latest", "the kernel with the highest version")


def _scenarios(path: Path) -> Iterator[Candidate]:
    """The scenarios' names, file by file."""
    patterns = _read(path).get("scenarios")
    root = path.parent.resolve()
    for pattern in patterns if isinstance(patterns, tuple) else ():
        if not isinstance(pattern, str) or pattern.startswith("/") or ".." in pattern:
            continue
        for found in sorted(root.glob(pattern)):
            if found.is_file() and found.resolve().is_relative_to(root) and found.name != path.name:
                yield from _scenarios_of(found)


def _scenarios_of(path: Path) -> Iterator[Candidate]:
    scenarios = _read(path).get("scenarios")
    for name in _names(scenarios):
        if _SAFE.fullmatch(f"{path.stem}/{name}"):
            yield Candidate(f"{path.stem}/{name}", "scenario")


def _runs(path: Path) -> Iterator[Candidate]:
    """The runs that are kept, the latest first, and folders."""
    found = sorted((path.parent / "lab-results").glob("*-*-*/results.json"), reverse=True)
    yield from (
        Candidate(each.parent.name, "run") for each in found if _SAFE.fullmatch(each.parent.name)
    )
    yield Candidate(FOLDERS)
