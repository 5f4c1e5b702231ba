"""Guest images: one userland per release, built from a recipe, read-only for all its kernels."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator.adapters.apt import ensure_keyring, run_mmdebstrap
from orchestrator.adapters.cache import Cache, hash_of, reading, sha256_of, watch_room, write_json
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.lock import changed_packages
from orchestrator.plan.recipe import Recipe

# Raised when what is made of the same recipe changes.
FORMAT = 2
PACKAGE_LIST = PurePosixPath("/usr/share/kmod-lab/packages")
BUSYBOX_MEMBERS = ("./bin/busybox", "./usr/bin/busybox")
# mmdebstrap's own, which looks whether the release needs it: up to Ubuntu 16.04 and Debian 8
# an init system is essential, and its packages must be configured in their order.
OLD_RELEASES_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-jessie-or-older")


@dataclass(frozen=True)
class Image:
    """A userland: a squashfs, and the static busybox of the same release."""

    key: str
    release: str
    squashfs_path: Path
    busybox_path: Path
    packages: tuple[str, ...]


def image_key(recipe: Recipe, tool_dir: Path, locked: tuple[str, ...] | None = None) -> str:
    """What the image depends on, in a name; an image for a lock has a name of its own.

    ``tool_dir`` has the source of the one program of ours that is in it.
    """
    # Not on what only the toolchain's image has.
    about = recipe.key(exclude={"kernel_packages"})
    sources = [(path.name, path.read_text()) for path in sorted(tool_dir.glob("*.[ch]"))]
    key = f"{recipe.release}-{hash_of(FORMAT, about, sources)}"
    return key if locked is None else f"{key}-{hash_of(locked)}"


def ensure_image(
    cache: Cache,
    recipe: Recipe,
    tool_dir: Path,
    locked: tuple[str, ...] | None = None,
) -> Image:
    """The image of a recipe, built if the cache has none.

    With ``locked``, an image of exactly these packages, or ``SourceError`` with what differs.
    Blocks for the download and the installation of some 150 packages (half a minute with
    a fast mirror). Raises ``SourceError`` or ``HostError``.
    """
    image = find_image(cache, recipe, tool_dir, locked)
    if image and cache.use("images", image.key):
        return image

    def make(folder: Path) -> None:
        _build(cache, recipe, tool_dir, folder)
        if locked is not None:
            _compare(recipe, locked, _read_image(folder, recipe).packages)

    key = image_key(recipe, tool_dir, locked)
    return _read_image(cache.ensure("images", key, make), recipe)


def refresh_image(cache: Cache, recipe: Recipe, tool_dir: Path) -> Image:
    """The image of a recipe made anew, of what the archive has now.

    The one whose place it takes is kept under the name that it has for a lock: another lab
    may have locked it.
    """
    key = image_key(recipe, tool_dir)

    def make(folder: Path) -> None:
        _build(cache, recipe, tool_dir, folder)
        old = find_image(cache, recipe, tool_dir)
        if old is None or old.packages == _read_image(folder, recipe).packages:
            return
        cache.ensure(
            "images",
            image_key(recipe, tool_dir, old.packages),
            lambda kept: _link_files(old.squashfs_path.parent, kept),
        )

    return _read_image(cache.replace("images", key, make), recipe)


def _link_files(source: Path, target: Path) -> None:
    for path in source.iterdir():
        (target / path.name).hardlink_to(path)


def find_image(
    cache: Cache, recipe: Recipe, tool_dir: Path, locked: tuple[str, ...] | None = None
) -> Image | None:
    """The image if it is cached; with ``locked``, only one of exactly these packages."""
    keys = (image_key(recipe, tool_dir), image_key(recipe, tool_dir, locked))
    for key in dict.fromkeys(keys):
        if folder := cache.find("images", key):
            image = _read_image(folder, recipe)
            if locked is None or image.packages == locked:
                return image
    return None


def _compare(recipe: Recipe, locked: tuple[str, ...], found: tuple[str, ...]) -> None:
    changes = changed_packages(locked, found)
    if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise SourceError(
            f"the archive of {recipe.release} no longer gives the locked userland: "
            f"{'; '.join(changes[:3])}{more}",
            hint="`lab lock --update` locks what there is now; `lab export`, where the locked "
            "one is still cached, and `lab import` here bring that one",
        )


def _read_image(folder: Path, recipe: Recipe) -> Image:
    with reading(folder):
        packages = json.loads((folder / "image.json").read_text())["packages"]
        if not all(isinstance(each, str) for each in packages):
            raise ValueError("a package is no text")
    return Image(
        key=folder.name,
        release=recipe.release,
        squashfs_path=folder / "image.squashfs",
        busybox_path=folder / "busybox",
        packages=tuple(packages),
    )


def ensure_toolchain(cache: Cache, recipe: Recipe, tool_dir: Path) -> Image:
    """The image that kernels are built in: the recipe's, and its ``kernel_packages``.

    Blocks and raises like ``ensure_image``.
    """
    if not recipe.kernel_packages:
        raise SourceError(
            f"the recipe of {recipe.release} says not what building a kernel takes",
            hint="list flex, bison and so on in its `kernel_packages`; `images/` has examples",
        )
    packages = (*recipe.packages, *recipe.kernel_packages)
    whole = recipe.model_copy(update={"packages": packages, "kernel_packages": ()})
    return ensure_image(cache, whole, tool_dir)


def ensure_root(cache: Cache, image: Image) -> Path:
    """The image unpacked: a folder with its root file system, to run things in.

    Blocks for some ten seconds where the cache has it not. Owners, devices and set-user-id
    bits are not kept for an ordinary user, and nothing here needs them.
    """

    def make(folder: Path) -> None:
        target = folder / "root"
        argv = (
            *(process.find_tool("unsquashfs"), "-no-progress", "-no-xattrs", "-quiet"),
            # No devices: an ordinary user cannot make them, and a box has its own.
            *("-excludes", "-dest", str(target), str(image.squashfs_path), "dev"),
        )
        deadline = Deadline.after(600, f"unpacking the image of {image.release}")
        done = process.run(argv, deadline=deadline, watch=watch_room(folder))
        if done.status != 0:
            raise SourceError(f"cannot unpack the image of {image.release}: {done.last_lines()}")
        (target / "dev").mkdir(exist_ok=True)
        target.chmod(0o755)

    return cache.ensure("roots", _root_key(image), make) / "root"


def _root_key(image: Image) -> str:
    """The image's key, and what is in it: ``refresh_image`` makes another under the same key."""
    packages = hash_of(image.packages)
    return image.key if image.key.endswith(f"-{packages}") else f"{image.key}-{packages}"


def _build(cache: Cache, recipe: Recipe, tool_dir: Path, folder: Path) -> None:
    cache.require_network(f"the userland of {recipe.release}")
    tar_path = folder / "image.tar"
    hooks = (
        # The one program of our own in the guest, built with the release's own compiler.
        f"copy-in {tool_dir} /tmp",
        'chroot "$1" sh -c "gcc -static -O2 -Wall -o /usr/local/bin/sysio /tmp/tool/*.c"',
        'rm -r "$1"/tmp/tool',
        # What is in it, with the hashes that the signed index gives.
        f'mkdir -p "$1{PACKAGE_LIST.parent}"',
        """dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${Package}=${Version}\\n' |"""
        " APT_CONFIG=$MMDEBSTRAP_APT_CONFIG xargs apt-cache show --no-all-versions |"
        f' grep -E "^(Package|Version|SHA256):" >"$1{PACKAGE_LIST}"',
        # Weight that no test of a module reads.
        'rm -rf "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/usr/share/doc/*',
    )
    run_mmdebstrap(
        recipe,
        (
            "--variant=essential",
            f"--include={','.join(recipe.packages)}",
            *((f"--hook-dir={OLD_RELEASES_HOOKS}",) if OLD_RELEASES_HOOKS.is_dir() else ()),
            *(f"--customize-hook={hook}" for hook in hooks),
        ),
        tar_path,
        keyring=ensure_keyring(cache, recipe.keyring),
        what=f"the userland of {recipe.release}",
    )
    packages = _read_tar(tar_path, folder)
    _tar_to_squashfs(tar_path, folder / "image.squashfs")
    tar_path.unlink()
    write_json(
        folder / "image.json",
        {
            "format": FORMAT,
            "recipe": recipe.key(),
            "packages": packages,
            "sha256": sha256_of(folder / "image.squashfs"),
        },
    )


def _read_tar(tar_path: Path, folder: Path) -> list[str]:
    """Keep busybox, for the initramfs; the installed packages with version and hash."""
    packages: list[str] = []
    with tarfile.open(tar_path) as tar:
        for member in tar:
            if member.name in BUSYBOX_MEMBERS and (source := tar.extractfile(member)):
                (folder / "busybox").write_bytes(source.read())
            elif member.name == f".{PACKAGE_LIST}" and (source := tar.extractfile(member)):
                packages = parse_package_list(source.read().decode(errors="replace"))
    if not (folder / "busybox").exists():
        raise SourceError("the image has no busybox: its recipe must list busybox-static")
    if not packages:
        raise SourceError("the image does not say which packages it has")
    return packages


def parse_package_list(text: str) -> list[str]:
    """``name=version sha256:…`` for each package, from the fields of apt's index."""
    found = []
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        fields[key] = value
        if fields.keys() >= {"Package", "Version", "SHA256"}:
            found.append(f"{fields['Package']}={fields['Version']} sha256:{fields['SHA256']}")
            fields = {}
    return sorted(set(found))


def _tar_to_squashfs(tar_path: Path, squashfs_path: Path) -> None:
    """Pack a root file system; owners and devices come from the archive, so it needs no root."""
    argv = (process.find_tool("sqfstar"), "-comp", "lz4", "-no-progress", str(squashfs_path))
    deadline = Deadline.after(600, "packing the image")
    done = process.run(argv, deadline=deadline, stdin_path=tar_path)
    if done.status != 0:
        raise SourceError(f"cannot pack the image: {done.last_lines()}")
