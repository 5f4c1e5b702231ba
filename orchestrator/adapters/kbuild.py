"""Building modules: sources in, ``.ko`` files out, each made for exactly the kernel asked for.

``Builder`` is the seam. ``GuestBuilder`` builds inside the guest with its own compiler,
``hostbuild.HostBuilder`` natively in the same root file system; what both must do alike to
make the same bytes is here.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
import shlex
import tarfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from orchestrator.adapters.archive import (
    ArchiveError,
    files_below,
    pack_files,
    read_plain_files,
)
from orchestrator.adapters.ssh import Shell, check
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    BuildError,
    CommandTimeoutError,
    ConfigError,
    MachineError,
)
from orchestrator.plan.buildfailure import BuildFailure, parse_failure
from orchestrator.plan.flavours import advise_build
from orchestrator.plan.model import ModuleEntry
from orchestrator.plan.version import KernelVersion

MAX_SOURCE_BYTES = 64 << 20
MAX_MODULE_BYTES = 64 << 20
# Lines for the frames of a trace. Ubuntu's headers and the lab's own kernels are configured
# without CONFIG_DEBUG_INFO; where it is set this adds nothing. No code changes by it.
DEBUG_INFO = "KCFLAGS=-g"
SOURCES_DIR = "/lab/src"
LOG = "build.log"
# Which symbols a folder's modules export, with their versions, for folders that use them.
SYMBOLS = "Module.symvers"
# What an earlier build by hand may have left; taking it along would hide a missing rule.
SKIPPED_ENDINGS = (".ko", ".o", ".mod", ".mod.c", ".cmd", ".a", ".order", ".symvers")


@dataclass(frozen=True)
class Sources:
    """A folder of sources as it was when it was read: what is built, and what is hashed."""

    name: str
    """The folder's name in the lab."""
    archive: bytes = field(repr=False)
    """A tar archive, as ``pack_tree`` makes it."""
    inner: str = "."
    """The folder below it that is built."""
    make: str = ""
    """The command that builds it; empty where kbuild does."""

    @property
    def folder(self) -> str:
        """Where it is put. The path is in the debugging information, so it has to be the
        same everywhere.
        """
        return f"{SOURCES_DIR}/{self.name}"

    @property
    def build_folder(self) -> str:
        """Where it is built."""
        return str(PurePosixPath(self.folder, self.inner))

    @cached_property
    def sha256(self) -> str:
        """Of all that is in the folder, names and modes too."""
        return hashlib.sha256(self.archive).hexdigest()

    def lines_of(self, file: str) -> Sequence[str] | None:
        """The lines of a file of the folder, without their ends; None if it has no such file.

        Kernels from 6.13 on name files relative to the folder that is built (commit
        13b25489b6f8, "kbuild: change working directory to external module directory with M=").
        """
        with tarfile.open(fileobj=io.BytesIO(self.archive), mode="r:") as tar:
            for path in dict.fromkeys((file, posixpath.join(self.inner, file))):
                try:
                    content = tar.extractfile(posixpath.normpath(path))
                except KeyError:
                    continue
                assert content is not None, "pack_tree packs files alone"
                return content.read().decode(errors="replace").split("\n")
        return None


@dataclass(frozen=True)
class BuiltModule:
    """A module as it came out of a build."""

    name: str
    path: Path
    vermagic: str
    depends: tuple[str, ...]
    exports: tuple[str, ...] = ()
    """The symbols that it offers to other modules."""
    code: Mapping[str, int] = field(default_factory=dict, repr=False, hash=False)
    """Its sections with code, each with its size."""
    sources: Sources | None = field(default=None, repr=False)
    """What it was built from. None where that is not known: then no line of it can be shown."""

    @property
    def release(self) -> str:
        """The kernel that it says it is for: the first word of its vermagic."""
        return self.vermagic.split(" ", 1)[0]


class ModuleBuildError(BuildError):
    """A module's sources do not build: carries what is known of the first error."""

    def __init__(
        self,
        failure: BuildFailure,
        *,
        argv: tuple[str, ...],
        status: int | None,
        output: str,
        evidence: Path,
    ) -> None:
        super().__init__(
            failure.explain(), argv=argv, status=status, output=output, evidence=evidence
        )
        self.failure = failure


def load_sources(
    name: str,
    source_dir: Path,
    entry: ModuleEntry | None = None,
    without: Collection[Path] = (),
) -> Sources:
    """A folder of the lab, read once, and ``without`` these files; ``entry`` says how it is
    built, by kbuild alone if absent. Raises ``ConfigError`` like ``pack_tree``.
    """
    if entry is None:
        return Sources(name, pack_tree(source_dir, without))
    # A link in the lab is not in the archive: what it leads to is.
    inner = os.path.relpath(os.path.realpath(source_dir / entry.folder), source_dir.resolve())
    return Sources(name, pack_tree(source_dir, without), inner, entry.make or "")


class Builder(Protocol):
    """Builds the lab's folders for one kernel, one after another, side by side in one place."""

    def build(self, sources: Sources, output_dir: Path) -> tuple[BuiltModule, ...]:
        """The modules, left in ``output_dir`` with ``build.log``, and ``Module.symvers`` if
        the build made one. Raises ``BuildError``.
        """

    def place(self, sources: Sources, output_dir: Path) -> None:
        """Put a folder that need not be built to where the next ones can see it, with what
        its build left in ``output_dir``: ``KBUILD_EXTRA_SYMBOLS`` may name it.
        """


class GuestBuilder:
    """Builds inside a running guest, with the guest's compiler and the kernel's own tree."""

    def __init__(self, shell: Shell, release: str, seconds: float) -> None:
        self._shell = shell
        self._release = release
        self._seconds = seconds

    def build(self, sources: Sources, output_dir: Path) -> tuple[BuiltModule, ...]:
        """See ``Builder``."""
        deadline = Deadline.after(self._seconds, f"building {sources.name}")
        output_dir.mkdir(parents=True, exist_ok=True)
        send_sources(self._shell, sources, deadline)
        command = make_command(self._release, sources)
        try:
            result = self._shell.run(command, deadline)
        except CommandTimeoutError as timeout:
            log_path = write_log(output_dir, command, timeout.stdout)
            raise late_error(sources.name, self._seconds, log_path) from timeout
        output = result.stdout + result.stderr
        log_path = write_log(output_dir, command, output)
        if result.status != 0:
            raise build_error(sources, command, result.status, output, log_path, self._release)
        return self._fetch(sources, output_dir, deadline)

    def place(self, sources: Sources, output_dir: Path) -> None:
        """See ``Builder``."""
        deadline = Deadline.after(self._seconds, f"placing {sources.name}")
        send_sources(self._shell, sources, deadline)
        if (symbols := output_dir / SYMBOLS).is_file():
            command = f"cat > {shlex.quote(f'{sources.build_folder}/{SYMBOLS}')}"
            result = self._shell.run(command, deadline, stdin=symbols.read_bytes())
            check(result, f"copying the symbols of {sources.name} into the guest", MachineError)

    def _fetch(
        self, sources: Sources, output_dir: Path, deadline: Deadline
    ) -> tuple[BuiltModule, ...]:
        result = check(
            self._shell.run(fetch_command(sources), deadline, limit=MAX_MODULE_BYTES),
            f"fetching the modules of {sources.name}",
            MachineError,
        )
        if result.truncated:
            raise size_error(sources.name)
        return take_modules(sources.name, result.stdout, output_dir)


# --- what every builder does alike --------------------------------------------------------


def make_command(release: str, sources: Sources) -> str:
    """What is run, by ``sh -c``, where the sources are."""
    folder = shlex.quote(sources.build_folder)
    if sources.make:
        # A subshell, and on a line of its own: it may end in a comment, or with `exit`.
        return f"cd {folder} && {_environment(release)} && (\n{sources.make}\n) 2>&1"
    return (
        f"cd {folder} && make -C /lib/modules/{release}/build M={folder} "
        f'{DEBUG_INFO} -j"$(nproc)" modules 2>&1'
    )


def _environment(release: str) -> str:
    """What a build's own command finds in its environment.

    The names are dkms's (dkms(8), "dkms.conf": MAKE) and those that Makefiles use most; the rest
    of them ask uname(1), which answers with the guest's release wherever modules are built.
    KERNELRELEASE is not among them: with it a Makefile takes itself to be read by kbuild.
    """
    tree = f"/lib/modules/{release}/build"
    values = {
        "KVER": release,
        "kernelver": release,
        "KDIR": tree,
        "KERNELDIR": tree,
        "KERNEL_SRC": tree,
        "kernel_source_dir": tree,
        "arch": "x86_64",
    }
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
    return f'export {words} {DEBUG_INFO} MAKEFLAGS="-j$(nproc)"'


def fetch_command(sources: Sources) -> str:
    """What prints a tar archive with all that is kept of a build."""
    symbols = shlex.quote(f"./{PurePosixPath(sources.inner, SYMBOLS)}")
    return (
        f"cd {shlex.quote(sources.folder)} && "
        f"find . \\( -name '*.ko' -o -path {symbols} \\) -print0 | tar -c --null -T -"
    )


def unpack_command(sources: Sources) -> str:
    """What makes the folder of a tar archive on standard input.

    ``-m``: what is copied is older than what is built of it, whatever clocks say.
    """
    folder = shlex.quote(sources.folder)
    return f"mkdir -p {folder} && tar -x -m --no-same-owner -C {folder}"


def write_log(output_dir: Path, command: str, output: bytes) -> Path:
    """Leave the log of a build; its path."""
    path = output_dir / LOG
    path.write_bytes(f"$ {command}\n".encode() + output)
    return path


def take_modules(name: str, archive: bytes, output_dir: Path) -> tuple[BuiltModule, ...]:
    """The modules out of what ``fetch_command`` printed. Raises ``BuildError`` if it has none."""
    paths = _unpack_modules(archive, output_dir)
    if not paths:
        raise BuildError(
            f"{name}: the build made no module",
            hint=f"has {name}'s Kbuild or Makefile an `obj-m` line, and what hangs on a CONFIG_X "
            "of its own a `make` with `CONFIG_X=m`?",
            evidence=output_dir / LOG,
        )
    return tuple(read_module(path) for path in paths)


def late_error(name: str, seconds: float, log_path: Path) -> BuildError:
    """That a build did not end by its deadline."""
    return BuildError(
        f"{name} was not built within {seconds:g} s",
        hint="`timeouts: {build: …}` in lab.yaml allows more",
        evidence=log_path,
    )


def size_error(name: str) -> BuildError:
    """That a build made more than is taken."""
    return BuildError(f"{name}: its modules are larger than {MAX_MODULE_BYTES} bytes")


def build_error(
    sources: Sources,
    command: str,
    status: int | None,
    output: bytes,
    log_path: Path,
    release: str,
) -> ModuleBuildError:
    """That a build for the kernel of this release failed, with what its output says of why."""
    text = output.decode(errors="backslashreplace")
    version = _version_of(release)
    failure = parse_failure(sources.name, text, sources.folder, version, sources.lines_of)
    if failure.change is None:
        failure = replace(failure, advice=advise_build(failure.message, release))
    return ModuleBuildError(
        failure,
        argv=("sh", "-c", command),
        status=status,
        output="\n".join(text.splitlines()[-40:]),
        evidence=log_path,
    )


def check_release(module: BuiltModule, release: str) -> None:
    """Raise ``BuildError`` unless the module is for exactly this kernel."""
    if module.release != release:
        raise BuildError(
            f"{module.name}.ko is for another kernel: its vermagic says {module.release!r}, "
            f"the plan says {release!r}",
            hint="does its Makefile name a kernel of its own instead of taking KERNELRELEASE?",
        )


def send_sources(shell: Shell, sources: Sources, deadline: Deadline) -> None:
    """Copy a folder of sources into the guest."""
    result = shell.run(unpack_command(sources), deadline, stdin=sources.archive)
    check(result, f"copying {sources.name} into the guest", MachineError)


def pack_tree(source_dir: Path, without: Collection[Path] = ()) -> bytes:
    """A folder of sources as a tar archive: regular files and folders, in a fixed order.

    Links are followed only to files inside the folder. Raises ``ConfigError`` if it holds
    more than sources do.
    """
    too_much = ConfigError(
        f"{source_dir} holds more than {MAX_SOURCE_BYTES >> 20} MiB of sources",
        hint="name the folder with the module's Kbuild file, not one above it",
    )
    files = files_below(source_dir.resolve(), lambda name: not name.endswith(SKIPPED_ENDINGS))
    wanted = [(name, path) for name, path in files if path not in without]
    return pack_files(wanted, limit=MAX_SOURCE_BYTES, too_much=too_much)


def pack_modules(modules: Iterable[BuiltModule]) -> bytes:
    """Built modules as a tar archive, each named as ``load`` looks for it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for module in modules:
            data = module.path.read_bytes()
            info = tarfile.TarInfo(f"{module.name}.ko")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


_KO = re.compile(r"[A-Za-z0-9_+-]{1,64}\.ko")


def is_kept(name: str) -> bool:
    """Whether a file of this plain name is taken from a build."""
    return name == SYMBOLS or _KO.fullmatch(name) is not None


def _unpack_modules(archive: bytes, output_dir: Path) -> list[Path]:
    """The ``.ko`` files of an archive that a build made: by plain file name, nothing else.

    The symbols that they export are unpacked beside them.
    """
    paths = []
    try:
        for file in read_plain_files(archive):
            name = PurePosixPath(file.name).name
            if not is_kept(name):
                continue
            path = output_dir / name
            path.write_bytes(file.content)
            if name != SYMBOLS:
                paths.append(path)
    except ArchiveError as error:
        raise MachineError(f"the build gave no archive of modules: {error}") from error
    return sorted(paths)


def read_module(path: Path) -> BuiltModule:
    """What a ``.ko`` file says of itself. Raises ``BuildError`` if it is none."""
    info, exports, code = _read_sections(path)
    if "vermagic" not in info:
        raise BuildError(f"{path.name} is no kernel module: it has no vermagic")
    return BuiltModule(
        name=path.stem.replace("-", "_"),
        path=path,
        vermagic=info["vermagic"],
        depends=tuple(name for name in info.get("depends", "").split(",") if name),
        exports=exports,
        code=code,
    )


def _read_sections(path: Path) -> tuple[Mapping[str, str], tuple[str, ...], Mapping[str, int]]:
    """What ``.modinfo`` says, the names in ``__ksymtab_strings``, and the sections with code.

    Between the names of symbols there can be those of their namespaces.
    """
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            info, exports = _strings(elf, ".modinfo"), _strings(elf, "__ksymtab_strings")
            code = {
                each.name: each["sh_size"]
                for each in elf.iter_sections()
                if each["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
            }
    except Exception as error:  # a guest made the file; pyelftools can trip in any way
        raise BuildError(f"{path.name} cannot be read: {error!r:.200}") from error
    pairs = (text.partition("=") for text in info)
    said = {key: value for key, _, value in pairs if key}
    return said, tuple(name for name in exports if name), code


def _strings(elf: ELFFile, section_name: str) -> list[str]:
    section = elf.get_section_by_name(section_name)
    data = b"" if section is None else section.data()
    return [text.decode(errors="replace") for text in data.split(b"\0")]


def _version_of(release: str) -> KernelVersion | None:
    """The version in what ``uname -r`` says; None for a kernel with a name of its own kind."""
    try:
        return KernelVersion.parse(release)
    except ValueError:
        return None
