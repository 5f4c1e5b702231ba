"""The first lab of a module's repository: what is in its files, and a ``lab.yaml`` for it.

``survey`` finds; ``render_files`` writes. A tree is a mapping of paths, relative to its top and
with slashes, to the text of its Kbuild files, Makefiles, ``dkms.conf`` and C sources.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from orchestrator.plan.dkms import Dkms, parse_dkms
from orchestrator.plan.makefiles import Rule, logical_lines, parse_makefile
from orchestrator.plan.visible import clip, visible

Tree = Mapping[str, str]

SCHEMAS_DIR = ".kmod-lab"
"""Where ``lab init`` puts what editors know the lab's files by."""
MAKEFILE_NAMES = ("Kbuild", "Makefile", "makefile", "GNUmakefile", "Makefile.in")
"""What may say what is built, the first that a folder has; kbuild itself knows two of them."""
DKMS_NAME = "dkms.conf"
SOURCE_ENDINGS = (".c", ".S", ".h")
_MODULE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,54}")
_MAX_PARAMETERS = 8


@dataclass(frozen=True)
class Place:
    """Something that is to be told of a file."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return visible(f"{self.file}:{self.line}: {clip(self.message, 200)}")


@dataclass(frozen=True)
class FoundModule:
    """A module that the tree builds."""

    name: str
    """As its ``.ko`` file is called."""
    file: str
    """The file that names it."""
    line: int
    sources: tuple[str, ...] = ()
    """Its sources, as far as they are in the tree."""
    first: tuple[str, ...] = ()
    """The other modules of the tree that must be loaded before it, in order."""
    parameters: tuple[str, ...] = ()
    """What it takes when it is loaded, as its sources say."""
    is_livepatch: bool = False
    """Whether it patches the kernel: then it can be unloaded only after it was switched off."""

    @property
    def kernel_name(self) -> str:
        """What the kernel calls it."""
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class FoundFolder:
    """A folder that is built as one."""

    name: str
    """A name for it, unlike that of any other."""
    path: str
    """The folder that a build needs; ``.`` is the tree's top."""
    folder: str = ""
    """The folder below it with the Kbuild file, where that is another."""
    make: str = ""
    """The command that builds it, where kbuild alone would not do."""
    why: str = ""
    """Why ``folder`` or ``make`` is there."""
    modules: tuple[FoundModule, ...] = ()


@dataclass(frozen=True)
class Drivers:
    """What a module uses of the kernel that smaller flavours leave out."""

    header: str
    file: str
    line: int
    extra: bool
    """Whether Ubuntu has it in ``linux-modules-extra`` (looked up in that of 5.4, 6.8)."""


@dataclass(frozen=True)
class Survey:
    """What was found in a tree."""

    folders: tuple[FoundFolder, ...] = ()
    """In an order in which they can be built."""
    drivers: tuple[Drivers, ...] = ()
    unclear: tuple[Place, ...] = ()

    @property
    def modules(self) -> tuple[FoundModule, ...]:
        """All modules, those that others need before these."""
        return tuple(module for folder in self.folders for module in folder.modules)


def survey(tree: Tree, name: str) -> Survey:
    """What a tree builds; ``name`` is for what has no name of its own. Raises nothing."""
    return _Surveyor(tree, name).survey()


# --- what is built -------------------------------------------------------------------------


@dataclass
class _Unit:
    """A folder with the modules that kbuild makes of it."""

    path: str
    makefile_path: str
    modules: list[FoundModule] = field(default_factory=list)
    options: dict[str, None] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    """All makefiles that were read for it."""


class _Surveyor:
    def __init__(self, tree: Tree, name: str) -> None:
        self._tree = tree
        self._name = name
        self._unclear: list[Place] = []
        self._beside: dict[str, list[str]] = {}
        for path in tree:
            folder, _, file = path.rpartition("/")
            self._beside.setdefault(folder or ".", []).append(file)
        self._files = {
            folder: found for folder in self._beside if (found := self._makefile_of(folder))
        }
        self._parsed = {
            folder: parse_makefile(tree[path], self._beside[folder])
            for folder, path in self._files.items()
        }

    def survey(self) -> Survey:
        units = self._units()
        folders = [self._folder(unit) for unit in units]
        folders = self._with_dkms(folders)
        folders = self._without_doubles(folders)
        folders = _in_order(_with_needs(folders, self._tree))
        named = _named(folders, self._name)
        drivers = tuple(_drivers(named, self._tree))
        return Survey(tuple(named), drivers, tuple(dict.fromkeys(self._unclear)))

    def _makefile_of(self, folder: str) -> str:
        names = self._beside[folder]
        found = next((name for name in MAKEFILE_NAMES if name in names), "")
        return _join(folder, found) if found else ""

    def _units(self) -> list[_Unit]:
        reached = {
            _join(folder, below) for folder, read in self._parsed.items() for below in read.folders
        }
        units = []
        for folder in sorted(self._parsed, key=lambda each: (each.count("/"), each)):
            if folder in reached:
                continue
            unit = _Unit(folder, self._files[folder])
            self._collect(folder, unit, set())
            if unit.modules:
                units.append(unit)
        return units

    def _collect(self, folder: str, unit: _Unit, seen: set[str]) -> None:
        """Add to a unit what a folder and those that it goes on to build."""
        read = self._parsed.get(folder)
        if read is None or folder in seen:
            return
        seen.add(folder)
        path = self._files[folder]
        unit.parts.append(path)
        self._unclear += [Place(path, each.line, each.message) for each in read.unclear]
        for one in read.objects:
            name = posixpath.basename(one.name)
            sources = self._sources(folder, one.parts or (one.name,))
            if not _MODULE_NAME.fullmatch(name):
                self._unclear.append(Place(path, one.line, f"{one.name!r} is no module's name"))
                continue
            if not sources:
                missing = f"{_join(folder, (one.parts or (one.name,))[0])}.c"
                self._unclear.append(Place(path, one.line, f"{name}: there is no {missing}"))
            texts = "\n".join(self._tree[source] for source in sources)
            found = tuple(dict.fromkeys(_PARAMETER.findall(texts)))
            patches = re.search(r"\bklp_enable_patch\s*\(", texts) is not None
            made = FoundModule(name, path, one.line, sources, (), found, is_livepatch=patches)
            unit.modules.append(made)
        unit.options |= dict.fromkeys(read.options)
        for below in read.folders:
            self._collect(_join(folder, below), unit, seen)

    def _sources(self, folder: str, parts: Iterable[str]) -> tuple[str, ...]:
        """The sources of objects: those of the tree, and the C files that they include."""
        found: dict[str, None] = {}
        todo = [_join(folder, part) + end for part in parts for end in (".c", ".S")]
        while todo:
            path = todo.pop(0)
            if path in self._tree and path not in found:
                found[path] = None
                below = re.findall(r'^\s*#\s*include\s+"([^"\n]+\.c)"', self._tree[path], re.M)
                todo += [_join(posixpath.dirname(path) or ".", other) for other in below]
        return tuple(found)

    # --- how it is built ---------------------------------------------------------------------

    def _folder(self, unit: _Unit) -> FoundFolder:
        top = self._top_of(unit)
        inner = "" if top == unit.path else posixpath.relpath(unit.path, top)
        above = "the top" if top == "." else f"{top}/"
        why = f"{unit.makefile_path} or a source reads files of {above}" if inner else ""
        made = FoundFolder("", top, inner, why=why, modules=tuple(unit.modules))
        if unit.options:
            options = " ".join(f"{option}=m" for option in unit.options)
            make = f"make -C $KDIR M=$PWD {options} modules"
            why = f"{', '.join(unit.options)} decides what is built"
            return replace(made, make=make, why=_both(why, made.why))
        if made_first := self._made_first(unit.path):
            target, variable, file = made_first
            setting = f"{variable}=$KDIR " if variable else ""
            why = _both(f"its Makefile makes {file}", made.why)
            return replace(made, make=f"make {setting}{target}", why=why)
        return made

    def _top_of(self, unit: _Unit) -> str:
        """The folder that has all that a unit reads: its own, or one above it."""
        used = [unit.path]
        for module in unit.modules:
            used += [_parent(path) for path in module.sources]
        for file, line, path in self._reads_above(unit):
            if path.startswith(".."):
                message = f"{path} is read, which is above this folder: run `lab init` there"
                self._unclear.append(Place(file, line, message))
            elif self._exists(path):
                used.append(path if self._is_folder(path) else _parent(path))
        return _common(used)

    def _reads_above(self, unit: _Unit) -> Iterator[tuple[str, int, str]]:
        """The paths through ``..`` of a unit's files, each with the file and line that has it."""
        for makefile in unit.parts:
            for number, line in logical_lines(self._tree[makefile]):
                for up in _UP.findall(_HERE.sub("", line)):
                    yield makefile, number, _join(_parent(makefile), up)
        for source in (path for module in unit.modules for path in module.sources):
            for found in _INCLUDE_UP.finditer(self._tree[source]):
                number = self._tree[source].count("\n", 0, found.start()) + 1
                yield source, number, _join(_parent(source), found[1])

    def _exists(self, path: str) -> bool:
        return path in self._tree or self._is_folder(path)

    def _is_folder(self, path: str) -> bool:
        return path == "." or any(known.startswith(f"{path}/") for known in self._tree)

    def _made_first(self, folder: str) -> tuple[str, str, str] | None:
        """The target that makes sources and then the modules, the variable that names the
        kernel's tree there, and what it makes; None where no source has to be made.
        """
        name = next((n for n in ("Makefile", "Makefile.in") if n in self._beside[folder]), "")
        if not name:
            return None
        rules = parse_makefile(self._tree[_join(folder, name)], self._beside[folder]).rules
        makers = {target: rule for rule in rules for target in rule.targets if rule.recipe}
        for rule in rules:
            if not rule.runs_kernel_make or not _builds(rule):
                continue
            for need in _closure(rule, makers):
                is_source = need.endswith((".h", ".c", ".S", ".inc"))
                if is_source and need in makers and _join(folder, need) not in self._tree:
                    return rule.targets[0], rule.kernel_variable, need
        return None

    # --- dkms.conf -----------------------------------------------------------------------------

    def _with_dkms(self, folders: list[FoundFolder]) -> list[FoundFolder]:
        for path in sorted(p for p in self._tree if posixpath.basename(p) == DKMS_NAME):
            dkms = parse_dkms(self._tree[path])
            base = posixpath.dirname(path) or "."
            folders = self._apply(dkms, path, base, folders)
        return folders

    def _apply(
        self, dkms: Dkms, path: str, base: str, folders: list[FoundFolder]
    ) -> list[FoundFolder]:
        """The folders with what a ``dkms.conf`` in ``base`` says of them."""
        told: list[FoundModule] = []
        for each in dkms.modules:
            if _MODULE_NAME.fullmatch(each.name):
                told.append(FoundModule(each.name, path, each.line))
            else:
                self._unclear.append(Place(path, each.line, f"what is {each.name!r}?"))
        if any(line and "MODULE" in said for line, said in dkms.unclear):
            self._unclear += [Place(path, line, said) for line, said in dkms.unclear]
        known = {module.name: folder for folder in folders for module in folder.modules}
        unknown = tuple(module for module in told if module.name not in known)
        command = _dkms_command(dkms)
        result = []
        for folder in folders:
            own = any(known.get(module.name) is folder for module in told)
            if own and (dkms.pre_build or (folder.make and dkms.make)):
                why = _both(f"{path} says so", folder.why)
                modules = tuple(folder.modules)
                folder = FoundFolder("", base, "", command, why, modules)
            result.append(folder)
        if unknown:
            result.append(FoundFolder("", base, "", command, f"{path} says so", unknown))
        return result

    def _without_doubles(self, folders: list[FoundFolder]) -> list[FoundFolder]:
        seen: dict[str, FoundModule] = {}
        result = []
        for folder in folders:
            kept = []
            for module in folder.modules:
                other = seen.setdefault(module.kernel_name, module)
                if other is module:
                    kept.append(module)
                elif other.file != module.file:
                    message = f"{module.name} is built by {other.file} too, and taken from there"
                    self._unclear.append(Place(module.file, module.line, message))
            if kept:
                result.append(replace(folder, modules=tuple(kept)))
        return result


# The folder that is built, by the names that it has in Makefiles.
_HERE = re.compile(r"\$[({](?:srctree|src|obj|M|PWD|CURDIR)[)}]/?")
_UP = re.compile(r"(?<![./)}])(?:\.\./)+[\w./-]*|(?<![./)}])\.\.(?=\s|$)")
_INCLUDE_UP = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"(\.\./[^"\n]{1,200})"', re.M)
_OTHER_TARGETS = re.compile(r"clean|install|check|test|debug|sparse|coverity|sign")


def _builds(rule: Rule) -> bool:
    """Whether a rule that runs the kernel's make is there to build the modules."""
    return bool(rule.targets) and not _OTHER_TARGETS.search(rule.targets[0])


def _closure(rule: Rule, makers: Mapping[str, Rule]) -> list[str]:
    """All that has to be there before a rule's recipe."""
    found: dict[str, None] = {}
    todo = list(rule.needs)
    while todo:
        need = todo.pop(0)
        if need not in found:
            found[need] = None
            todo += makers[need].needs if need in makers else ()
    return list(found)


def _both(one: str, other: str) -> str:
    return f"{one}; {other}" if other else one


def _dkms_command(dkms: Dkms) -> str:
    make = dkms.make or "make -C $kernel_source_dir M=$PWD modules"
    return f"{dkms.pre_build} && {make}" if dkms.pre_build else make


def _join(folder: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(folder, name))


def _parent(path: str) -> str:
    return posixpath.dirname(path) or "."


def _common(paths: Sequence[str]) -> str:
    """The deepest folder above all of these."""
    if "." in paths:
        return "."
    return posixpath.commonpath(paths) or "."


# --- in which order ------------------------------------------------------------------------

_PARAMETER = re.compile(r"^[ \t]*module_param(?:_named|_array|_string|_cb)?\s*\(\s*(\w+)", re.M)
_EXPORT = re.compile(r"\bEXPORT_SYMBOL(?:_GPL)?(?:_FUTURE)?(?:_NS(?:_GPL)?)?\s*\(\s*(\w+)")
_SOFTDEP = re.compile(r'\bMODULE_SOFTDEP\s*\(\s*"[^"\n]*\bpre:\s*([\w \t-]+)')
_WORD = re.compile(r"\b[A-Za-z_]\w+\b")


def _with_needs(folders: list[FoundFolder], tree: Tree) -> list[FoundFolder]:
    """The folders, their modules with those that each needs first."""
    modules = [module for folder in folders for module in folder.modules]
    texts = {module.name: "\n".join(tree[path] for path in module.sources) for module in modules}
    exporter = {symbol: name for name, text in texts.items() for symbol in _EXPORT.findall(text)}
    same = {module.kernel_name: module.name for module in modules}
    needs: dict[str, dict[str, None]] = {}
    for name, text in texts.items():
        used = dict.fromkeys(exporter[word] for word in _WORD.findall(text) if word in exporter)
        for listed in _SOFTDEP.findall(text):
            words = (word.replace("-", "_") for word in listed.split())
            used |= dict.fromkeys(same[word] for word in words if word in same)
        used.pop(name, None)
        needs[name] = used
    order = {module.name: number for number, module in enumerate(modules)}

    def before(module: FoundModule) -> FoundModule:
        return replace(module, first=tuple(_all_before(module.name, needs, order)))

    return [replace(folder, modules=tuple(map(before, folder.modules))) for folder in folders]


def _all_before(
    name: str, needs: Mapping[str, Mapping[str, None]], order: Mapping[str, int]
) -> Iterator[str]:
    """All that a module needs, directly or not, what is needed first first."""
    done: dict[str, None] = {}

    def visit(one: str, above: frozenset[str]) -> None:
        for other in sorted(needs[one], key=order.__getitem__):
            if other not in done and other not in above:
                visit(other, above | {other})
                done[other] = None

    visit(name, frozenset({name}))
    return iter(done)


def _in_order(folders: list[FoundFolder]) -> list[FoundFolder]:
    """The folders, those that others need before these; their modules likewise."""

    def depth(module: FoundModule) -> int:
        return len(module.first)

    ordered = [
        replace(folder, modules=tuple(sorted(folder.modules, key=depth))) for folder in folders
    ]
    return sorted(ordered, key=lambda folder: max(map(depth, folder.modules)))


# What says of a folder no more than that modules are in it.
_PLAIN_FOLDERS = frozenset({".", "src", "module", "modules", "driver", "drivers", "kernel", "kmod"})
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


def safe_name(text: str, otherwise: str = "module") -> str:
    """A name of the lab's language that is as much like the text as can be."""
    return _UNSAFE.sub("-", text).lstrip("._+-")[:80] or otherwise


def _named(folders: Iterable[FoundFolder], name: str) -> list[FoundFolder]:
    taken: set[str] = set()
    named = []
    for folder in folders:
        where = posixpath.normpath(posixpath.join(folder.path, folder.folder))
        only = folder.modules[0].name if len(folder.modules) == 1 else ""
        below = posixpath.basename(where)
        base = safe_name(only or (name if below in _PLAIN_FOLDERS else below))
        chosen, number = base, 2
        while chosen in taken:
            chosen, number = f"{base[:76]}-{number}", number + 1
        taken.add(chosen)
        named.append(replace(folder, name=chosen))
    return named


# --- what of the kernel it uses --------------------------------------------------------------

# Subsystems that Debian's cloud kernels are built without; which of them Ubuntu has in
# linux-modules-extra. Looked up in the Module.symvers of 5.10.0-46-, 6.1.0-56-, 6.12.117- and
# 7.3.4-cloud-amd64, and in the packages of 5.4.0-216-generic.
_LEFT_OUT: tuple[tuple[str, bool], ...] = (
    (r"media/", True),
    (r"net/(?:cfg80211|mac80211)\.h", True),
    (r"net/bluetooth/", True),
    (r"linux/iio/", True),
    (r"sound/", False),
    (r"drm/", False),
    (r"linux/(?:hwmon|i2c|usb|rfkill)(?:-[\w-]+)?\.h|linux/usb/", False),
    (r"linux/(?:gpio|spi|mfd)/|linux/gpio\.h", False),
)
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<([^>\n]{1,200})>", re.MULTILINE)


def _drivers(folders: Iterable[FoundFolder], tree: Tree) -> Iterator[Drivers]:
    """What modules include of such subsystems: each once."""
    seen: set[str] = set()
    for source in _all_sources(folders, tree):
        for found in _INCLUDE.finditer(tree[source]):
            for pattern, extra in _LEFT_OUT:
                if pattern not in seen and re.match(pattern, found[1]):
                    seen.add(pattern)
                    line = tree[source].count("\n", 0, found.start()) + 1
                    yield Drivers(found[1], source, line, extra)


def _all_sources(folders: Iterable[FoundFolder], tree: Tree) -> Iterator[str]:
    """The modules' sources, and the headers of the tree that they include."""
    done: set[str] = set()
    todo = [path for folder in folders for module in folder.modules for path in module.sources]
    while todo:
        path = todo.pop(0)
        if path in done or path not in tree:
            continue
        done.add(path)
        yield path
        names = re.findall(r'^\s*#\s*include\s+"([^"\n]{1,200})"', tree[path], re.MULTILINE)
        todo += [_join(_parent(path), name) for name in names]


# --- the files -----------------------------------------------------------------------------

# The quick kernels of the lab's own lab.yaml, and the newest (docs/kernels.md).
_KERNELS = (
    ("5.4", "focal", "5.4"),
    ("5.10", "bullseye", "5.10"),
    ("6.1", "bookworm", "6.1"),
    ("6.12", "trixie", "6.12"),
    ("7.x", "trixie", "7"),
)
_UBUNTU = frozenset({"focal"})


def render_files(found: Survey, lab_name: str, scenarios_dir: str) -> Mapping[str, str]:
    """What is to be written, by path: ``lab.yaml`` and a scenario file for each module."""
    files = {"lab.yaml": _render_lab(found, lab_name, scenarios_dir)}
    for module in found.modules:
        files[f"{scenarios_dir}/{module.name}.yaml"] = _render_scenario(module)
    return files


def _editor_line(schema: str) -> str:
    """What has an editor know the file's keys: yaml-language-server's own comment."""
    return f"# yaml-language-server: $schema={schema}"


def _render_lab(found: Survey, lab_name: str, scenarios_dir: str) -> str:
    lines = [
        _editor_line(f"{SCHEMAS_DIR}/lab.schema.json"),
        "# A lab for the modules of this repository. `lab run` builds them for each kernel, and",
        "# plays the scenarios there. docs/language.md of kmod-lab is the reference.",
        f"lab: {_scalar(lab_name)}",
        "",
        "# Folders that are built, each by a name for reports.",
        "modules:",
    ]
    for folder in found.folders:
        lines += _render_folder(folder)
    lines += ["", *_render_kernels(found.drivers)]
    lines += ["", "scenarios:", f"  - {scenarios_dir}/*.yaml", ""]
    return "\n".join(lines)


def _render_folder(folder: FoundFolder) -> Iterator[str]:
    names = ", ".join(f"{module.name}.ko" for module in folder.modules)
    yield f"  # {names}" if len(names) < 90 else f"  # {len(folder.modules)} modules"
    if not (folder.folder or folder.make):
        yield f"  {_scalar(folder.name)}: {_scalar(folder.path)}"
        return
    if folder.why:
        yield f"  # {visible(folder.why)}"
    yield f"  {_scalar(folder.name)}:"
    yield f"    path: {_scalar(folder.path)}"
    if folder.folder:
        yield f"    folder: {_scalar(folder.folder)}"
    if folder.make:
        yield f"    make: {_scalar(folder.make)}"


def _render_kernels(drivers: Sequence[Drivers]) -> Iterator[str]:
    if drivers:
        headers = ", ".join(f"<{each.header}>" for each in drivers)
        yield f"# With all drivers of the distribution: the modules use {visible(headers)}."
    else:
        yield "# Small ones, where there are any: with `flavour: amd64` Debian's have all drivers."
    yield "kernels:"
    for name, image, version in _KERNELS:
        more = ""
        if image not in _UBUNTU and drivers:
            more = ", flavour: amd64"
        elif image in _UBUNTU and any(each.extra for each in drivers):
            more = ", extra: true"
        yield f'  "{name}": {{image: {image}, version: "{version}"{more}}}'


def _render_scenario(module: FoundModule) -> str:
    name = _scalar(module.name)
    lines = [
        _editor_line(f"../{SCHEMAS_DIR}/scenario.schema.json"),
        f"# {visible(module.file)}, line {module.line}, builds {visible(module.name)}.ko.",
        "scenarios:",
        "  loads-twice:",
        "    about: It loads, unloads, and does both again; the kernel complains of nothing,",
        "      and nothing is left behind.",
    ]
    if module.first:
        lines.append("    # it uses what these export; they are unloaded at the end")
        lines.append(f"    modules: [{', '.join(map(_scalar, module.first))}]")
    lines.append("    steps:")
    if module.parameters:
        shown = ", ".join(module.parameters[:_MAX_PARAMETERS])
        lines.append(f"      # A load can have `parameters: {{NAME: VALUE}}`. It takes {shown}.")
    for _ in range(2):
        lines.append(f"      - load: {name}")
        if module.is_livepatch:
            lines += _render_switching_off(module)
        lines.append(f"      - unload: {name}")
    return "\n".join([*lines, ""])


def _render_switching_off(module: FoundModule) -> Iterator[str]:
    """The step that ends a livepatch (Documentation/livepatch/livepatch.rst, Linux 5.4: its
    folder goes when no task is in what was patched any more).
    """
    folder = f"/sys/kernel/livepatch/{module.kernel_name}"
    command = f"echo 0 > {folder}/enabled; while [ -e {folder} ]; do sleep 0.1; done"
    yield f"      - run: {_scalar(command)}"
    yield "        timeout: 60"


_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "~", ""})


def _scalar(text: str) -> str:
    """Text as YAML writes it: in double quotes where it might mean anything else."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return json.dumps(text, ensure_ascii=True)


def lab_name_of(folder: PurePosixPath) -> str:
    """A lab's name after its folder."""
    return safe_name(folder.name, "lab")
