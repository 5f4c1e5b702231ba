"""``lab.yaml`` and its scenario files to a ``Lab``, or to one clear error.

Two halves. The first reads files and checks what no single value can know: names that
other places define, paths, the order of steps. The second turns what pydantic says of a
value into what its author needs: place, plain words, what is allowed. Whether a module
exists is not known here: only its Kbuild file says so.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAlias,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.foundation.errors import ConfigError, Position
from orchestrator.plan.model import (
    PATTERN_WORDS,
    STEP_VERBS,
    BackgroundStep,
    EndStep,
    ExecStep,
    KernelEntry,
    Lab,
    LabFile,
    LogStep,
    ModuleEntry,
    NamedScenario,
    RebootStep,
    RefusedError,
    Scenario,
    ScenarioFile,
    Step,
    did_you_mean,
    lab_file_model,
)
from orchestrator.plan.version import VersionRange
from orchestrator.plan.yamlsource import (
    Document,
    PlainValue,
    ValuePath,
    WrittenFloat,
    WrittenInt,
    load_yaml,
    quoted,
    shown_path,
)

MAX_SCENARIO_FILES = 1000

_Model = TypeVar("_Model", bound=BaseModel)


def load_lab(path: Path, entries: tuple[type[KernelEntry], ...]) -> Lab:
    """The lab that ``path``, a ``lab.yaml``, describes, with every scenario in order.

    ``entries`` are the kinds of kernels that it may name.

    Reads files and nothing else. Raises ``ConfigError`` for the first thing that is
    wrong, with its position; the hint says how many more there are in that file.
    """
    document = load_yaml(path)
    file = validate_document(lab_file_model(entries), document)
    root = Path(os.path.realpath(path.parent))
    problems = Problems(document)
    _check_groups(file, problems)
    module_dirs = _resolve_module_dirs(file, root, problems)
    images_dir = _resolve_images_dir(file, root, problems)
    scenario_paths = _resolve_scenario_files(file, root, problems, lab_name=path.name)
    _check_allowed_kernels(file, problems)
    problems.raise_first()
    scenarios = tuple(named for found in scenario_paths for named in load_scenarios(found, root))
    _check_allowed_scenarios(file, scenarios, problems)
    problems.raise_first()
    return Lab(
        path=root / path.name,
        file=file,
        module_dirs=module_dirs,
        scenarios=scenarios,
        images_dir=images_dir,
        program_paths={
            step.exec: Path(os.path.realpath(root / step.exec))
            for named in scenarios
            for step in named.programs
        },
    )


def _check_allowed_kernels(file: LabFile, problems: Problems) -> None:
    for number, entry in enumerate(file.allow):
        try:
            VersionRange.parse(entry.kernels)
        except ValueError as error:
            problems.add(("allow", number, "kernels"), str(error))


def _check_allowed_scenarios(
    file: LabFile, scenarios: Sequence[NamedScenario], problems: Problems
) -> None:
    names = [scenario.name for scenario in scenarios]
    for number, entry in enumerate(file.allow):
        for place, pattern in enumerate(entry.scenarios):
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                problems.add(
                    ("allow", number, "scenarios", place),
                    f"no scenario of this lab is called {quoted(pattern)}",
                    hint=did_you_mean(pattern, names) or "`lab list` shows them",
                )


def load_scenarios(path: Path, root: Path | None = None) -> tuple[NamedScenario, ...]:
    """The scenarios of one file, in its order; ``ConfigError`` for the first thing wrong.

    With ``root``, the folder of ``lab.yaml``, what their `exec` steps name must be there.
    """
    document = load_yaml(path)
    file = validate_document(ScenarioFile, document)
    problems = Problems(document)
    named = [
        NamedScenario(
            name=f"{path.stem}/{name}",
            path=path,
            line=document.key_position_of(("scenarios", name)).line,
            scenario=scenario,
            kernels=_check_scenario(scenario, ("scenarios", name), problems),
        )
        for name, scenario in file.scenarios.items()
    ]
    if root is not None:
        for each, name in zip(named, file.scenarios, strict=True):
            for number, step in enumerate(each.scenario.steps):
                if isinstance(step, ExecStep):
                    _check_program(step, root, ("scenarios", name, "steps", number), problems)
    problems.raise_first()
    return tuple(named)


def _check_program(step: ExecStep, root: Path, path: ValuePath, problems: Problems) -> None:
    """Say what is wrong with what an `exec` step brings."""
    where = (*path, "exec")
    real = _resolve_below(step.exec, root, where, problems)
    if real is None:
        return
    if os.path.isdir(real):
        _check_program_in(step, real, path, problems)
    elif not os.path.isfile(real):
        what = "is no file and no folder" if os.path.lexists(real) else "does not exist"
        problems.add(where, f"{quoted(step.exec)} {what}", hint=f"looked for {shown_path(real)}")
    elif step.program is not None:
        message = f"`program` is for folders, and {quoted(step.exec)} is a file"
        problems.add((*path, "program"), message)
    elif step.make:
        message = f"`make` is for folders, and {quoted(step.exec)} is a file"
        problems.add((*path, "make"), message, hint="a single .c file is compiled without it")
    elif real.suffix != ".c":
        _check_executable(real, step.exec, where, problems)


def _check_program_in(step: ExecStep, folder: Path, path: ValuePath, problems: Problems) -> None:
    where = (*path, "program")
    if step.program is None:
        message = f"{quoted(step.exec)} is a folder: `program` must say what to run in it"
        problems.add((*path, "exec"), message)
        return
    if step.make and not any(
        os.path.isfile(folder / name) for name in ("GNUmakefile", "makefile", "Makefile")
    ):
        problems.add((*path, "make"), f"folder {quoted(step.exec)} has no Makefile")
    hint = f"it is relative to {step.exec}, and stays below it"
    program = _resolve_below(step.program, folder, where, problems, hint)
    if program is None or (step.make and not os.path.lexists(program)):
        return  # `make` is yet to make it
    if not os.path.isfile(program):
        message = f"{quoted(step.program)} is no file in folder {quoted(step.exec)}"
        problems.add(where, message, hint="`make: true` if it is to be made there first")
    else:
        _check_executable(program, step.program, where, problems)


def _check_executable(program: Path, text: str, path: ValuePath, problems: Problems) -> None:
    if not program.stat().st_mode & 0o100:
        message = f"{quoted(text)} is not executable"
        problems.add(path, message, hint=f"chmod +x {shown_path(program)}")


def validate_document(model: type[_Model], document: Document) -> _Model:
    """The document as a ``model``; ``ConfigError`` for the first thing in it that is wrong."""
    problems = Problems(document)
    absent = list(_absent(document.value, ()))
    try:
        valid = model.model_validate(document.value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        if absent:
            # What else is said may only follow from what is absent; of unknown keys
            # it does not.
            details = [detail for detail in details if detail["type"] == "extra_forbidden"]
        for detail in details:
            _Complaint(model, document, detail).explain(problems)
        if not (problems.paths or absent):
            problems.add((), "the file is not as it must be")
    for path in absent:
        if path not in problems.paths:
            _explain_absent(path, problems)
    problems.raise_first()
    return valid


# --- collecting what is wrong ---------------------------------------


_Hint: TypeAlias = str | Callable[[], str]
"""A hint, or what finds it: looking for similar names takes long, and only one hint is shown."""


@dataclass(frozen=True)
class _Problem:
    where: Position
    message: str
    dotted: str
    hint: _Hint


@dataclass
class Problems:
    """What is wrong in one document, so that the first by position can be told first."""

    document: Document
    paths: set[ValuePath] = field(default_factory=set)
    _found: list[_Problem] = field(default_factory=list)

    def add(
        self, path: ValuePath, message: str, *, hint: _Hint = "", key: str | None = None
    ) -> None:
        """Say ``message`` of the value at ``path``, or of its ``key``."""
        where = (
            self.document.position_of(path)
            if key is None
            else self.document.key_position_of((*path, key))
        )
        self.paths.add(path if key is None else (*path, key))
        self._found.append(_Problem(where, message, render_path(path), hint))

    def raise_first(self) -> None:
        """Raise ``ConfigError`` for the first by position, if there is any."""
        if not self._found:
            return
        first = min(self._found, key=lambda problem: (problem.where.line, problem.where.column))
        more = len(self._found) - 1
        hint = first.hint if isinstance(first.hint, str) else first.hint()
        hints = (hint, f"and {more} more in this file" if more else "")
        raise ConfigError(
            _printable(first.message),
            where=first.where,
            dotted=first.dotted,
            hint=_printable(_joined(hints)),
        )


def _printable(text: str) -> str:
    """The text with escapes for what a terminal would obey rather than show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def render_path(path: ValuePath) -> str:
    """``scenarios.greeting.steps[2].expect``; keys that are no such words as ``['6.1']``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{quoted(part)}]"
    return text


# --- lab.yaml: names and paths ---------------------------------------


def _check_groups(file: LabFile, problems: Problems) -> None:
    for group, kernels in file.groups.items():
        if group in file.kernels:
            problems.add(("groups",), f"{quoted(group)} is a kernel's name already", key=group)
        seen: set[str] = set()
        for number, kernel in enumerate(kernels):
            path = ("groups", group, number)
            if kernel not in file.kernels:
                problems.add(
                    path,
                    f"there is no kernel {quoted(kernel)}",
                    hint=partial(_guess, kernel, file.kernels, "kernels here"),
                )
            elif kernel in seen:
                problems.add(path, f"kernel {quoted(kernel)} is in this group twice")
            seen.add(kernel)


def _guess(name: str, known: Iterable[str], what: str) -> str:
    """A hint for a name that does not exist: the one meant, or else the known ones."""
    listed = list(known)
    if likely := did_you_mean(name, listed):
        return likely
    shown = ", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")
    return f"{what}: {shown}" if listed else f"there are no {what}"


def _resolve_module_dirs(file: LabFile, root: Path, problems: Problems) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, entry in file.modules.items():
        place = problems.document.nearest(("modules", name, "path"))
        top = _resolve_dir(entry.path, root, place, problems)
        if top is None or not _can_build(name, entry, top, problems):
            continue
        found[name] = top
    return found


def _can_build(name: str, entry: ModuleEntry, top: Path, problems: Problems) -> bool:
    """Whether there is something to build in a folder of modules; says why not."""
    place = problems.document.nearest(("modules", name, "folder"))
    hint = "`folder` is relative to `path`, and stays below it"
    folder = _resolve_dir(entry.folder, top, place, problems, hint)
    if folder is None:
        return False
    if entry.make or any(os.path.isfile(folder / build) for build in ("Kbuild", "Makefile")):
        return True
    problems.add(
        place,
        f"folder {quoted(entry.path if entry.folder == '.' else entry.folder)} "
        "has neither Kbuild nor Makefile",
        hint="name the folder that Kbuild is to build (`make M=…`), or with `make` the command "
        "that builds it",
    )
    return False


def _resolve_images_dir(file: LabFile, root: Path, problems: Problems) -> Path | None:
    return None if file.images is None else _resolve_dir(file.images, root, ("images",), problems)


def _resolve_dir(
    text: str, root: Path, path: ValuePath, problems: Problems, hint: str = ""
) -> Path | None:
    """The folder below ``root``, free of symbolic links, or None after saying why not."""
    folder = _resolve_below(text, root, path, problems, hint or _BELOW)
    if folder is None or os.path.isdir(folder):
        return folder
    what = "is not a folder" if os.path.lexists(folder) else "does not exist"
    problems.add(path, f"{quoted(text)} {what}", hint=f"looked for {shown_path(folder)}")
    return None


_BELOW = "paths are relative to the folder of lab.yaml, and stay below it"


def _resolve_below(
    text: str, root: Path, path: ValuePath, problems: Problems, hint: str = _BELOW
) -> Path | None:
    """The real path, or None after saying that it leaves the folder ``root``."""
    if complaint := _leaves(text):
        problems.add(path, f"{quoted(text)} {complaint}", hint=hint)
        return None
    real = Path(os.path.realpath(root / text))
    if not real.is_relative_to(root):
        problems.add(path, f"{quoted(text)} is a symbolic link to outside", hint=hint)
        return None
    return real


def _leaves(text: str) -> str:
    """In which way a path as written leaves the lab's folder, or nothing if it does not."""
    if text.startswith("/"):
        return "is absolute"
    return "has '..' in it" if ".." in text.split("/") else ""


# --- lab.yaml: scenario files ---------------------------------------


def _resolve_scenario_files(
    file: LabFile, root: Path, problems: Problems, lab_name: str
) -> list[Path]:
    """The files that the patterns find, each once: by pattern, then by name."""
    found: dict[str, Path] = {}
    stems: dict[str, str] = {}
    for number, pattern in enumerate(file.scenarios):
        path = ("scenarios", number)
        for name in _matches(pattern, root, path, problems, lab_name):
            if name in found:
                continue
            stem = Path(name).stem
            if stem in stems:
                problems.add(
                    path,
                    f"{quoted(name)} and {quoted(stems[stem])} would give scenarios the same names",
                    hint=f"scenarios are named {stem}/…, after their file: rename one",
                )
                continue
            found[name], stems[stem] = root / name, name
    if len(found) > MAX_SCENARIO_FILES:
        problems.add(("scenarios",), f"more than {MAX_SCENARIO_FILES} scenario files")
    return list(found.values())


def _matches(
    pattern: str, root: Path, path: ValuePath, problems: Problems, lab_name: str
) -> list[str]:
    """The files that one pattern finds, relative to ``root``; says why if there are none."""
    if "**" in pattern:
        problems.add(path, f"{quoted(pattern)}: '**' is not taken", hint="'*' is, per folder")
        return []
    if complaint := _leaves(pattern):
        problems.add(path, f"{quoted(pattern)} {complaint}", hint=_BELOW)
        return []
    names = sorted(os.path.normpath(name) for name in glob.glob(pattern, root_dir=root))
    if glob.has_magic(pattern):
        # lab.yaml beside its scenarios, and folders, are not meant by a `*`.
        names = [n for n in names if n != lab_name and not os.path.isdir(root / n)]
    if not names:
        problems.add(
            path, f"no file matches {quoted(pattern)}", hint=f"looked in {shown_path(root)}"
        )
    return [name for name in names if _is_taken(name, root, path, problems)]


_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")


def _is_taken(name: str, root: Path, path: ValuePath, problems: Problems) -> bool:
    """Whether a found file may be read as a scenario file; says why not."""
    if not name.isprintable() or not _STEM.fullmatch(Path(name).stem):
        problems.add(
            path,
            f"{quoted(name)} cannot name scenarios",
            hint="file names are letters, digits and '.', '_', '+', '-'",
        )
    elif os.path.isdir(root / name):
        problems.add(path, f"{quoted(name)} is a folder", hint=f"write '{name}/*.yaml'")
    else:
        return _resolve_below(name, root, path, problems) is not None
    return False


# --- scenarios: what steps say of each other ---------------------------------------


def _check_scenario(scenario: Scenario, path: ValuePath, problems: Problems) -> VersionRange:
    """The scenario's range, after checking what its parts say of each other."""
    seen: set[str] = set()
    for number, module in enumerate(scenario.modules):
        same = module.replace("-", "_")  # as the kernel names it
        if same in seen:
            problems.add((*path, "modules", number), f"module {quoted(module)} is here twice")
        seen.add(same)
    _StepOrder(problems, (*path, "steps")).check(scenario.steps)
    try:
        return VersionRange.parse(scenario.kernels)
    except ValueError as error:
        problems.add((*path, "kernels"), str(error))
        return VersionRange.parse("*")


class _StepOrder:
    """Walks a scenario's steps in order: names, and what runs in the background."""

    def __init__(self, problems: Problems, path: ValuePath) -> None:
        self._problems = problems
        self._path = path
        self._named: dict[str, int] = {}
        self._running: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def check(self, steps: Sequence[Step]) -> None:
        """Say everything that is wrong with the order of ``steps``."""
        for number, step in enumerate(steps):
            path = (*self._path, number)
            match step:
                case EndStep():
                    self._check_end(step, number)
                case LogStep() if step.log.since is not None:
                    self._check_since(step.log.since, (*path, "log", "since"))
                case RebootStep() if self._running:
                    self._problems.add(
                        path,
                        f"{self._first_running()} would not survive the reboot",
                        hint=f"`- end: {next(iter(self._running))}` before it",
                    )
            self._register(step, number)
        for name, number in self._running.items():
            self._problems.add(
                (*self._path, number),
                f"background step {quoted(name)} is never ended",
                hint=f"add `- end: {name}` where it must have ended, with `signal:` if it"
                " does not end by itself",
                key="background",
            )

    def _check_end(self, step: EndStep, number: int) -> None:
        name, path = step.end, (*self._path, number, "end")
        if self._running.pop(name, None) is not None:
            self._ended[name] = number
        elif name in self._ended:
            self._problems.add(
                path,
                f"background step {quoted(name)} was ended before",
                hint=f"by {self._title(self._ended[name])}",
            )
        elif name in self._named:
            self._problems.add(
                path,
                f"step {quoted(name)} is not a background step",
                hint=f"it is {self._title(self._named[name])}",
            )
        else:
            self._problems.add(
                path,
                f"no background step {quoted(name)} was started before",
                hint=partial(did_you_mean, name, tuple(self._running)),
            )

    def _check_since(self, name: str, path: ValuePath) -> None:
        if name not in self._named:
            self._problems.add(
                path,
                f"no step before this one is named {quoted(name)}",
                hint=partial(_guess, name, tuple(self._named), "named steps before it"),
            )

    def _register(self, step: Step, number: int) -> None:
        if step.name is None:
            return
        if step.name in self._named:
            self._problems.add(
                (*self._path, number, "name"),
                f"a second step named {quoted(step.name)}",
                hint=f"the first is {self._title(self._named[step.name])}",
            )
            return
        self._named[step.name] = number
        if isinstance(step, BackgroundStep):
            self._running[step.name] = number

    def _first_running(self) -> str:
        return f"background step {quoted(next(iter(self._running)))}"

    def _title(self, number: int) -> str:
        path = (*self._path, number)
        return f"{render_path(path)} in line {self._problems.document.position_of(path).line}"


# --- pydantic's complaints in plain words ---------------------------------------


def _absent(value: PlainValue, path: ValuePath) -> Iterator[ValuePath]:
    """The way to each null. A key with nothing after it must not pass for an absent one.

    ``stdout:`` would else mean "anything may be printed" where its author meant "nothing".
    The depth is bounded by the reader.
    """
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _absent(item, (*path, key))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _absent(item, (*path, number))


def _explain_absent(path: ValuePath, problems: Problems) -> None:
    if not path:
        problems.add(path, "the file holds nothing")
    elif isinstance(path[-1], int):
        problems.add(path, "a list item with nothing in it")
    else:
        problems.add(
            path[:-1],
            f"nothing is given for {quoted(path[-1])}",
            hint='leave out a key that is not needed; empty text is written ""',
            key=path[-1],
        )


@dataclass(frozen=True)
class _Place:
    """Where a complaint is: its way in the document, and what the model wants there."""

    path: ValuePath
    wanted: Any
    """The annotation of the value: a whole union, where the complaint is of one of its arms."""
    container: Any
    """The annotation of what holds the value."""


def _find_place(model: type[BaseModel], loc: Sequence[str | int]) -> _Place:
    """Follow pydantic's location through the model's annotations.

    The types say which parts of a location are keys and which are a union's tags, so
    that no key of a file can be taken for a tag.
    """
    path: list[str | int] = []
    annotation: Any = model
    wanted: Any = model
    container: Any = None
    for part in loc:
        bare = _bare(annotation)
        if arms := _arms(bare):
            annotation = arms.get(str(part))
            continue
        container, annotation = bare, _inner(bare, part)
        wanted = annotation
        path.append(part)
    return _Place(tuple(path), _bare(wanted), container)


def _bare(annotation: Any) -> Any:
    """An annotation without its ``Annotated`` and without ``| None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
            continue
        if _is_union(annotation):
            rest = [arm for arm in get_args(annotation) if arm is not types.NoneType]
            if len(rest) == 1:
                annotation = rest[0]
                continue
        return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _arms(annotation: Any) -> dict[str, Any]:
    """The arms of a union by their tags; nothing for what is no union."""
    if not _is_union(annotation):
        return {}
    return {
        mark.tag: arm
        for arm in get_args(annotation)
        for mark in get_args(arm)[1:]
        if isinstance(mark, Tag)
    }


def _inner(annotation: Any, part: str | int) -> Any:
    """What the model wants at a key or number of what ``annotation`` describes."""
    if _is_model(annotation):
        known = annotation.model_fields.get(str(part))
        return known.annotation if known else None
    match get_args(annotation):
        case (item, types.EllipsisType()):
            return item
        case (_, value):
            return value
    return None


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _wanted_words(annotation: Any) -> str:
    """What an annotation allows, in words."""
    bare = _bare(annotation)
    if arms := _arms(bare):
        return " or ".join(dict.fromkeys(_wanted_words(arm) for arm in arms.values()))
    if _is_model(bare):
        return "text or a mapping" if hasattr(bare, "plain_key") else "a mapping"
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(bare))
    if get_origin(bare) is tuple:
        return "a list"
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(bare, "a mapping")


def _found_words(value: PlainValue) -> str:
    """What a file has, in words."""
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, WrittenInt | WrittenFloat):
        return f"the number {value.source}"
    if isinstance(value, tuple):
        return "a list"
    return "a mapping" if isinstance(value, dict) else "nothing"


_LIMITS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


class _Complaint:
    """One of pydantic's errors, to be said in plain words."""

    def __init__(self, model: type[BaseModel], document: Document, detail: ErrorDetails) -> None:
        loc = detail["loc"]
        self._type = detail["type"]
        self._context: Mapping[str, Any] = detail.get("ctx", {})
        self._of_key = False
        self._place = _find_place(model, loc)
        if loc and loc[-1] == "[key]" and self._type != "extra_forbidden":
            # Of a mapping's key, unless "[key]" is itself a key in the file.
            holder = _find_place(model, loc[:-1])
            if get_origin(holder.container) is Mapping:
                self._of_key, self._place = True, holder
        # Where plain text stands for a mapping, the complaint is of a key that is not there.
        self._path = document.nearest(self._place.path)
        self._value = document.at(self._path)

    def explain(self, problems: Problems) -> None:
        """Say it."""
        if self._of_key:
            self._explain_key(problems)
        elif self._type == "extra_forbidden":
            self._explain_unknown(problems)
        elif self._type == "missing":
            self._explain_missing(problems)
        elif self._type == "union_tag_not_found":
            self._explain_verbless(problems)
        elif not self._is_echo():
            message, hint = self._of_value()
            problems.add(self._path, message, hint=hint)

    def _is_echo(self) -> bool:
        """Whether it only follows from others: a list counts as empty if no item is valid."""
        value = self._value
        return self._type == "too_short" and isinstance(value, tuple | dict) and bool(value)

    def _of_value(self) -> tuple[str, _Hint]:
        """Message and hint for a value that is not as it must be."""
        context = self._context
        match self._type:
            case "value_error":
                error = context["error"]
                return str(error), error.hint if isinstance(error, RefusedError) else ""
            case "string_pattern_mismatch":
                return f"{_found_words(self._value)} is not {_pattern_words(context)}", ""
            case "string_too_short" | "too_short" if isinstance(self._value, str):
                return "the text is empty", ""
            case "string_too_long" | "too_long" if isinstance(self._value, str):
                return f"the text is longer than {context['max_length']} characters", ""
            case "too_short":
                what = "mapping" if isinstance(self._value, dict) else "list"
                return f"the {what} is empty", f"at least {context['min_length']} is needed"
            case "too_long":
                return f"the list has more than {context['max_length']} items", ""
            case "literal_error":
                return self._of_choice()
            case kind if kind in _LIMITS:
                name, words = _LIMITS[kind]
                limit = context[name]
                shown = f"{limit:g}" if isinstance(limit, float) else limit
                return f"{_found_words(self._value)} {words} {shown}", ""
        return self._of_type()

    def _of_type(self) -> tuple[str, str]:
        wanted = self._place.wanted
        message = f"found {_found_words(self._value)}, where {_wanted_words(wanted)} is wanted"
        if _is_model(wanted):
            return message, _joined((_allowed(wanted), self._quotes_for(wanted)))
        if get_origin(wanted) is tuple and isinstance(self._value, str):
            return message, f"a list of one is written [{self._value[:40]}]"
        if wanted in (int, float) and isinstance(self._value, str):
            return message, "a number has no quotes, no unit and no leading zero"
        return message, ""

    def _quotes_for(self, model: type[BaseModel]) -> str:
        key = getattr(model, "plain_key", "")
        if key and isinstance(self._value, int | float):
            return f"in quotes it is the expected {key}"
        return ""

    def _of_choice(self) -> tuple[str, _Hint]:
        allowed = [str(value) for value in get_args(self._place.wanted)]
        value = self._value if isinstance(self._value, str) else ""

        def hint() -> str:
            return _joined((f"allowed here: {', '.join(allowed)}", did_you_mean(value, allowed)))

        return f"{_found_words(self._value)} is not allowed here", hint

    def _explain_key(self, problems: Problems) -> None:
        *path, key = self._path
        words = _pattern_words(self._context)
        problems.add(tuple(path), f"key {quoted(str(key))} is not {words}", key=str(key))

    def _explain_unknown(self, problems: Problems) -> None:
        path, key = self._path[:-1], str(self._path[-1])
        holder: type[BaseModel] = self._place.container
        if issubclass(holder, Step) and key in STEP_VERBS:
            problems.add(
                path,
                f"a step has one verb: not '{holder.verb}' and '{key}' together",
                hint="begin the second step with a '- ' of its own",
                key=key,
            )
            return

        def hint() -> str:
            likely = _misplaced(key, holder) or did_you_mean(key, holder.model_fields)
            return _joined((_allowed(holder), likely))

        problems.add(path, f"unknown key {quoted(key)}", hint=hint, key=key)

    def _explain_missing(self, problems: Problems) -> None:
        holder: type[BaseModel] = self._place.container
        name = str(self._place.path[-1])
        present = self._value if isinstance(self._value, dict) else {}
        if did_you_mean(name, present.keys() - holder.model_fields.keys()):
            return  # The unknown key is that one misspelled, and is complained of itself.
        about = holder.model_fields[name].description
        problems.add(
            self._path, f"key '{name}' is missing", hint=f"{name}: {about}" if about else ""
        )

    def _explain_verbless(self, problems: Problems) -> None:
        verbs = f"a step needs one of {', '.join(STEP_VERBS)}"
        if not isinstance(self._value, dict):
            message = f"found {_found_words(self._value)}, where a step is wanted"
            problems.add(self._path, message, hint=f"{verbs}, as in '- run: uname -r'")
            return
        likely = (did_you_mean(key, STEP_VERBS) for key in self._value)
        problems.add(self._path, verbs, hint=lambda: next(filter(None, likely), ""))


def _pattern_words(context: Mapping[str, Any]) -> str:
    return PATTERN_WORDS.get(context.get("pattern", ""), "written as it must be")


def _allowed(model: type[BaseModel]) -> str:
    return f"allowed here: {', '.join(model.model_fields)}"


def _misplaced(key: str, model: type[BaseModel]) -> str:
    """A hint for a key that belongs one level further in."""
    inner = model.model_fields.get("expect")
    wanted = _bare(inner.annotation) if inner else None
    if _is_model(wanted) and key in wanted.model_fields:
        return f"{key!r} belongs in 'expect'"
    return ""


def _joined(hints: Iterable[str]) -> str:
    return "; ".join(hint for hint in hints if hint)
