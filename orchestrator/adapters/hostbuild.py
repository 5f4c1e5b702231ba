"""Building modules natively, in the guest's own root file system: seconds without KVM, not a
minute.

The image is unpacked, what of the kernel's layer a build reads is laid over it, and the same
commands as in a guest run in a ``Box``, in the same folders, so that the same bytes come out.
A box is no guest in a few ways: its user is nobody, all but its sources is read-only, and there
is no ``/sys``. What ``uname -r`` says is the guest's.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.adapters.box import Box, Limits
from orchestrator.adapters.cache import Cache, hash_of, remove_tree, watch_room
from orchestrator.adapters.images import Image, ensure_root
from orchestrator.adapters.kbuild import (
    LOG,
    MAX_MODULE_BYTES,
    SOURCES_DIR,
    SYMBOLS,
    BuiltModule,
    Sources,
    build_error,
    fetch_command,
    late_error,
    make_command,
    size_error,
    take_modules,
    unpack_command,
    write_log,
)
from orchestrator.adapters.kernels import Kernel
from orchestrator.adapters.ssh import MAX_OUTPUT
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import BuildError, HostError, SourceError

FORMAT = 1
MAX_FILE_MIB = 512
# A guest has its memory for all that a build makes: 512 MiB, if the lab asks for no more.
MAX_BUILD_BYTES = 1 << 30
MAX_BUILD_FILES = 100_000
ARCHIVE = "/mnt/archive"
# What is in a kernel's layer and no build of a module reads.
_UNREAD = ("usr/share", "usr/lib/modprobe.d", "usr/lib/linux")

# Makefiles ask for the kernel's release; what the host's kernel would say is wrong here.
_UNAME = """\
#!/bin/sh
case "$*" in
-r | --kernel-release) echo {release} ;;
*) exec {uname} "$@" ;;
esac
"""


def ensure_tree(cache: Cache, kernel: Kernel) -> Path:
    """What of a kernel a build of modules reads: a folder to lay over the image's root.

    Blocks for some seconds where the cache has it not.
    """

    def make(folder: Path) -> None:
        target = folder / "tree"
        skipped = (*_UNREAD, f"usr/lib/modules/{kernel.release}/kernel")
        argv = (
            *(process.find_tool("unsquashfs"), "-no-progress", "-no-xattrs", "-quiet"),
            *("-excludes", "-dest", str(target), str(kernel.layer_path), *skipped),
        )
        deadline = Deadline.after(600, f"unpacking the build tree of {kernel.release}")
        done = process.run(argv, deadline=deadline, watch=watch_room(folder))
        if done.status != 0:
            raise SourceError(
                f"cannot unpack the build tree of {kernel.release}: {done.last_lines()}"
            )
        complete_tree(target, kernel.release)

    return cache.ensure("trees", f"{kernel.key}-{hash_of(FORMAT)}", make) / "tree"


def complete_tree(tree: Path, release: str) -> None:
    """Add to an unpacked layer what a guest's ``rc``, and its kernel, bring."""
    (tree / SOURCES_DIR.lstrip("/")).mkdir(parents=True)
    (tree / "lib").mkdir()
    (tree / "lib/modules").symlink_to("/usr/lib/modules")
    uname = tree / "usr/local/bin/uname"
    uname.parent.mkdir(parents=True, exist_ok=True)
    # /bin is in every image, be it a folder or a link.
    uname.write_text(_UNAME.format(release=shlex.quote(release), uname="/bin/uname"))
    uname.chmod(0o755)
    for folder in (tree, *tree.rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)


@contextmanager
def open_host_builder(
    cache: Cache, image: Image, kernel: Kernel, work_dir: Path, seconds: float
) -> Iterator[HostBuilder]:
    """A builder for one kernel; what it makes is in ``work_dir`` until the context ends.

    Raises ``HostError`` where this machine has no boxes.
    """
    root, tree = ensure_root(cache, image), ensure_tree(cache, kernel)
    Box(root, layer=tree).check()
    try:
        work_dir.mkdir(parents=True)
        yield HostBuilder(root, tree, work_dir, kernel.release, seconds)
    finally:
        remove_tree(work_dir)


class HostBuilder:
    """Builds in a box: root file system, compiler and build tree are the guest's."""

    def __init__(
        self, root: Path, tree: Path, work_dir: Path, release: str, seconds: float
    ) -> None:
        """``work_dir`` is empty; ``seconds`` are for each folder."""
        self._box = Box(root, layer=tree, limits=Limits(file_mib=MAX_FILE_MIB))
        self._small = Box(root, layer=tree, limits=Limits(file_mib=MAX_MODULE_BYTES >> 20))
        self._release = release
        self._seconds = seconds
        self._work_dir = work_dir
        # All folders of the lab side by side, as a guest has them: one may read another.
        self._sources_dir = work_dir / "src"
        self._sources_dir.mkdir()

    def build(self, sources: Sources, output_dir: Path) -> tuple[BuiltModule, ...]:
        """See ``Builder``. ``HostError`` is for what is not the module's fault."""
        deadline = Deadline.after(self._seconds, f"building {sources.name}")
        output_dir.mkdir(parents=True, exist_ok=True)
        command = make_command(self._release, sources)
        output = self._work_dir / "output"
        output.unlink(missing_ok=True)
        try:
            self._unpack(sources, deadline)
            status = self._run(self._box, command, output, deadline, sources.name)
        except HostError as error:
            if not deadline.passed:
                raise
            raise late_error(sources.name, self._seconds, output_dir / LOG) from error
        finally:
            log_path = write_log(output_dir, command, _head(output))
        if status != 0:
            raise build_error(sources, command, status, _head(output), log_path, self._release)
        return self._fetch(sources, output_dir, deadline)

    def place(self, sources: Sources, output_dir: Path) -> None:
        """See ``Builder``."""
        deadline = Deadline.after(self._seconds, f"placing {sources.name}")
        self._unpack(sources, deadline)
        if (symbols := output_dir / SYMBOLS).is_file():
            target = shlex.quote(f"{sources.build_folder}/{SYMBOLS}")
            self._feed(f"cat > {target}", symbols.read_bytes(), deadline)

    def _unpack(self, sources: Sources, deadline: Deadline) -> None:
        self._feed(unpack_command(sources), sources.archive, deadline)

    def _feed(self, command: str, data: bytes, deadline: Deadline) -> None:
        """Run a command with this on its standard input."""
        archive = self._work_dir / "archive"
        archive.write_bytes(data)
        archive.chmod(0o644)
        done = self._box.run(
            ("sh", "-c", f"{command} < {ARCHIVE}"),
            deadline=deadline,
            read_only={ARCHIVE: archive},
            writable={SOURCES_DIR: self._sources_dir},
            watch=watch_room(self._work_dir),
        )
        archive.unlink()
        if done.status != 0:
            raise HostError(f"cannot put sources into a box: {done.last_lines()[-300:]}")

    def _run(self, box: Box, command: str, output: Path, deadline: Deadline, name: str) -> int:
        done = box.run(
            ("sh", "-c", command),
            deadline=deadline,
            writable={SOURCES_DIR: self._sources_dir},
            cwd=SOURCES_DIR,
            stdout_path=output,
            watch=self._watch(name),
        )
        return done.status

    def _watch(self, name: str) -> Callable[[], None]:
        look_for_room = watch_room(self._work_dir)

        def look() -> None:
            look_for_room()
            check_size(name, self._sources_dir)

        return look

    def _fetch(
        self, sources: Sources, output_dir: Path, deadline: Deadline
    ) -> tuple[BuiltModule, ...]:
        archive = self._work_dir / "modules.tar"
        # Standard error must not get into the archive; Box would put it there.
        command = f"({fetch_command(sources)}) 2>/dev/null"
        status = self._run(self._small, command, archive, deadline, sources.name)
        if archive.stat().st_size >= MAX_MODULE_BYTES:
            raise size_error(sources.name)
        if status != 0:
            raise HostError(f"fetching the modules of {sources.name}: status {status}")
        return take_modules(sources.name, archive.read_bytes(), output_dir)


def check_size(name: str, folder: Path) -> None:
    """Raise ``BuildError`` if a build has made more below ``folder`` than builds do."""
    size = count = 0
    for where, folders, files in os.walk(folder, onerror=_tell_closed):
        for entry in (*folders, *files):
            try:
                size += os.lstat(os.path.join(where, entry)).st_size
            except FileNotFoundError:
                continue  # compilers come and go
            count += 1
            if size > MAX_BUILD_BYTES or count > MAX_BUILD_FILES:
                raise BuildError(
                    f"{name} makes more than {MAX_BUILD_BYTES >> 20} MiB, or "
                    f"{MAX_BUILD_FILES} files, while it is built",
                    hint="`build: guest` in lab.yaml builds it in a guest's memory",
                )


def _tell_closed(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise BuildError(f"a build closed a folder to the lab: {error.filename}") from error


def _head(path: Path) -> bytes:
    """As much of a build's output as the guest's shell would keep."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(MAX_OUTPUT)
