"""The modules build without a word of warning at W=1, in each kernel's own root file system."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.images import ensure_image
from orchestrator.adapters.kernels import ensure_kernel, ensure_resolution
from orchestrator.adapters.sources import SourceContext, entry_types
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.paths import tool_dir
from orchestrator.plan.recipes import load_recipe

from .conftest import REPOSITORY

LAB = load_lab(REPOSITORY / "lab.yaml", entry_types())
# Kbuild's remark where the compiler got an update, or another name, since the kernel was built:
# 5.19's was gcc 11.3, 6.8's is called x86_64-linux-gnu-gcc-13. It says nothing of the code.
OTHER_COMPILER = "warning: the compiler differs from the one used to build the kernel"


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[str], tuple[Path, str]]:
    """Image and kernel layer of one of the lab's kernels as a root file system, and its release."""
    if os.geteuid() != 0:
        pytest.skip("building in the image's own root needs chroot, and that needs root")

    def unpack(name: str) -> tuple[Path, str]:
        entry = LAB.file.kernels[name]
        recipe = load_recipe(LAB, entry.image)
        cache = Cache(default_cache_dir())
        image = ensure_image(cache, recipe, tool_dir())
        context = SourceContext(cache, recipe, REPOSITORY)
        kernel = ensure_kernel(context, entry, ensure_resolution(context, entry))
        root = tmp_path / "root"
        for squashfs in (image.squashfs_path, kernel.layer_path):
            argv = [
                "unsquashfs",
                "-quiet",
                "-no-progress",
                "-force",
                "-d",
                str(root),
                str(squashfs),
            ]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        if not (root / "lib/modules").exists():
            (root / "lib/modules").symlink_to("/usr/lib/modules")
        return root, kernel.release

    return unpack


IN_CI = ("5.4", "5.10", "6.1", "6.12", "7.x")


@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_CI else pytest.param(name, marks=pytest.mark.nightly)
        for name in LAB.file.kernels
    ],
)
def test_no_warning_at_w1(name: str, unpacked: Callable[[str], tuple[Path, str]]) -> None:
    root, release = unpacked(name)
    shutil.copytree(REPOSITORY / "kmod", root / "src-kmod")
    # checkdoc runs kernel-doc, a perl script that the 5.4 headers ship broken and whose
    # perl modules no image has; it compiles nothing.
    make = f"make -C /lib/modules/{release}/build M=/src-kmod W=1 cmd_checkdoc= modules"
    inside = f"mount -t proc proc {root}/proc && exec chroot {root} {make}"  # for objtool 7.x
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert {path.name for path in root.glob("src-kmod/**/*.ko")} == {
        *("procfs1.ko", "procfs2.ko", "procfs3.ko", "procfs4.ko", "squatter.ko")
    }
    assert "warning" not in done.stdout.replace(OTHER_COMPILER, "").lower(), done.stdout
