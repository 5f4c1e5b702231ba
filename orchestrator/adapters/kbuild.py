"""Building modules: sources in, ``.ko`` files out, each made for exactly the kernel asked for.

``Builder`` is the seam: today modules are built inside the guest with its own compiler.
"""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from elftools.elf.elffile import ELFFile

from orchestrator.adapters.ssh import Shell, check
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    BuildError,
    CommandTimeoutError,
    ConfigError,
    LabError,
    MachineError,
)
from orchestrator.plan.outcome import CommandResult

MAX_SOURCE_BYTES = 64 << 20
MAX_MODULE_BYTES = 64 << 20
# Lines for the frames of a trace. Ubuntu's headers and the lab's own kernels are configured
# without CONFIG_DEBUG_INFO; where it is set this adds nothing. No code changes by it.
DEBUG_INFO = "KCFLAGS=-g"
SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "lab-results", ".venv", "__pycache__"})
# What an earlier build by hand may have left; taking it along would hide a missing rule.
SKIPPED_ENDINGS = (".ko", ".o", ".mod", ".mod.c", ".cmd", ".a", ".order", ".symvers")


@dataclass(frozen=True)
class Sources:
    """What a module was built from."""

    dir: Path
    """On this machine."""
    folder: str
    """What it was called where it was built; the module's debug info names files below it."""
    digests: Mapping[str, str] = field(repr=False)
    """Of each file that was sent, by its path from there, the SHA-256."""


@dataclass(frozen=True)
class BuiltModule:
    """A module as it came out of a build."""

    name: str
    path: Path
    vermagic: str
    depends: tuple[str, ...]
    sources: Sources | None = None
    """None where they are not known: then no line of them can be shown."""

    @property
    def release(self) -> str:
        """The kernel that it says it is for: the first word of its vermagic."""
        return self.vermagic.split(" ", 1)[0]


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
        archive = pack_tree(source_dir)
        send_archive(self._shell, source_dir, archive, folder, deadline)
        command = (
            f"cd {shlex.quote(folder)} && "
            f"make -C /lib/modules/{self._release}/build M={shlex.quote(folder)} "
            f'{DEBUG_INFO} -j"$(nproc)" modules 2>&1'
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
            raise _build_error(name, command, result, log_path)
        sources = Sources(source_dir, folder, digest_archive(archive))
        modules = self._fetch(name, folder, output_dir, deadline)
        return tuple(replace(module, sources=sources) for module in modules)

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
    send_archive(shell, source_dir, pack_tree(source_dir), folder, deadline)


def send_archive(
    shell: Shell, source_dir: Path, archive: bytes, folder: str, deadline: Deadline
) -> None:
    """Copy what ``pack_tree`` made of a source folder into the guest."""
    quoted = shlex.quote(folder)
    command = f"mkdir -p {quoted} && tar -x -m --no-same-owner -C {quoted}"
    check(
        shell.run(command, deadline, stdin=archive),
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


def digest_archive(archive: bytes) -> dict[str, str]:
    """The SHA-256 of each file in what ``pack_tree`` made, by the file's path."""
    digests = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            source = tar.extractfile(member)
            assert source is not None, "pack_tree takes regular files alone"
            digests[member.name] = hashlib.sha256(source.read()).hexdigest()
    return digests


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
    info = _modinfo(path)
    if "vermagic" not in info:
        raise BuildError(f"{path.name} is no kernel module: it has no vermagic")
    return BuiltModule(
        name=path.stem.replace("-", "_"),
        path=path,
        vermagic=info["vermagic"],
        depends=tuple(name for name in info.get("depends", "").split(",") if name),
    )


def _modinfo(path: Path) -> Mapping[str, str]:
    try:
        with path.open("rb") as file:
            section = ELFFile(file).get_section_by_name(".modinfo")
            data = section.data() if section is not None else b""
    except Exception as error:  # a guest made the file; pyelftools can trip in any way
        raise BuildError(f"{path.name} cannot be read: {error!r:.200}") from error
    pairs = (text.decode(errors="replace").partition("=") for text in data.split(b"\0"))
    return {key: value for key, _, value in pairs if key}


def _build_error(name: str, command: str, result: CommandResult, log_path: Path) -> LabError:
    output = (result.stdout + result.stderr).decode(errors="backslashreplace")
    return BuildError(
        f"{name} does not build: {first_error(output)}",
        argv=("sh", "-c", command),
        status=result.status,
        output="\n".join(output.splitlines()[-40:]),
        evidence=log_path,
    )


def first_error(output: str) -> str:
    """The first line of a build's output that says what is wrong."""
    patterns = (
        r"^.*?:\d+:\d+: (?:fatal )?error: .*$",
        r"^.*\berror: .*$",
        r"^ERROR: .*$",
        r"^make(?:\[\d+\])?: \*\*\* .*$",
    )
    for pattern in patterns:
        if match := re.search(pattern, output, re.MULTILINE):
            return match[0].strip()[:300]
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
