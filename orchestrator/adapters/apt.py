"""A distribution's archive: indexes, packages and userlands, with verified signatures.

Everything is done by the distributions' own tools in a private apt root in the cache:
mmdebstrap makes it (and so names the mirrors), apt checks the signatures against the
release's keyring, and nothing on the host changes.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of, sha256_of, watch_room
from orchestrator.adapters.fetching import Tally, Tell, fetch_all, tell_nobody
from orchestrator.adapters.signatures import install_verifier
from orchestrator.adapters.snapshot import fetch_package, service_url
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, SourceError
from orchestrator.plan.kernel import Part
from orchestrator.plan.recipe import Keyring, Recipe

# Raised when a private root is made otherwise.
FORMAT = 2
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
    place: str = ""
    """Where the archive keeps it, below the archive's root."""
    depends: tuple[str, ...] = ()


def as_part(package: Package) -> Part:
    """A package as part of a kernel."""
    return Part(
        name=package.name,
        version=package.version,
        sha256=package.sha256,
        size=package.size,
        place=package.place or None,
    )


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
        cache.require_network(f"the keyring {keyring.file}")
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
            data = _read_member(tar, wanted)
        if data is None:
            raise SourceError(f"{keyring.package} has no {keyring.file}")
        (folder / keyring.file).write_bytes(data)
        tar_path.unlink()

    folder = cache.ensure("keyrings", hash_of(keyring.model_dump()), make)
    return folder / keyring.file


def _read_member(tar: tarfile.TarFile, name: str) -> bytes | None:
    """A file's contents; since Debian 13 a keyring's old name is a link to its new one."""
    member = next((each for each in tar if each.name == name), None)
    if member is None or not (member.isfile() or member.issym()):
        return None
    try:
        source = tar.extractfile(member)
    except KeyError:
        return None
    return source.read() if source is not None else None


def run_mmdebstrap(
    recipe: Recipe, arguments: Sequence[str], output: Path, *, keyring: Path, what: str
) -> None:
    """Run mmdebstrap for a release and write its archive; ``SourceError`` if it fails."""
    options = ['Apt::Install-Recommends "false"', 'Acquire::Retries "3"']
    if recipe.past:
        options.append('Acquire::Check-Valid-Until "false"')
    _mmdebstrap(
        f"--components={','.join(recipe.components)}",
        *(f"--aptopt={option}" for option in options),
        *arguments,
        recipe.release,
        output=output,
        sources=recipe.sources(service_url()),
        keyring=keyring,
        past=recipe.past,
        what=what,
    )


# The verifier is gone when mmdebstrap is done; nothing of what it made may name it.
_FORGET_VERIFIER = """sed -i /gpgvcommand/d "$1/etc/apt/apt.conf.d/99mmdebstrap\""""


def _mmdebstrap(
    *arguments: str,
    output: Path,
    sources: Sequence[str] = (),
    keyring: Path | None = None,
    past: bool = False,
    what: str,
) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-keyring-") as name:
        folder = Path(name)
        if keyring is not None:
            # apt reads it as a user of its own, who may not look into the cache.
            folder.chmod(0o755)
            shutil.copy(keyring, folder)
            (folder / keyring.name).chmod(0o644)
            arguments = (f"--keyring={folder / keyring.name}", *arguments)
            if past:
                verifier = install_verifier(folder, keyring)
                option = f'--aptopt=Apt::Key::gpgvcommand "{verifier}"'
                arguments = (option, f"--customize-hook={_FORGET_VERIFIER}", *arguments)
        tool = process.find_tool("mmdebstrap")
        done = process.run(
            (*process.contained(), tool, *arguments, str(output), *sources),
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
_SEQUEL = re.compile(
    r"mmdebstrap failed|apt-get .*failed$|received signal|Download is performed|Download Failed$"
)


class AptRoot:
    """A private apt: indexes of one release, verified, and the packages that they name."""

    def __init__(
        self,
        cache: Cache,
        root: Path,
        keyring: Path,
        *,
        past: bool = False,
        snapshot: str | None = None,
    ) -> None:
        """Open the apt whose configuration is in ``root``.

        ``past``: the indexes need not be fresh, nor their key still be valid. ``snapshot`` is
        the address of a snapshot service that has the archive's files.
        """
        self._cache = cache
        self._root = root
        self._keyring = keyring
        self._past = past
        self._snapshot = snapshot
        self._options = (
            *("-o", f"Dir={root}"),
            *("-o", f"Dir::State::status={root}/var/lib/dpkg/status"),
            *("-o", f"Dir::Etc::Trusted={keyring}"),
            *("-o", "Dir::Etc::TrustedParts=/nonexistent/"),
            *("-o", "APT::Sandbox::User=root"),
            *("-o", "Acquire::Retries=3"),
            # Some hosts switch these off for their own apt, and every answer takes a second then.
            *("-o", "Acquire::GzipIndexes=false"),
            *("-o", "Dir::Cache::pkgcache=pkgcache.bin"),
            *("-o", "Dir::Cache::srcpkgcache="),
            *(("-o", "Acquire::Check-Valid-Until=false") if past else ()),
            *("-q", "-q"),
        )

    @property
    def root(self) -> Path:
        """Where apt's own folders are."""
        return self._root

    def update(self) -> None:
        """Fetch the indexes; ``SourceError`` if one cannot be had or is not signed as it must."""
        # apt-get update exits with 0 when a suite is out of reach, unless told not to.
        options = ["-o", "APT::Update::Error-Mode=any"]
        if self._past:
            verifier = install_verifier(self._root, self._keyring)
            options += ["-o", f"Apt::Key::gpgvcommand={verifier}"]
        done = self._run("apt-get", *options, "update")
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

    def download(
        self, parts: Iterable[Part], folder: Path, tell: Tell = tell_nobody
    ) -> tuple[Path, ...]:
        """Fetch packages into ``folder``, some at a time; each is what its hash says, or
        ``SourceError``.

        One that the index no longer names is looked for where the archive kept it, and then
        at the snapshot service, if there is one for this archive.
        """
        wanted = tuple(parts)
        tally = Tally(folder, sum(part.size for part in wanted), tell)

        def fetch(part: Part, check: Callable[[], None]) -> Path:
            def watch() -> None:
                check()
                tally.look()

            return self._fetch(part, folder, watch)

        return fetch_all(wanted, fetch)

    def _fetch(self, part: Part, folder: Path, watch: Callable[[], None]) -> Path:
        self._cache.require_network(part.label)
        target = folder / f"{part.name}.deb"
        complaints = []
        ways = [self._fetch_by_name, self._fetch_by_place]
        if self._snapshot is not None:
            ways.append(functools.partial(self._fetch_by_snapshot, self._snapshot))
        for fetch in ways:
            watch()
            complaint = fetch(part, target, watch)
            if not complaint and sha256_of(target) == part.sha256:
                return target
            target.unlink(missing_ok=True)
            complaints.append(complaint or "what came is not what the index signed")
        raise SourceError(
            f"cannot fetch {part.label}: {'; '.join(dict.fromkeys(filter(None, complaints)))}",
            hint="if the archive dropped it, `lab run --update` takes the newest there is, "
            "`lab lock` locks that, and `lab import` brings it from where it is still kept",
        )

    def _fetch_by_name(self, part: Part, target: Path, watch: Callable[[], None]) -> str:
        """Have apt find it; what went wrong, if anything did."""
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as name:
            done = self._run("apt-get", "download", part.label, cwd=Path(name), watch=watch)
            found = list(Path(name).glob("*.deb"))
            if done.status != 0 or len(found) != 1:
                return _telling_lines(done)
            found[0].rename(target)
        return ""

    def _fetch_by_place(self, part: Part, target: Path, watch: Callable[[], None]) -> str:
        """Look in the archive's pool, where superseded packages stay for a while."""
        if part.place is None:
            return "the lock does not say where it was"
        complaint = "no archive is known"
        for base in self._bases():
            # A folder of its own: apt leaves what it refused under another name.
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as name:
                path = Path(name) / target.name
                done = self._run(
                    *(APT_HELPER, "download-file", f"{base}/{part.place}", str(path)),
                    f"SHA256:{part.sha256}",
                    watch=watch,
                )
                if done.status == 0 and path.exists():
                    path.rename(target)
                    return ""
            complaint = _telling_lines(done)
        return complaint

    @staticmethod
    def _fetch_by_snapshot(
        service: str, part: Part, target: Path, watch: Callable[[], None]
    ) -> str:
        """Ask the service that forgets nothing."""
        try:
            fetch_package(service, part, target, lambda *_: watch())
        except SourceError as error:
            return error.message
        return ""

    def _bases(self) -> tuple[str, ...]:
        """The roots of the archives, as mmdebstrap named them."""
        text = (self._root / "etc/apt/sources.list").read_text()
        found = re.findall(r"^deb (?:\[[^]]*\] )?(\S+) ", text, re.MULTILINE)
        return tuple(dict.fromkeys(base.rstrip("/") for base in found))

    def download_source_part(self, source: str, ending: str, folder: Path) -> Path:
        """Fetch the file of a source package that ends so, checked against its signed hash.

        The newest version that the mirror still has is taken: indexes name older ones too,
        and some that are gone. Needs a root made by ``ensure_source_root``.
        """
        self._cache.require_network(f"the source of {source}")
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

    def _run(
        self,
        tool: str,
        *arguments: str,
        cwd: Path | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> process.Completed:
        path = tool if tool.startswith("/") else process.find_tool(tool)
        argv = (path, *self._options, *arguments)
        deadline = Deadline.after(NETWORK_SECONDS, f"{tool} {arguments[0]}")
        folder = cwd or self._root
        look = watch_room(folder)

        def watch_both() -> None:
            look()
            watch()

        return process.run(argv, deadline=deadline, cwd=folder, watch=watch_both)


def _parse_package(text: str) -> Package | None:
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", text, re.MULTILINE))
    if not {"Package", "Version", "SHA256", "Size"} <= fields.keys():
        return None
    if not re.fullmatch("[0-9]{1,18}", fields["Size"]):
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
        place=fields.get("Filename", ""),
        depends=tuple(name for name in depends if name),
    )


def _parse_uris(text: str) -> list[tuple[str, str, str]]:
    """Address, plain file name and SHA-256 of each file that apt would fetch."""
    return re.findall(r"^'([^']+)' ([^/\s]+) \d+ SHA256:([0-9a-f]{64})$", text, re.MULTILINE)


def ensure_source_root(cache: Cache, recipe: Recipe, keyring: Path) -> AptRoot:
    """A private apt like ``ensure_apt_root``'s that knows source packages instead."""
    key = f"source-{_root_key(recipe)}"
    binary = ensure_apt_root(cache, recipe)

    def make(folder: Path) -> None:
        cache.require_network(f"the index of {recipe.release}'s sources")
        shutil.copytree(binary.root / "etc", folder / "etc")
        _make_state(folder)
        source_list = folder / "etc/apt/sources.list"
        lines = source_list.read_text().splitlines()
        text = "".join(f"{re.sub('^deb ', 'deb-src ', line)}\n" for line in lines)
        source_list.write_text(text)
        _open_root(cache, recipe, keyring, folder).update()

    return _open_root(cache, recipe, keyring, cache.ensure("apt", key, make))


def ensure_apt_root(cache: Cache, recipe: Recipe, *, update: bool = False) -> AptRoot:
    """The release's private apt, from the cache unless ``update`` asks for newer indexes."""
    keyring = ensure_keyring(cache, recipe.keyring)

    def make(folder: Path) -> None:
        cache.require_network(f"the index of {recipe.release}")
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
        _open_root(cache, recipe, keyring, folder).update()

    fill = cache.replace if update else cache.ensure
    return _open_root(cache, recipe, keyring, fill("apt", _root_key(recipe), make))


def _root_key(recipe: Recipe) -> str:
    parts = (FORMAT, recipe.release, recipe.also, recipe.components, *recipe.whereabouts)
    return f"{recipe.release}-{hash_of(*parts)}"


def _open_root(cache: Cache, recipe: Recipe, keyring: Path, folder: Path) -> AptRoot:
    service = service_url() if recipe.distribution == "debian" else None
    return AptRoot(cache, folder, keyring, past=recipe.past, snapshot=service)


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
    """What apt wants to find below its root; it complains of each that it misses, in the place
    of what matters.
    """
    for name in (
        *("etc/apt/preferences.d", "etc/apt/apt.conf.d", "var/log/apt"),
        *("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"),
    ):
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
