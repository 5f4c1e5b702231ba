"""Kernels from a distribution: which there are, and their packages, with verified signatures.

Everything is done by the distributions' own tools in a private apt root in the cache:
mmdebstrap makes it (and so names the mirrors), apt checks the signatures against the
release's keyring, and nothing on the host changes.
"""

from __future__ import annotations

import itertools
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of, sha256_of, watch_room
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, SourceError
from orchestrator.plan.model import KernelEntry
from orchestrator.plan.recipe import Keyring, Recipe
from orchestrator.plan.version import KernelVersion

NETWORK_SECONDS = 1800.0
HOST_KEYRINGS = Path("/usr/share/keyrings")
APT_HELPER = "/usr/lib/apt/apt-helper"
# How many of a source package's versions are tried until a mirror still has one.
MAX_SOURCE_VERSIONS = 40
DEBIAN_KEYRING = "debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Package:
    """A binary package as the release's signed index describes it."""

    name: str
    version: str
    sha256: str
    size: int
    depends: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and version, as apt writes them."""
        return f"{self.name}={self.version}"


@dataclass(frozen=True)
class ResolvedKernel:
    """One exact kernel: what ``uname -r`` must say, its version, and its packages."""

    release: str
    version: str
    packages: tuple[Package, ...]
    compiler: str
    """What its headers were made for (``gcc-12``), empty where the packages do not say."""


def ensure_keyring(cache: Cache, keyring: Keyring) -> Path:
    """The keyring's path: the host's own, or one from a package that Debian's key verifies."""
    host = HOST_KEYRINGS / keyring.file
    if host.exists():
        return host
    if keyring.file == DEBIAN_KEYRING:
        raise HostError(
            f"{host} is missing: nothing can be verified without it",
            hint="install the package debian-archive-keyring",
        )

    def make(folder: Path) -> None:
        tar_path = folder / "packages.tar"
        _mmdebstrap(
            "--variant=extract",
            f"--include={keyring.package}",
            keyring.release,
            output=tar_path,
            what=f"the keyring {keyring.file} (from Debian {keyring.release})",
        )
        wanted = f"./usr/share/keyrings/{keyring.file}"
        with tarfile.open(tar_path) as tar:
            member = next((each for each in tar if each.name == wanted), None)
            source = tar.extractfile(member) if member and member.isfile() else None
            if source is None:
                raise SourceError(f"{keyring.package} has no {keyring.file}")
            (folder / keyring.file).write_bytes(source.read())
        tar_path.unlink()

    folder = cache.ensure("keyrings", hash_of(keyring.model_dump()), make)
    return folder / keyring.file


def run_mmdebstrap(
    recipe: Recipe, arguments: Sequence[str], output: Path, *, keyring: Path, what: str
) -> None:
    """Run mmdebstrap for a release and write its archive; ``SourceError`` if it fails."""
    options = ['Apt::Install-Recommends "false"', 'Acquire::Retries "3"']
    if recipe.ended:
        options.append('Acquire::Check-Valid-Until "false"')
    _mmdebstrap(
        f"--components={','.join(recipe.components)}",
        *(f"--aptopt={option}" for option in options),
        *arguments,
        recipe.release,
        output=output,
        keyring=keyring,
        what=what,
    )


def _mmdebstrap(*arguments: str, output: Path, keyring: Path | None = None, what: str) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-keyring-") as name:
        folder = Path(name)
        if keyring is not None:
            # apt reads it as a user of its own, who may not look into the cache.
            folder.chmod(0o755)
            shutil.copy(keyring, folder)
            (folder / keyring.name).chmod(0o644)
            arguments = (f"--keyring={folder / keyring.name}", *arguments)
        argv = (*process.contained(), process.find_tool("mmdebstrap"), *arguments, str(output))
        done = process.run(
            argv,
            deadline=Deadline.after(NETWORK_SECONDS, f"fetching {what}"),
            watch=watch_room(output.parent),
        )
    if done.status != 0:
        raise SourceError(
            f"cannot fetch {what}: {_telling_lines(done)}",
            hint="is the network there? `lab doctor` looks; what is cached works without it",
        )


def _telling_lines(done: process.Completed) -> str:
    """The lines of an apt or mmdebstrap failure that say why."""
    text = (done.stderr + b"\n" + done.stdout).decode(errors="backslashreplace")
    lines = [line for line in text.splitlines() if line.strip()]
    telling = []
    for line, following in itertools.pairwise([*lines, ""]):
        if line.startswith("Err:"):
            telling.append(f"{line}: {following.strip()}")
        elif line.startswith(("E: ", "W: ")) and not _SEQUEL.search(line):
            telling.append(line)
    return "; ".join(dict.fromkeys(telling[:3] or lines[-3:]))[:800] or f"status {done.status}"


# What the tools say because something else, said before, went wrong.
_SEQUEL = re.compile(r"mmdebstrap failed|apt-get .*failed$|received signal|Download is performed")


class AptRoot:
    """A private apt: indexes of one release, verified, and the packages that they name."""

    def __init__(self, root: Path, keyring: Path, *, ended: bool = False) -> None:
        self.root = self._root = root
        self._options = (
            *("-o", f"Dir={root}"),
            *("-o", f"Dir::State::status={root}/var/lib/dpkg/status"),
            *("-o", f"Dir::Etc::Trusted={keyring}"),
            *("-o", "Dir::Etc::TrustedParts=/nonexistent/"),
            *("-o", "APT::Sandbox::User=root"),
            *("-o", "Acquire::Retries=3"),
            *(("-o", "Acquire::Check-Valid-Until=false") if ended else ()),
            *("-q", "-q"),
        )

    def update(self) -> None:
        """Fetch the indexes; ``SourceError`` if one cannot be had or is not signed as it must."""
        # apt-get update exits with 0 when a suite is out of reach, unless told not to.
        done = self._run("apt-get", "-o", "APT::Update::Error-Mode=any", "update")
        if done.status != 0:
            raise SourceError(
                f"cannot fetch the package indexes: {_telling_lines(done)}",
                hint="is the network there? `lab doctor` looks; what is cached works without it",
            )

    def names(self, prefix: str) -> tuple[str, ...]:
        """The names of all packages that begin so."""
        done = self._run("apt-cache", "pkgnames", prefix)
        return tuple(done.stdout.decode().split())

    def show(self, names: Iterable[str]) -> dict[str, Package]:
        """The newest version of each of these packages that there is."""
        wanted = tuple(names)
        if not wanted:
            return {}
        done = self._run("apt-cache", "--no-all-versions", "show", *wanted)
        packages = (_parse_package(text) for text in done.stdout.decode().split("\n\n"))
        return {package.name: package for package in packages if package is not None}

    def download(self, packages: Iterable[Package], folder: Path) -> tuple[Path, ...]:
        """Fetch packages into ``folder``; each is checked against its signed hash, twice."""
        paths = []
        for package in packages:
            done = self._run("apt-get", "download", package.label, cwd=folder)
            found = [p for p in folder.glob(f"{package.name}_*.deb") if p not in paths]
            if done.status != 0 or len(found) != 1:
                raise SourceError(
                    f"cannot fetch {package.label}: {_telling_lines(done)}",
                    hint="`lab run --update` takes the newest that there is now",
                )
            if sha256_of(found[0]) != package.sha256:
                raise SourceError(f"{package.label}: what came is not what the index signed")
            paths.append(found[0])
        return tuple(paths)

    def download_source_part(self, source: str, ending: str, folder: Path) -> Path:
        """Fetch the file of a source package that ends so, checked against its signed hash.

        The newest version that the mirror still has is taken: indexes name older ones too,
        and some that are gone. Needs a root made by ``ensure_source_root``.
        """
        shown = self._run("apt-cache", "showsrc", source).stdout.decode(errors="replace")
        versions = dict.fromkeys(re.findall(r"^Version: (\S+)$", shown, re.MULTILINE))
        problem = f"no package of that name is in the index of {self._root.name}"
        for version in list(reversed(versions))[:MAX_SOURCE_VERSIONS]:
            uris = self._run(
                "apt-get", "source", "--print-uris", "--only-source", f"{source}={version}"
            )
            for uri, name, digest in _parse_uris(uris.stdout.decode(errors="replace")):
                if not name.endswith(ending):
                    continue
                path = folder / name
                done = self._run(APT_HELPER, "download-file", uri, str(path), f"SHA256:{digest}")
                if done.status == 0 and sha256_of(path) == digest:
                    return path
                problem = _telling_lines(done)
        raise SourceError(f"cannot fetch {source}'s {ending}: {problem}")

    def _run(self, tool: str, *arguments: str, cwd: Path | None = None) -> process.Completed:
        argv = (process.find_tool(tool), *self._options, *arguments)
        deadline = Deadline.after(NETWORK_SECONDS, f"{tool} {arguments[0]}")
        folder = cwd or self._root
        return process.run(argv, deadline=deadline, cwd=folder, watch=watch_room(folder))


def _parse_package(text: str) -> Package | None:
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", text, re.MULTILINE))
    if not {"Package", "Version", "SHA256", "Size"} <= fields.keys():
        return None
    depends = (
        re.split(r"[\s(:|]", alternative.strip(), maxsplit=1)[0]
        for alternative in fields.get("Depends", "").split(",")
    )
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        sha256=fields["SHA256"],
        size=int(fields["Size"]),
        depends=tuple(name for name in depends if name),
    )


def _parse_uris(text: str) -> list[tuple[str, str, str]]:
    """Address, plain file name and SHA-256 of each file that apt would fetch."""
    return re.findall(r"^'([^']+)' ([^/\s]+) \d+ SHA256:([0-9a-f]{64})$", text, re.MULTILINE)


def ensure_source_root(cache: Cache, recipe: Recipe, keyring: Path) -> AptRoot:
    """A private apt like ``ensure_apt_root``'s that knows source packages instead."""
    key = f"source-{recipe.release}-{hash_of(recipe.release, recipe.also, recipe.components)}"
    binary = ensure_apt_root(cache, recipe)

    def make(folder: Path) -> None:
        shutil.copytree(binary.root / "etc", folder / "etc")
        _make_state(folder)
        source_list = folder / "etc/apt/sources.list"
        lines = source_list.read_text().splitlines()
        text = "".join(f"{re.sub('^deb ', 'deb-src ', line)}\n" for line in lines)
        source_list.write_text(text)
        AptRoot(folder, keyring, ended=recipe.ended).update()

    return AptRoot(cache.ensure("apt", key, make), keyring, ended=recipe.ended)


def ensure_apt_root(cache: Cache, recipe: Recipe, *, update: bool = False) -> AptRoot:
    """The release's private apt, from the cache unless ``update`` asks for newer indexes."""
    keyring = ensure_keyring(cache, recipe.keyring)
    key = f"{recipe.release}-{hash_of(recipe.release, recipe.also, recipe.components)}"

    def make(folder: Path) -> None:
        tar_path = folder / "root.tar"
        run_mmdebstrap(
            recipe,
            ("--variant=extract",),
            tar_path,
            keyring=keyring,
            what=f"the indexes of {recipe.release}",
        )
        _unpack_configuration(tar_path, folder)
        tar_path.unlink()
        _add_suites(folder, recipe)
        AptRoot(folder, keyring, ended=recipe.ended).update()

    fill = cache.replace if update else cache.ensure
    return AptRoot(fill("apt", key, make), keyring, ended=recipe.ended)


def _unpack_configuration(tar_path: Path, folder: Path) -> None:
    """Apt's own folders out of mmdebstrap's root: plain files, ours, no devices."""
    with tarfile.open(tar_path) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            wanted = name.startswith(("etc/apt/", "var/lib/dpkg/")) and ".." not in name
            if wanted and member.isfile() and (source := tar.extractfile(member)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(source.read())
    _make_state(folder)


def _make_state(folder: Path) -> None:
    """What apt wants to find below its root."""
    for name in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log/apt"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    (folder / "var/lib/dpkg/status").touch()


def _add_suites(folder: Path, recipe: Recipe) -> None:
    """Further suites of the same archive: the main line again, with another suite."""
    source_list = folder / "etc/apt/sources.list"
    lines = source_list.read_text().splitlines()
    pattern = re.compile(rf"^(deb (?:\[[^]]*\] )?\S+ ){re.escape(recipe.release)} (.*)$")
    main = next((match for line in lines if (match := pattern.match(line))), None)
    if main is None:
        raise SourceError(f"mmdebstrap names no archive for {recipe.release}")
    lines += [f"{main[1]}{suite} {main[2]}" for suite in recipe.also]
    source_list.write_text("\n".join(lines) + "\n")


# --- which kernel ------------------------------------------------------------------------

# linux-image-5.4.0-216-generic, linux-image-unsigned-…, linux-image-7.3.4+deb13-cloud-amd64
_IMAGE_NAME = re.compile(r"^linux-image-(?P<release>\d[^_]*)$")
# What belongs to a kernel and its build tree; not linux-base, not a compiler's metapackage.
_PART = re.compile(
    r"^linux-(image|binary|modules|headers|kbuild|base-\d|hwe-[\d.]+-headers)[-0-9.]?"
)


def resolve_kernel(apt: AptRoot, recipe: Recipe, entry: KernelEntry) -> ResolvedKernel:
    """The newest kernel that fits ``entry`` and has its headers, with all its packages.

    Raises ``SourceError`` with what there is instead if none fits.
    """
    flavour = entry.flavour or recipe.flavour
    releases = _offered_releases(apt, flavour)
    if entry.package is not None:
        wanted = entry.package.removeprefix("linux-image-").removeprefix("unsigned-")
        fitting = [release for release in releases if release == wanted]
    else:
        series = tuple(int(part) for part in entry.version.split("."))
        fitting = [r for r in releases if KernelVersion.parse(r).numbers[: len(series)] == series]
    for release in sorted(fitting, key=KernelVersion.parse, reverse=True):
        resolved = _resolve_release(apt, release)
        if resolved is not None:
            return resolved
    offered = ", ".join(sorted(releases, key=KernelVersion.parse)) or "none"
    raise SourceError(
        f"{recipe.release} offers no {flavour} kernel {entry.package or entry.version} "
        "that has its headers",
        hint=f"it has {offered}"[:600],
    )


def _offered_releases(apt: AptRoot, flavour: str) -> list[str]:
    """The kernels of a flavour, by what ``uname -r`` would say."""
    # No further word before the flavour: neither 6.1.0-57-rt-amd64 nor 6.12.9-rt-amd64 is
    # an "amd64". What a release has after a hyphen of its own begins with a digit or "rc".
    pattern = re.compile(rf"\d[\d.]*([+~][\w.+~]*)?(-(?:\d|rc\d)[\w.+~]*)*-{re.escape(flavour)}")
    found = set()
    for name in apt.names("linux-image-"):
        plain = name.replace("linux-image-unsigned-", "linux-image-").removesuffix("-unsigned")
        match = _IMAGE_NAME.match(plain)
        if match and pattern.fullmatch(match["release"]):
            found.add(match["release"])
    return sorted(found)


def _resolve_release(apt: AptRoot, release: str) -> ResolvedKernel | None:
    """The packages of one kernel; None where its headers are not to be had any more."""
    # Unsigned first: the bootloader that a signature is for does not exist here, and
    # Ubuntu's signed package holds no more than the signature's copy of the same kernel.
    candidates = (
        f"linux-image-unsigned-{release}",
        f"linux-image-{release}",
        f"linux-image-{release}-unsigned",  # Debian's, where nobody has signed it yet
    )
    offered = apt.show((*candidates, f"linux-headers-{release}"))
    image = next((offered[name] for name in candidates if name in offered), None)
    headers = offered.get(f"linux-headers-{release}")
    if image is None or headers is None:
        return None
    parts = {image.name: image, headers.name: headers}
    compiler = ""
    todo = [image, headers]
    while todo:
        depends = [name for package in todo for name in package.depends]
        compiler = compiler or _compiler_of(depends)
        wanted = [name for name in depends if _PART.match(name) and name not in parts]
        found = apt.show(wanted)
        if len(found) != len(set(wanted)):
            return None
        parts.update(found)
        todo = list(found.values())
    return ResolvedKernel(
        release=release,
        version=_upstream_version(release, image.version),
        packages=tuple(parts[name] for name in sorted(parts)),
        compiler=compiler,
    )


def _compiler_of(depends: Iterable[str]) -> str:
    """``gcc-12`` out of ``linux-compiler-gcc-12-x86`` or ``gcc-14-for-host``."""
    for name in depends:
        if match := re.search(r"\bgcc-\d+", name):
            return match[0]
    return ""


def _upstream_version(release: str, package_version: str) -> str:
    """The kernel's own version: Debian's package says more than its ABI name (6.1.0-56)."""
    from_package = re.match(r"(\d+\.\d+(?:\.\d+)?)", package_version)
    return from_package[1] if from_package else release
