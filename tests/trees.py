"""The smallest folders that pass for a kernel's source, and archives of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

MAKEFILE = """\
# SPDX-License-Identifier: GPL-2.0
VERSION = 5
PATCHLEVEL = 5
SUBLEVEL = 19
EXTRAVERSION =
NAME = Kleptomaniac Octopus
"""
FILES = {
    "Makefile": MAKEFILE,
    "Kbuild": "",
    "Kconfig": "config MODULES\n\tbool\n",
    "arch/x86/Makefile": "",
    "arch/arm/Makefile": "",
    "scripts/Makefile.build": "",
    "include/linux/module.h": "/* */",
    "kernel/module.c": "/* */",
}


def write_tree(root: Path, **changed: str) -> Path:
    """A source folder; ``changed`` replaces files, by names with ``__`` for slashes."""
    for name, text in {**FILES, **{n.replace("__", "/"): t for n, t in changed.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def pack(
    files: dict[str, str],
    *,
    top: str = "linux-5.5.19",
    mode: str = "w:xz",
    extra: tuple[tarfile.TarInfo, ...] = (),
) -> bytes:
    """An archive of files below one folder, then of further members without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for info in extra:
            tar.addfile(info)
    return out.getvalue()
