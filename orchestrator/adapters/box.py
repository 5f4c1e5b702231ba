"""A box: a command run natively in an image's root file system, walled off with bubblewrap.

It is what compilers run in: a kernel's own Makefiles, or a stranger's. Inside there is the
image's root (read-only, without devices and set-user-id programs), what the caller binds
below folders that are empty otherwise, one folder that can be written, `/tmp` in memory,
and nothing of the host: no network, no other process, no environment, no user's name, no
terminal, no device but the harmless ones. No program in it can gain a privilege, and all
of them end with the lab.

What stays visible is listed where it is decided, in ``Box._walls``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError

NOBODY = 65534
TOOL = "bwrap"
HINT = "install the package bubblewrap"
PROBE_SECONDS = 30.0
TMP_BYTES = 1 << 30
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Limits:
    """What one process in a box may use; a deadline and the disk's watch bound the whole."""

    memory_mib: int = 8192
    """Address space. The largest cc1 and ld of a kernel with KASAN stay below two GiB."""
    file_mib: int = 4096
    processes: int = 8192
    """Of the box's user, with what that user runs elsewhere on some kernels."""
    files: int = 4096

    def argv(self) -> tuple[str, ...]:
        """A prefix that sets them."""
        return (
            process.find_tool("prlimit"),
            f"--as={self.memory_mib << 20}",
            f"--fsize={self.file_mib << 20}",
            f"--nproc={self.processes}",
            f"--nofile={self.files}",
            "--core=0",
            "--",
        )


class Box:
    """Runs commands in the root file system at ``root``, each in walls of its own.

    With ``layer``, a folder of the lab's own making is laid over the root, as overlayfs would.
    """

    def __init__(
        self, root: Path, *, layer: Path | None = None, limits: Limits | None = None
    ) -> None:
        self._root = root
        self._layer = layer
        self._limits = limits or Limits()

    def run(
        self,
        argv: Sequence[str],
        *,
        deadline: Deadline,
        read_only: Mapping[str, Path] | None = None,
        writable: Mapping[str, Path] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/tmp",
        stdout_path: Path | None = None,
        watch: Callable[[], None] | None = None,
    ) -> process.Completed:
        """Run a command to its end and return what it gave, whatever its status.

        ``read_only`` and ``writable`` say what is bound where: absolute paths inside, whose
        parent is in the image (``/mnt/source``, ``/usr/src/linux-headers-6.1``). The parent
        is covered by an empty folder, so that nothing else of the image is seen there. A
        writable folder becomes the box's user's own where the lab is root: make it for the
        purpose, and trust nothing in it afterwards, symbolic links least of all. Only
        ``env`` is in the environment, beside PATH, HOME and a plain locale. With
        ``stdout_path`` standard output and error go there, in order.

        Raises ``HostError`` if there is no bubblewrap, if this machine refuses it its
        namespaces, or by the deadline.
        """
        read_only, writable = dict(read_only or {}), dict(writable or {})
        self._check(read_only, writable)
        if stdout_path is not None:
            argv = ("/bin/sh", "-c", 'exec "$@" 2>&1', "sh", *argv)
        walls = self._walls(read_only, writable, env or {}, cwd)
        for path in writable.values():
            _give(path)
        done = process.run(
            (*walls, *argv),
            deadline=deadline,
            stdout_path=stdout_path,
            watch=watch,
            guarded=True,
        )
        if done.status != 0 and is_bwraps(done.stderr):
            self._tell_refusal(read_only, writable, cwd)
        return process.Completed(tuple(argv), done.status, done.stdout, done.stderr)

    def check(self) -> None:
        """Raise ``HostError`` unless boxes work on this machine."""
        argv = (*self._walls({}, {}, {}, "/"), "/bin/true")
        done = process.run(argv, deadline=Deadline.after(PROBE_SECONDS, "a first box"))
        if done.status != 0:
            raise refused(done)

    def _walls(
        self,
        read_only: Mapping[str, Path],
        writable: Mapping[str, Path],
        env: Mapping[str, str],
        cwd: str,
    ) -> tuple[str, ...]:
        covered = sorted({str(PurePosixPath(path).parent) for path in (*read_only, *writable)})
        given = {"PATH": PATH, "HOME": "/tmp", "LC_ALL": "C", "TERM": "dumb", **env}
        root = os.geteuid() == 0
        return (
            *self._limits.argv(),
            # bubblewrap's own environment can be read inside: /proc/1/environ.
            *(process.find_tool("env"), "-i"),
            process.find_tool(TOOL, hint=HINT),
            *("--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
            *("--unshare-cgroup-try", "--hostname", "box"),
            *("--die-with-parent", "--new-session"),
            # The image's root; bubblewrap binds everything nosuid and nodev.
            *self._show_root(),
            # null, zero, full, random, urandom, tty, and pseudo-terminals of its own.
            *("--proc", "/proc", "--dev", "/dev"),
            *("--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"),
            *(word for folder in covered for word in ("--tmpfs", folder)),
            *(w for to, path in read_only.items() for w in ("--ro-bind", str(path), to)),
            *(w for to, path in writable.items() for w in ("--bind", str(path), to)),
            *(word for folder in covered for word in ("--remount-ro", folder)),
            *(("--remount-ro", "/") if self._layer else ()),
            *("--chdir", cwd, "--clearenv"),
            *(word for name, value in given.items() for word in ("--setenv", name, value)),
            *("--cap-drop", "ALL"),
            *(_AS_ROOT if root else _AS_USER),
        )

    def _show_root(self) -> tuple[str, ...]:
        if self._layer is None:
            return ("--ro-bind", str(self._root), "/")
        # Without a bind on it, the box's own / is an empty folder in memory.
        return tuple(_lay_over(self._root, self._layer, PurePosixPath("/")))

    def _check(self, read_only: Mapping[str, Path], writable: Mapping[str, Path]) -> None:
        """Find what bubblewrap would say less clearly, and what it would let pass."""
        if not (self._root / "usr/bin").is_dir():
            raise HostError(f"{self._root} is no root file system: it has no /usr/bin")
        if os.geteuid() == 0 and not (self._root / "usr/bin/perl").exists():
            raise HostError(
                f"{self._root} has no perl, with which a command stops being root's",
                hint="every Debian and Ubuntu has it in the essential package perl-base",
            )
        for target in (*read_only, *writable):
            self._check_target(target)
        for path in (*read_only.values(), *writable.values()):
            if not path.exists():
                raise HostError(f"{path} cannot be shown in a box: it is not there")

    def _check_target(self, target: str) -> None:
        path = PurePosixPath(target)
        plain = target == str(path) and path.is_absolute() and ".." not in path.parts
        parent = path.parent
        if not plain or str(parent) == "/" or parent.parts[1] in ("proc", "dev", "tmp", "sys"):
            raise ValueError(f"nothing can be bound to {target!r} in a box")
        if not any(_has_folder(root, parent) for root in (self._root, self._layer) if root):
            raise ValueError(f"nothing can be bound to {target!r}: the image has no {parent}")

    def _tell_refusal(
        self, read_only: Mapping[str, Path], writable: Mapping[str, Path], cwd: str
    ) -> None:
        """Raise ``HostError`` if it was bubblewrap itself that failed, not the command."""
        argv = (*self._walls(read_only, writable, {}, cwd), "/bin/true")
        done = process.run(argv, deadline=Deadline.after(PROBE_SECONDS, "a first box"))
        if done.status != 0:
            raise refused(done)


def _has_folder(root: Path, path: PurePosixPath) -> bool:
    """Whether there is such a folder, with no link on the way to it."""
    here = root
    for part in path.parts[1:]:
        here = here / part
        if here.is_symlink() or not here.is_dir():
            return False
    return True


def _lay_over(root: Path, layer: Path, path: PurePosixPath) -> Iterator[str]:
    """What shows the folder ``path`` of both, to bubblewrap; ``path`` is an empty folder.

    bubblewrap has overlayfs since 0.11 only, so that a folder that is in both is put together
    of what is in them. A file of the layer hides the root's. A link of the root stays where
    the layer has a folder (``/lib`` to ``usr/lib``): what it leads to is put together itself.
    """
    below, above = root / path.relative_to("/"), layer / path.relative_to("/")
    names = {entry.name for folder in (below, above) for entry in folder.iterdir()}
    for name in sorted(names - ({"proc", "dev", "tmp"} if path == PurePosixPath("/") else set())):
        first, second, target = above / name, below / name, path / name
        if _is_folder(first) and _is_folder(second):
            if _adds_nothing(first, second):
                yield from ("--ro-bind", str(second), str(target))
                continue
            yield from ("--tmpfs", str(target))
            yield from _lay_over(root, layer, target)
            yield from ("--remount-ro", str(target))
            continue
        chosen = first if _exists(first) and not (_is_folder(first) and _exists(second)) else second
        yield from _show(chosen, target)


def _show(source: Path, target: PurePosixPath) -> tuple[str, ...]:
    mode = source.lstat().st_mode
    if stat.S_ISLNK(mode):
        return ("--symlink", os.readlink(source), str(target))
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return ("--ro-bind", str(source), str(target))
    return ()


def _adds_nothing(above: Path, below: Path) -> bool:
    """Whether there is nothing in the folder ``above`` but folders that are in ``below`` too."""
    return all(
        _is_folder(entry)
        and _is_folder(below / entry.name)
        and _adds_nothing(entry, below / entry.name)
        for entry in above.iterdir()
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


# An ordinary user makes a user namespace, has the box's user in it and nobody else, and
# forbids the next one: most holes in the kernel's walls began with one more namespace.
_AS_USER = (
    *("--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)),
    *("--disable-userns", "--"),
)
# Root needs no user namespace, and becomes nobody for good: a user of the host that owns
# nothing. Its own way into a user namespace would leave it the owner of root's files.
#
# Perl is what every root has: setpriv(1) came with Ubuntu 18.10. Its own names for users and
# groups would leave the saved ones be, so that it asks the kernel itself: setgroups, setgid and
# setuid by their numbers on x86_64. With no privilege left nothing of this can be undone.
_TO_NOBODY = (
    "my $id = shift() + 0; "
    "syscall(116, 0, 0) == 0 && syscall(106, $id) == 0 && syscall(105, $id) == 0 "
    'or die "box: cannot become nobody: $!\\n"; '
    'exec {$ARGV[0]} @ARGV or print STDERR "box: $ARGV[0]: $!\\n"; exit 127'
)
_AS_ROOT = (
    *("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--"),
    *("perl", "-e", _TO_NOBODY, str(NOBODY)),
)


def _give(path: Path) -> None:
    """Make a folder the box's user's own, where that is not the lab's."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def is_bwraps(stderr: bytes) -> bool:
    """Whether the output may be bubblewrap's own; a command can print the same."""
    return stderr.lstrip().startswith((b"bwrap: ", b"prlimit: ", b"box: "))


# What bubblewrap says where namespaces are refused, from its sources (0.8 to 0.11).
_DENIED = (
    "No permissions to creat",
    "Creating new namespace failed",
    "setting up uid map",
    "RTM_NEWADDR",
    "Failed to make / slave",
    "unshare user ns",
)
_OPENERS = (
    # file, what it says when namespaces are closed, what opens them
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "an AppArmor profile for /usr/bin/bwrap with `userns,`, or "
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
)


def refused(done: process.Completed) -> HostError:
    """What is to be told where bubblewrap itself failed."""
    said = done.last_lines()[-500:] or f"status {done.status}"
    if any(text in said for text in _DENIED):
        return HostError(
            f"this machine refuses bubblewrap its namespaces: {said}", hint=opener_hint()
        )
    return HostError(f"bubblewrap cannot make a box: {said}")


def opener_hint(sysctls: Path = Path("/proc/sys")) -> str:
    """What opens namespaces to an ordinary user here; a guess where no switch is closed."""
    for name, closed, opens in _OPENERS:
        try:
            if (sysctls / name).read_text().strip() == closed:
                return opens
        except OSError:
            continue
    return "is this a container? It must be allowed to make user namespaces"
