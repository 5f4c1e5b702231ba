"""What bubblewrap is told to put around QEMU, as a pure function of small values.

QEMU is given all that it works on as open descriptors (``plan/qemu.py``). So the walls show its
own files and nothing else, let it write nowhere, and give it a network with nobody in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

NOBODY = 65534
KVM = "/dev/kvm"
# Folders with a part of such a name hold libraries, and are shown whole: bubblewrap takes 1 to 2 ms
# for each thing that it shows, and QEMU loads some 50 libraries.
LIBRARY_FOLDERS = frozenset(("lib", "lib32", "lib64", "libx32"))


@dataclass(frozen=True)
class Shown:
    """What of the host is seen within walls, read-only; all of it by its own path."""

    paths: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    """Symbolic links on the way to it: where each is, and what it says."""


def show(files: Iterable[str], folders: Iterable[str], links: Mapping[str, str]) -> Shown:
    """What shows these; ``files`` that are libraries with their folders.

    A link that is in a folder which is shown is seen there anyway.
    """
    wanted = {_folder_of(path) for path in files} | set(folders)
    paths = sorted(path for path in wanted if not _is_below(path, wanted))
    outside = [(path, to) for path, to in sorted(links.items()) if not _is_below(path, wanted)]
    return Shown(tuple(paths), tuple(outside))


def _folder_of(path: str) -> str:
    folder = os.path.dirname(path)
    return folder if LIBRARY_FOLDERS & set(folder.split("/")) else path


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def render_walls(
    tool: str,
    shown: Shown,
    *,
    identity: Sequence[str] = (),
    kvm: bool = False,
    info: int | None = None,
    user: bool = True,
    seals: bool = True,
) -> tuple[str, ...]:
    """The words for bubblewrap, up to the command that is walled in.

    ``tool`` is bubblewrap (0.5 or later), ``info`` the descriptor that it tells the command's
    process id on, ``seals`` whether it can forbid further user namespaces (0.8).

    ``identity`` is what makes root somebody else, before there are walls. Without a ``user``
    namespace, which root alone can do without, it comes last, within them.
    """
    own_user = ("--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY))
    return (
        *(identity if user else ()),
        tool,
        *(own_user if user else ()),
        *(("--disable-userns",) if user and seals else ()),
        *("--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--hostname", "guest"),
        # No process of bubblewrap's own inside: the command's id is the one that is told.
        *("--as-pid-1", "--die-with-parent"),
        *(() if info is None else ("--info-fd", str(info))),
        *(() if user else _ways(shown, kvm)),
        *_files(shown, kvm),
        *("--chdir", "/", "--clearenv", "--cap-drop", "ALL"),
        *(() if user or not identity else _TO_CHANGE),
        "--",
        *(() if user else identity),
    )


# What setpriv(1) takes to become somebody else; nothing of it is left then.
_TO_CHANGE = tuple(
    word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")
)


def _ways(shown: Shown, kvm: bool) -> Iterator[str]:
    """Folders that lead to what is shown, for everybody: bubblewrap's own are its user's alone."""
    paths = (*shown.paths, *(path for path, _ in shown.links), *((KVM,) if kvm else ()))
    for folder in sorted({str(each) for path in paths for each in PurePosixPath(path).parents}):
        if folder != "/":
            yield from ("--perms", "0755", "--dir", folder)


def _files(shown: Shown, kvm: bool) -> Iterator[str]:
    for path in shown.paths:
        yield from ("--ro-bind", path, path)
    for path, to in shown.links:
        yield from ("--symlink", to, path)
    # Of its own processes: QEMU opens what it was given as /proc/self/fd/N.
    yield from ("--proc", "/proc")
    if kvm:
        yield from ("--dev-bind", KVM, KVM)
    yield from ("--remount-ro", "/proc", "--remount-ro", "/")


def own_limits(
    memory_mib: int, *, file_bytes: int, files: int, hard: Mapping[str, int]
) -> tuple[str, ...]:
    """prlimit(1)'s words for one QEMU that may map so much. ``hard`` is what the lab itself may
    have: nobody may raise a limit, and QEMU says better than prlimit(1) what it has too little of.
    """
    wanted = {"as": memory_mib << 20, "core": 0, "fsize": file_bytes, "nofile": files}
    return tuple(f"--{name}={min(most, hard.get(name, most))}" for name, most in wanted.items())
