"""Building modules: sources in, ``.ko`` files out, each made for exactly the kernel asked for.

``Builder`` is the seam: today modules are built inside the guest with its own compiler.
"""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from elftools.elf.elffile import ELFFile

from orchestrator.adapters.ssh import Shell, check
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    BuildError,
    CommandTimeoutError,
    ConfigError,
    MachineError,
)
from orchestrator.plan.buildfailure import BuildFailure, SourceLines, parse_failure
from orchestrator.plan.version import KernelVersion

MAX_SOURCE_BYTES = 64 << 20
MAX_MODULE_BYTES = 64 << 20
SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "lab-results", ".venv", "__pycache__"})
# What an earlier build by hand may have left; taking it along would hide a missing rule.
SKIPPED_ENDINGS = (".ko", ".o", ".mod", ".mod.c", ".cmd", ".a", ".order", ".symvers")


@dataclass(frozen=True)
class BuiltModule:
    """A module as it came out of a build."""

    name: str
    path: Path
    vermagic: str
    depends: tuple[str, ...]
    exports: tuple[str, ...] = ()
    """The symbols that it offers to other modules."""

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


class Builder(Protocol):
    """Builds the modules of one source folder for one kernel."""

    def build(self, name: str, source_dir: Path, output_dir: Path) -> tuple[BuiltModule, ...]:
        """The modules, left in ``output_dir`` with ``build.log``. Raises ``BuildError``."""


class GuestBuilder:
    """Builds inside a running guest, with the guest's compiler and the kernel's own tree."""

    def __init__(self, shell: Shell, release: str, seconds: float) -> None:
        self._shell = shell
        self._release = release
        self._seconds = seconds

    def build(self, name: str, source_dir: Path, output_dir: Path) -> tuple[BuiltModule, ...]:
        """See ``Builder``."""
        deadline = Deadline.after(self._seconds, f"building {name}")
        folder = f"/lab/src/{name}"
        output_dir.mkdir(parents=True, exist_ok=True)
        send_tree(self._shell, source_dir, folder, deadline)
        command = (
            f"cd {shlex.quote(folder)} && "
            f"make -C /lib/modules/{self._release}/build M={shlex.quote(folder)} "
            '-j"$(nproc)" modules 2>&1'
        )
        log_path = output_dir / "build.log"
        try:
            result = self._shell.run(command, deadline)
        except CommandTimeoutError as timeout:
            log_path.write_bytes(f"$ {command}\n".encode() + timeout.stdout)
            raise BuildError(
                f"{name} was not built within {self._seconds:g} s",
                hint="`timeouts: {build: …}` in lab.yaml allows more",
                evidence=log_path,
            ) from timeout
        log_path.write_bytes(f"$ {command}\n".encode() + result.stdout + result.stderr)
        if result.status != 0:
            output = (result.stdout + result.stderr).decode(errors="backslashreplace")
            version, sources = _version_of(self._release), source_lines(source_dir)
            raise ModuleBuildError(
                parse_failure(name, output, folder, version, sources),
                argv=("sh", "-c", command),
                status=result.status,
                output="\n".join(output.splitlines()[-40:]),
                evidence=log_path,
            )
        return self._fetch(name, folder, output_dir, deadline)

    def _fetch(
        self, name: str, folder: str, output_dir: Path, deadline: Deadline
    ) -> tuple[BuiltModule, ...]:
        command = f"cd {shlex.quote(folder)} && find . -name '*.ko' -print0 | tar -c --null -T -"
        result = check(
            self._shell.run(command, deadline, limit=MAX_MODULE_BYTES),
            f"fetching the modules of {name}",
            MachineError,
        )
        if result.truncated:
            raise BuildError(f"{name}: its modules are larger than {MAX_MODULE_BYTES} bytes")
        paths = _unpack_modules(result.stdout, output_dir)
        if not paths:
            raise BuildError(
                f"{name}: the build made no module",
                hint=f"has {name}'s Kbuild or Makefile an `obj-m` line?",
                evidence=output_dir / "build.log",
            )
        return tuple(read_module(path) for path in paths)


def check_release(module: BuiltModule, release: str) -> None:
    """Raise ``BuildError`` unless the module is for exactly this kernel."""
    if module.release != release:
        raise BuildError(
            f"{module.name}.ko is for another kernel: its vermagic says {module.release!r}, "
            f"the plan says {release!r}",
            hint="does its Makefile name a kernel of its own instead of taking KERNELRELEASE?",
        )


def send_tree(shell: Shell, source_dir: Path, folder: str, deadline: Deadline) -> None:
    """Copy a source folder into the guest."""
    quoted = shlex.quote(folder)
    command = f"mkdir -p {quoted} && tar -x -m --no-same-owner -C {quoted}"
    check(
        shell.run(command, deadline, stdin=pack_tree(source_dir)),
        f"copying {source_dir} into the guest",
        MachineError,
    )


def pack_tree(source_dir: Path) -> bytes:
    """A folder of sources as a tar archive: regular files and folders, in a fixed order.

    Links are followed only to files inside the folder. Raises ``ConfigError`` if it holds
    more than sources do.
    """
    root = source_dir.resolve()
    out = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(_source_files(root)):
            total += path.stat().st_size
            if total > MAX_SOURCE_BYTES:
                raise ConfigError(
                    f"{source_dir} holds more than {MAX_SOURCE_BYTES >> 20} MiB of sources",
                    hint="name the folder with the module's Kbuild file, not one above it",
                )
            data = path.read_bytes()
            info = tarfile.TarInfo(str(path.relative_to(root)))
            info.size = len(data)
            info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _source_files(root: Path) -> list[Path]:
    found = []
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if SKIPPED_FOLDERS & set(parts) or path.name.endswith(SKIPPED_ENDINGS):
            continue
        if path.is_file() and path.resolve().is_relative_to(root):
            found.append(path)
    return found


_KO = re.compile(r"[A-Za-z0-9_+-]{1,64}\.ko")


def _unpack_modules(archive: bytes, output_dir: Path) -> list[Path]:
    """The ``.ko`` files of an archive that a guest made: by plain file name, nothing else."""
    paths = []
    plain = (tarfile.REGTYPE, tarfile.AREGTYPE)
    try:
        # Not compressed, and no sparse files: neither may become more than was sent.
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if member.type not in plain or member.issparse() or not _KO.fullmatch(name):
                    continue
                source = tar.extractfile(member)
                assert source is not None
                path = output_dir / name
                path.write_bytes(source.read())
                paths.append(path)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise MachineError(f"the guest sent no archive of modules: {error}") from error
    return sorted(paths)


def read_module(path: Path) -> BuiltModule:
    """What a ``.ko`` file says of itself. Raises ``BuildError`` if it is none."""
    info, exports = _read_sections(path)
    if "vermagic" not in info:
        raise BuildError(f"{path.name} is no kernel module: it has no vermagic")
    return BuiltModule(
        name=path.stem.replace("-", "_"),
        path=path,
        vermagic=info["vermagic"],
        depends=tuple(name for name in info.get("depends", "").split(",") if name),
        exports=exports,
    )


def _read_sections(path: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """What ``.modinfo`` says, and the names in ``__ksymtab_strings``.

    Between the names of symbols there can be those of their namespaces.
    """
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            info, exports = _strings(elf, ".modinfo"), _strings(elf, "__ksymtab_strings")
    except Exception as error:  # a guest made the file; pyelftools can trip in any way
        raise BuildError(f"{path.name} cannot be read: {error!r:.200}") from error
    pairs = (text.partition("=") for text in info)
    return {key: value for key, _, value in pairs if key}, tuple(name for name in exports if name)


def _strings(elf: ELFFile, section_name: str) -> list[str]:
    section = elf.get_section_by_name(section_name)
    data = b"" if section is None else section.data()
    return [text.decode(errors="replace") for text in data.split(b"\0")]


def source_lines(source_dir: Path) -> SourceLines:
    """What reads the lines of a module's sources: of the files that are sent, and no others."""
    root = source_dir.resolve()
    files = {str(path.relative_to(root)): path for path in _source_files(root)}

    def lines_of(file: str) -> Sequence[str] | None:
        path = files.get(file)
        return None if path is None else path.read_bytes().decode(errors="replace").split("\n")

    return lines_of


def _version_of(release: str) -> KernelVersion | None:
    """The version in what ``uname -r`` says; None for a kernel with a name of its own kind."""
    try:
        return KernelVersion.parse(release)
    except ValueError:
        return None
