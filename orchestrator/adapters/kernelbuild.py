"""Kernels built from source, with an image's own compiler, in a box.

A build never touches its source: a tarball is unpacked inside the box, a folder is bound
read-only, and objects go to a folder beside it. Of what comes out, a tree is laid out as a
distribution's packages unpack, so that all the rest of the lab knows no difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from orchestrator.adapters.box import Box
from orchestrator.adapters.cache import Cache, hash_of, sha256_of, watch_room
from orchestrator.adapters.images import ensure_root, ensure_toolchain
from orchestrator.adapters.kernelsource import SourceTree
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import ConfigError, SourceError
from orchestrator.plan.buildfailure import first_error
from orchestrator.plan.kconfig import (
    NOT_SET,
    Unmet,
    find_unmet,
    merge_known,
    merge_options,
    parse_config,
    parse_kconfig,
    parse_optional,
    render_config,
)
from orchestrator.plan.quirks import (
    QUIRKS,
    Quirk,
    find_quirks,
    find_unbuildable,
    render_compilers,
    suited_image,
)
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.version import KernelVersion

FORMAT = 1
BUILD_SECONDS = 4 * 3600.0
STEP_SECONDS = 1800.0
MAX_TOLD = 8 << 20
# Beyond this a vmlinux loses its debugging information, and nothing else.
MAX_VMLINUX = 512 << 20
SOURCE, OBJECTS, TARBALL, UNPACKED = "/mnt/source", "/mnt/objects", "/mnt/tarball", "/mnt/unpacked"

Flavour = Literal["default", "debug", "kcsan"]
SUFFIXES: Mapping[Flavour, str] = {
    "default": "-lab",
    "debug": "-lab-debug",
    "kcsan": "-lab-kcsan",
}
# What a flavour is for: (option, since when, what it takes beside that).
_POINT: Mapping[str, tuple[str, str]] = {
    "debug": ("KASAN", "KASAN needs gcc 5 or newer, and 4.0"),
    "kcsan": ("KCSAN", "KCSAN is in Linux since 5.8, and needs gcc 11 or newer"),
}


@dataclass(frozen=True)
class BuildPlan:
    """A kernel to build: which source, with what options, in which release's toolchain."""

    source: SourceTree
    recipe: Recipe
    flavour: Flavour = "default"
    extra: tuple[Path, ...] = ()
    """Fragments of the user's own, which win over the flavour's."""

    @property
    def suffix(self) -> str:
        """``LOCALVERSION``."""
        return SUFFIXES[self.flavour]


@dataclass(frozen=True)
class Wish:
    """The options that a build asks for, in the order of its fragments."""

    options: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    """Those that a tree may refuse: the lab's own fragments say which, and why."""

    @property
    def local(self) -> str:
        """What the configuration itself adds to the release."""
        return self.options.get("LOCALVERSION", '""').strip('"')


def load_wish(flavour: Flavour, extra: tuple[Path, ...], config_dir: Path) -> Wish:
    """A flavour's fragments and ``extra`` ones, merged.

    Raises ``ConfigError`` where one cannot be read.
    """
    names = ["default"] if flavour == "default" else ["default", flavour]
    paths = (*(config_dir / f"{name}.config" for name in names), *extra)
    wish = Wish({})
    for path in paths:
        options, optional = _load_fragment(path)
        # What a later fragment asks for, it insists on, unless it says otherwise itself.
        left = (wish.optional - options.keys()) | optional
        wish = Wish(merge_options(wish.options, options), left)
    return wish


def _load_fragment(path: Path) -> tuple[dict[str, str], frozenset[str]]:
    try:
        text = path.read_text()
        return parse_config(text), parse_optional(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is no fragment of a kernel's configuration: {error}") from error


def resolve_build(plan: BuildPlan, config_dir: Path) -> tuple[str, str]:
    """The release of what will be built, without building it; and a hash of how.

    The hash is of all that decides what comes out beside the source and the compiler.
    """
    wish = load_wish(plan.flavour, plan.extra, config_dir)
    # scripts/setlocalversion: files, then CONFIG_LOCALVERSION, then the variable.
    release = plan.source.release(wish.local + plan.suffix)
    if len(release) > 63:
        raise SourceError(f"{release!r} is too long for a kernel's release: 63 letters are allowed")
    version = KernelVersion.parse(plan.source.version)
    quirks = [(q.cc, q.host_cc) for q in QUIRKS if q.kernels.contains(version)]
    tools = (plan.recipe.release, plan.recipe.packages, plan.recipe.kernel_packages)
    return release, hash_of(FORMAT, dict(wish.options), quirks, tools)


def build_kernel(
    cache: Cache,
    plan: BuildPlan,
    tree: Path,
    *,
    config_dir: Path,
    tool_dir: Path,
    log_path: Path,
    jobs: int | None = None,
    said: Callable[[str], None] = lambda _: None,
) -> None:
    """Build a kernel and lay it out in the empty folder ``tree``.

    Blocks for the build: minutes, more with ``debug``; ``said`` is told what is being done.
    The build's whole output is left in ``log_path``. Needs a few GiB beside ``tree``. Raises
    ``SourceError`` with the compiler's first complaint, ``ConfigError`` for options that
    cannot be had, or ``HostError``.
    """
    release, _ = resolve_build(plan, config_dir)
    said(f"getting the toolchain of {plan.recipe.release}")
    toolchain = ensure_toolchain(cache, plan.recipe, tool_dir)
    said("unpacking the toolchain")
    box = Box(ensure_root(cache, toolchain))
    log_path.parent.mkdir(parents=True, exist_ok=True)
    build = _Build(plan, release, box, tree, log_path, said)
    build.run(load_wish(plan.flavour, plan.extra, config_dir), jobs or len(os.sched_getaffinity(0)))


class _Build:
    """One build, step by step, in a folder beside the one that is filled."""

    def __init__(
        self,
        plan: BuildPlan,
        release: str,
        box: Box,
        tree: Path,
        log_path: Path,
        said: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._release = release
        self._box = box
        self._tree = tree
        self._log_path = log_path
        self._said = said
        self._deadline = Deadline.after(BUILD_SECONDS, f"building {release}")
        self._work = tree.with_name("build")
        self._objects = self._work / "objects"
        self._source = plan.source.path
        self._quirks: tuple[Quirk, ...] = ()
        self._compiler = ""

    def run(self, wish: Wish, jobs: int) -> None:
        self._objects.mkdir(parents=True)
        self._log_path.write_bytes(b"")
        self._choose_compiler()
        if not self._plan.source.is_folder:
            self._unpack()
        self._said("configuring the kernel")
        self._configure(wish)
        self._said(f"building the kernel with {self._compiler}")
        self._make("bzImage", "modules", f"-j{jobs}")
        self._check_release()
        self._make("modules_install", "INSTALL_MOD_PATH=/mnt/objects/.installed", *_INSTALL)
        if _lstat(self._objects / "vmlinux").st_size > MAX_VMLINUX:
            self._in_objects("objcopy", "--strip-debug", f"{OBJECTS}/vmlinux")
        lay_out(self._source, self._objects, self._tree, self._release)
        # Not remove_tree's business: a stranger's build may have closed its folders.
        _open_folders(self._work)
        shutil.rmtree(self._work)

    # --- steps ---------------------------------------------------------------------------

    def _choose_compiler(self) -> None:
        done = self._box.run(
            ("gcc", "-dumpfullversion", "-dumpversion"),
            deadline=Deadline.after(60, "asking the compiler its version"),
        )
        match = re.match(rb"(\d+)[.\d]*", done.stdout)
        if done.status != 0 or match is None:
            raise SourceError(f"the toolchain has no working gcc: {done.last_lines()[-300:]}")
        version, gcc = KernelVersion.parse(self._plan.source.version), int(match[1])
        if cannot := find_unbuildable(version, gcc):
            raise SourceError(
                f"{version} cannot be built with {self._plan.recipe.release}'s gcc {gcc}: "
                f"{cannot.why}",
                hint=f"`image: {cannot.image}` has one that can" if cannot.image else "",
            )
        self._quirks = find_quirks(version, gcc)
        self._compiler = f"gcc {match[0].decode()}"

    def _unpack(self) -> None:
        """Unpack the tarball inside the box: what is in it can reach nothing else."""
        self._said("unpacking the kernel's source")
        unpacked = self._work / "source"
        unpacked.mkdir()
        self._step(
            (
                *("tar", "-xf", TARBALL, "-C", UNPACKED),
                *("--no-same-owner", "--no-same-permissions"),
                *(f"--exclude={self._plan.source.top}/{pattern}" for pattern in _UNNEEDED),
            ),
            Deadline.after(STEP_SECONDS, "unpacking the kernel's source"),
            read_only={TARBALL: self._source},
            writable={UNPACKED: unpacked},
        )
        self._source = unpacked / self._plan.source.top

    def _configure(self, wish: Wish) -> None:
        (self._objects / "wanted.config").write_text(render_config(wish.options))
        self._make(f"KCONFIG_ALLCONFIG={OBJECTS}/wanted.config", "allnoconfig")
        known = load_known(self._source)
        got = parse_config(_read_regular(self._objects / ".config").decode(errors="replace"))
        point, why = _POINT.get(self._plan.flavour, ("", ""))
        if point and got.get(point, NOT_SET) == NOT_SET:
            raise SourceError(
                f"{self._plan.source.version} with {self._compiler} cannot be built as "
                f"{self._plan.flavour}: it has no {point}",
                hint=why,
            )
        if unmet := find_unmet(wish.options, got, known, wish.optional):
            raise _unmet_error(self._plan.source.version, unmet)
        if got.get("MODULES", NOT_SET) != "y":
            raise ConfigError(f"{self._release} would take no modules: CONFIG_MODULES=n")

    def _make(self, *words: str) -> None:
        self._in_objects("make", *make_words(self._plan.suffix, self._quirks), *words)

    def _in_objects(self, *argv: str) -> None:
        self._step(
            argv,
            self._deadline,
            read_only={SOURCE: self._source},
            writable={OBJECTS: self._objects},
        )

    def _step(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        *,
        read_only: Mapping[str, Path],
        writable: Mapping[str, Path],
    ) -> None:
        output = self._log_path.with_suffix(".step")
        try:
            done = self._box.run(
                argv,
                deadline=deadline,
                read_only=read_only,
                writable=writable,
                stdout_path=output,
                watch=watch_room(self._work),
            )
            text = _end_of(output)
        finally:
            # A step that was ended has its part in the log too.
            with self._log_path.open("ab") as log:
                log.write(f"$ {' '.join(argv)}\n".encode())
                if output.exists():
                    with output.open("rb") as step:
                        shutil.copyfileobj(step, log)
                    output.unlink()
        if done.status != 0:
            raise SourceError(
                f"{self._release} does not build with {self._compiler}: "
                f"{first_error(text + done.stderr.decode(errors='replace'))}",
                hint=self._other_image(),
                evidence=self._log_path,
            )

    def _other_image(self) -> str:
        suited = suited_image(KernelVersion.parse(self._plan.source.version))
        if suited == self._plan.recipe.release:
            return ""
        return f"`image: {suited}` has a compiler of its time"

    def _check_release(self) -> None:
        path = self._objects / "include/config/kernel.release"
        said = _read_regular(path).decode(errors="replace").strip()
        if said != self._release:
            raise SourceError(
                f"the build made another kernel than was asked for: it calls itself {said!r:.100}, "
                f"not {self._release!r}",
                hint="does its source set a LOCALVERSION by other means than localversion files?",
                evidence=self._log_path,
            )


# A fifth of a kernel's files, which no build for x86 reads. Not other architectures' folders:
# crypto/Kconfig names Kconfig files in them since 6.2.
_UNNEEDED = (
    *("arch/*/boot/dts/*", "Documentation/devicetree/*"),
    *("Documentation/translations/*", "tools/testing/selftests/*"),
)


def _end_of(path: Path) -> str:
    """The last megabytes of a log, as text."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_TOLD))
        return file.read().decode(errors="backslashreplace")


# No depmod here (assemble_kernel's is the host's), and no debug information in modules.
_INSTALL = ("DEPMOD=true", "INSTALL_MOD_STRIP=1")


def make_words(suffix: str, quirks: Iterable[Quirk]) -> tuple[str, ...]:
    """What every ``make`` of a build is told, apart from its target."""
    return (
        *("-C", SOURCE, f"O={OBJECTS}"),
        *("ARCH=x86_64", f"LOCALVERSION={suffix}"),
        # Two builds of the same source give the same kernel.
        "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 2026",
        *("KBUILD_BUILD_USER=lab", "KBUILD_BUILD_HOST=lab", "KBUILD_BUILD_VERSION=1"),
        *render_compilers(quirks),
    )


def _unmet_error(version: str, unmet: tuple[Unmet, ...]) -> ConfigError:
    shown = "; ".join(str(each) for each in unmet[:5])
    more = f"; and {len(unmet) - 5} more" if len(unmet) > 5 else ""
    return ConfigError(
        f"{version} did not take {len(unmet)} of the options asked for: {shown}{more}",
        hint="set what they depend on too, in a file that `config:` names",
    )


def load_known(source: Path) -> dict[str, tuple[str, ...]]:
    """Every option that a tree's Kconfig files define for x86. Blocks for two seconds."""
    files = []
    for folder, names, found in os.walk(source):
        inside = PurePosixPath(os.path.relpath(folder, source)).parts
        if inside == ("arch",):
            names[:] = ["x86"]
        elif not inside or inside == (".",):
            names[:] = [name for name in names if name not in ("Documentation", ".git", "tools")]
        files += [
            parse_kconfig(_regular_text(Path(folder) / name))
            for name in found
            if name.startswith("Kconfig")
        ]
    return merge_known(files)


def _regular_text(path: Path) -> str:
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            return path.read_text(errors="replace")
    return ""


# --- laying out --------------------------------------------------------------------------

# What of a tree the build of an external module reads: scripts/package/install-extmod-build
# (builddeb before 6.3) copies the same, with the Makefiles of all folders for good measure.
_SOURCE_TOPS = ("include", "scripts")
_X86_FOLDERS = frozenset({"include", "scripts"})
_SKIPPED_SOURCE = ("scripts/dtc/include-prefixes", "scripts/kconfig/tests")
_OBJECT_ENDINGS = (".o", ".a", ".cmd", ".d")
_OBJECTS_AT_TOP = frozenset({".config", "Module.symvers", "System.map"})


def wanted_source(name: str) -> bool:
    """Whether building an external module may read this file of the source."""
    path = PurePosixPath(name)
    parts = path.parts
    if name.startswith(_SKIPPED_SOURCE) or parts[0] in ("Documentation", "tools", "samples"):
        return False
    if parts[0] in _SOURCE_TOPS:
        return True
    if parts[0] == "arch":
        return _wanted_of_arch(parts)
    kbuild = path.name.startswith(("Makefile", "Kconfig", "Kbuild"))
    # A folder's own Makefile is read by nobody but its folder; at the top all are.
    return kbuild and (len(parts) == 1 or path.name.startswith("Kconfig"))


def _wanted_of_arch(parts: tuple[str, ...]) -> bool:
    if parts[1:2] != ("x86",):
        return parts[-1].startswith("Kconfig") and len(parts) == 2
    if any(part in _X86_FOLDERS for part in parts[2:-1]):
        return True
    name = parts[-1]
    telling = ("Makefile", "Kconfig", "Kbuild", "Platform", "module.lds")
    return len(parts) <= 5 and name.startswith(telling)


def wanted_object(name: str, *, executable: bool) -> bool:
    """Whether building an external module may read this file that the build made."""
    path = PurePosixPath(name)
    parts = path.parts
    if len(parts) == 1:
        return name in _OBJECTS_AT_TOP
    if parts[0] == "tools":
        return executable and parts[1] in ("objtool", "bpf") and path.name in _TOOLS
    if name.endswith(_OBJECT_ENDINGS):
        return False
    if parts[0] == "include":
        return not name.startswith("include/config/") or _wanted_of_config(parts)
    if parts[0] == "scripts":
        return True
    return parts[:3] == ("arch", "x86", "include") or name == "arch/x86/module.lds"


_TOOLS = frozenset({"objtool", "resolve_btfids"})


def _wanted_of_config(parts: tuple[str, ...]) -> bool:
    # The thousands of empty files there are fixdep's: they would have modules rebuilt when
    # an option changes, which here none does. fixdep takes an absent one for unchanged.
    return parts[-1] in ("auto.conf", "auto.conf.cmd", "kernel.release", "tristate.conf")


def lay_out(source: Path, objects: Path, tree: Path, release: str) -> None:
    """Make of a finished build what a distribution's packages would unpack.

    ``boot/`` with vmlinuz, vmlinux and config, ``usr/lib/modules/REL`` and
    ``usr/src/linux-headers-REL``. Everything in the two folders may be a stranger's: links
    are copied as links, and only regular files are opened.
    """
    boot, headers = tree / "boot", tree / "usr/src" / f"linux-headers-{release}"
    boot.mkdir(parents=True)
    _copy_regular(objects / "arch/x86/boot/bzImage", boot / f"vmlinuz-{release}")
    _copy_regular(objects / "vmlinux", boot / f"vmlinux-{release}")
    _copy_regular(objects / ".config", boot / f"config-{release}")
    installed = objects / ".installed/lib/modules" / release
    modules = tree / "usr/lib/modules" / release
    modules.mkdir(parents=True)
    for name in ("modules.order", "modules.builtin"):
        (modules / name).touch()
    copy_modules(installed, modules)
    copy_build_tree(source, objects, headers)


def copy_modules(installed: Path, target: Path) -> None:
    """A folder as ``make modules_install`` fills it, without its ways back to the build."""
    # `build` and `source` point to where the build was.
    skip = ("build", "source")
    _copy_files(installed, target, lambda name, _: PurePosixPath(name).parts[0] not in skip)


def copy_build_tree(source: Path, objects: Path, target: Path) -> None:
    """What building external modules needs of a built kernel; one folder may be both."""
    target.mkdir(parents=True)
    _copy_files(source, target, lambda name, _: wanted_source(name))
    _copy_files(objects, target, _wanted_object)


def _wanted_object(name: str, about: os.stat_result) -> bool:
    return wanted_object(name, executable=bool(about.st_mode & 0o100))


def digest_build_tree(source: Path, objects: Path) -> str:
    """A SHA-256 over all that ``copy_build_tree`` would copy."""
    whole = hashlib.sha256()
    for root, wanted in (
        (source, lambda name, _: wanted_source(name)),
        (objects, _wanted_object),
    ):
        _digest_into(whole, root, wanted)
    return whole.hexdigest()


def digest_modules(installed: Path) -> str:
    """A SHA-256 over all that ``copy_modules`` would copy."""
    whole = hashlib.sha256()
    skip = ("build", "source")
    _digest_into(whole, installed, lambda name, _: PurePosixPath(name).parts[0] not in skip)
    return whole.hexdigest()


def _digest_into(
    whole: hashlib._Hash, root: Path, wanted: Callable[[str, os.stat_result], bool]
) -> None:
    for name, about in _files(root):
        if wanted(name, about):
            path = root / name
            content = os.readlink(path) if stat.S_ISLNK(about.st_mode) else sha256_of(path)
            whole.update(json.dumps((name, bool(about.st_mode & 0o100), content)).encode())


def _copy_files(source: Path, target: Path, wanted: Callable[[str, os.stat_result], bool]) -> None:
    for name, about in _files(source):
        if not wanted(name, about):
            continue
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if stat.S_ISLNK(about.st_mode):
            place.symlink_to(os.readlink(source / name))
        else:
            shutil.copyfile(source / name, place, follow_symlinks=False)
            place.chmod(0o755 if about.st_mode & 0o100 else 0o644)


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files and links below a folder, by their names in it."""
    for folder, names, found in os.walk(root):
        names[:] = sorted(name for name in names if name != ".git")
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        for name in sorted((*found, *links)):
            path = Path(folder) / name
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) or stat.S_ISLNK(about.st_mode):
                yield str(path.relative_to(root)), about


def _copy_regular(source: Path, target: Path) -> None:
    if not stat.S_ISREG(_lstat(source).st_mode):
        raise SourceError(f"the build made no file of {source.name}")
    shutil.copyfile(source, target, follow_symlinks=False)


def _read_regular(path: Path) -> bytes:
    about = _lstat(path)
    if not stat.S_ISREG(about.st_mode) or about.st_size > 16 << 20:
        raise SourceError(f"the build made no file of {path.name}")
    return path.read_bytes()


def _lstat(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise SourceError(f"the build made no {path.name}") from error


def _open_folders(root: Path) -> None:
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o700)
