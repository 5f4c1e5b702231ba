"""A small root file system out of the host's own programs, for boxes to run in."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = (
    *("sh", "cat", "chmod", "cp", "env", "grep", "id", "ln", "ls", "mkdir", "sleep", "stat"),
    *("perl", "tar", "touch", "true", "xz", "mknod", "unshare"),
)


def make_root(root: Path, programs: tuple[str, ...] = PROGRAMS) -> Path:
    """Copy programs and the libraries that they load; the rest of the root is empty."""
    for name in ("usr/bin", "proc", "dev", "tmp", "mnt", "etc", "sys", "usr/src", "home"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    for name in programs:
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        assert found is not None, f"no {name} here: `make test` installs what tests need"
        _copy(root, Path(found), f"usr/bin/{name}")
        listed = subprocess.run(("ldd", found), capture_output=True, text=True, check=False)
        for library in re.findall(r"(/\S+)", listed.stdout):
            _copy(root, Path(library), library.lstrip("/"))
    (root / "etc/passwd").write_text("nobody:x:65534:65534::/:/bin/sh\n")
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return root


def _copy(root: Path, source: Path, name: str) -> None:
    target = root / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.resolve(), target)
        target.chmod(0o755)
