"""Releases from kernel.org: fetched by number, with their developer's signature verified.

https://www.kernel.org/category/signatures.html says how: the signature is over the
uncompressed archive, so the checksum only tells a damaged transfer early. The keys come
out of Debian's source package of Linux, which apt verifies, and only those are taken whose
fingerprints stand here.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.apt import ensure_keyring, ensure_source_root
from orchestrator.adapters.cache import Cache, disk_error, hash_of, sha256_of, watch_room
from orchestrator.adapters.download import MissingError, Patience, download
from orchestrator.adapters.fetching import Tell, tell_nobody
from orchestrator.adapters.kernelsource import MAX_BYTES, open_decompressed
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import SourceError
from orchestrator.plan.openpgp import pick_keys
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.version import KernelVersion

FORMAT = 1
BASE = "https://cdn.kernel.org/pub/linux/kernel"
BASE_VARIABLE = "LAB_KERNEL_ORG"
DOWNLOAD_SECONDS = 3600.0
MAX_TARBALL = 1 << 30
MAX_SMALL = 8 << 20
SIGNING_KEYS = "debian/upstream/signing-key.asc"
# As https://www.kernel.org/category/signatures.html states them, and as Debian's linux
# 6.12.107-1 has them.
FINGERPRINTS = {
    "ABAF11C65A2970B130ABE3C479BE3E4300411886": "Linus Torvalds",
    "647F28654894E3BD457199BE38DBBDC86092693E": "Greg Kroah-Hartman",
    "E27E5D8A3403A2EF66873BBCDEA66FF797772CDC": "Sasha Levin",
}


@dataclass(frozen=True)
class Release:
    """A release that was fetched."""

    path: Path
    version: str
    signer: str
    """Whose signature it carries: a name, or the fingerprint of a key of your own."""


def base_url() -> str:
    """Where releases are fetched from: ``$LAB_KERNEL_ORG``, or kernel.org."""
    return (os.environ.get(BASE_VARIABLE) or BASE).rstrip("/")


def ensure_developer_keys(cache: Cache, recipe: Recipe) -> Path:
    """A keyring with the developers' keys, for gpgv; ``recipe`` is a Debian release's.

    Blocks for the download of that release's source index (15 MB), once. Raises
    ``SourceError``, also where a key with a fingerprint stated here is not in the package.
    """

    def make(folder: Path) -> None:
        keyring = ensure_keyring(cache, recipe.keyring)
        apt = ensure_source_root(cache, recipe, keyring)
        archive = apt.download_source_part("linux", ".debian.tar.xz", folder)
        try:
            with tarfile.open(archive) as tar:
                source = tar.extractfile(SIGNING_KEYS)
                data = source.read(MAX_SMALL) if source else b""
            keys, absent = pick_keys(data, FINGERPRINTS)
        except (KeyError, ValueError, tarfile.TarError, EOFError, OSError) as error:
            raise SourceError(f"{archive.name} has no usable {SIGNING_KEYS}: {error}") from error
        if absent:
            names = ", ".join(f"{FINGERPRINTS[each]} {each}" for each in absent)
            raise SourceError(f"{archive.name} lacks the key of {names}")
        (folder / "developers.gpg").write_bytes(keys)
        archive.unlink()

    key = f"kernel-developers-{hash_of(FORMAT, sorted(FINGERPRINTS))}"
    return cache.ensure("keyrings", key, make) / "developers.gpg"


class KernelOrg:
    """A mirror of kernel.org's releases."""

    def __init__(
        self,
        cache: Cache,
        keyring_path: Path,
        *,
        base: str | None = None,
        patience: Patience | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        """``keyring_path`` holds the keys that a release may be signed with, not armored."""
        self._cache = cache
        self._keyring = keyring_path
        self._base = (base or base_url()).rstrip("/")
        self._patience = patience
        self._tell = tell

    def fetch(self, version: str) -> Release:
        """The release ``5.5.19``, from the cache or the mirror.

        Blocks for the download (100 to 160 MB), and half a minute for the signature. Raises
        ``SourceError``: no such release, not what its checksum says, not signed, or not by
        whom it must be.
        """
        name = tarball_name(version)

        def make(folder: Path) -> None:
            signer = self._fetch(version, name, folder)
            (folder / "signer").write_text(signer)

        # With the keys: what another keyring let pass is not what this one would.
        key = f"linux-{name}-{hash_of(FORMAT, self._base, sha256_of(self._keyring))}"
        folder = self._cache.ensure("releases", key, make)
        path = folder / f"linux-{name}.tar.xz"
        return Release(path, version, (folder / "signer").read_text())

    def _fetch(self, version: str, name: str, folder: Path) -> str:
        where = f"{self._base}/v{_series_folder(version)}"
        deadline = Deadline.after(DOWNLOAD_SECONDS, f"fetching Linux {version}")
        sums = self._sums(where, folder, deadline)
        archive = f"linux-{name}.tar.xz"
        if archive not in sums:
            raise _no_release(version, where, sums)
        signature = folder / "signature"
        path = folder / archive
        try:
            self._get(f"{where}/linux-{name}.tar.sign", signature, MAX_SMALL, deadline)
            self._get(f"{where}/{archive}", path, MAX_TARBALL, deadline, sums[archive])
        except MissingError as error:
            raise SourceError(
                f"Linux {version} is not whole on this mirror: {error.message}",
                hint=f"{BASE_VARIABLE}=URL takes another mirror",
            ) from error
        signer = self._verify(path, signature, folder)
        signature.unlink()
        return signer

    def _sums(self, where: str, folder: Path, deadline: Deadline) -> dict[str, str]:
        path = folder / "sums"
        try:
            self._get(f"{where}/sha256sums.asc", path, MAX_SMALL, deadline)
        except MissingError as error:
            raise SourceError(
                f"{where} is no folder of releases: it has no sha256sums.asc",
                hint=f"is {BASE_VARIABLE} the address of a mirror's pub/linux/kernel?",
            ) from error
        text = path.read_text(errors="replace")
        path.unlink()
        return parse_sums(text)

    def _get(
        self, url: str, path: Path, max_bytes: int, deadline: Deadline, sha256: str = ""
    ) -> None:
        download(
            url,
            path,
            deadline=deadline,
            max_bytes=max_bytes,
            sha256=sha256,
            patience=self._patience,
            tell=self._tell,
            # `lab cache prune` removes what nobody comes back for within a day.
            keep_in=self._cache.root / "releases" if sha256 else None,
        )

    def _verify(self, path: Path, signature: Path, folder: Path) -> str:
        """Whose signature the release carries. Raises ``SourceError`` if it is nobody's."""
        plain = folder / "plain.tar"
        try:
            _decompress(path, plain)
            argv = (
                *(process.find_tool("gpgv"), "--status-fd", "1", "--keyring"),
                *(str(self._keyring.absolute()), str(signature), str(plain)),
            )
            done = process.run(argv, deadline=Deadline.after(600, f"verifying {path.name}"))
        finally:
            plain.unlink(missing_ok=True)
        return judge_signature(path.name, done.status, done.stdout.decode(errors="replace"))


def tarball_name(version: str) -> str:
    """``5.5`` for 5.5 and 5.5.0, as files are named. Raises ``SourceError`` for no release."""
    try:
        parsed = KernelVersion.parse(version)
    except ValueError as error:
        raise SourceError(str(error)) from error
    if parsed.rc is not None:
        raise SourceError(
            f"{version} is a release candidate: kernel.org keeps no signed archive of those",
            hint=f"`git clone` Linus' tree, `git checkout v{version}`, and name the folder: "
            "`source: ../linux`",
        )
    if parsed.suffix or not re.fullmatch(r"\d+(\.\d+){1,3}", version):
        raise SourceError(
            f"{version} is no release of kernel.org's: those are numbers alone, as 5.5.19",
            hint="a distribution's kernel is `version:`, or its source package as `source:`",
        )
    numbers = list(parsed.numbers)
    if len(numbers) == 3 and numbers[2] == 0 and numbers[0] > 2:
        numbers.pop()
    return ".".join(str(number) for number in numbers)


def _series_folder(version: str) -> str:
    major, minor = version.split(".")[:2]
    return f"{major}.{minor}" if int(major) < 3 else f"{major}.x"


_SUM = re.compile(r"^([0-9a-f]{64}) [ *](\S{1,200})$", re.MULTILINE)


def parse_sums(text: str) -> dict[str, str]:
    """SHA-256 sums by file name, out of ``sha256sums.asc``."""
    return {name: digest for digest, name in _SUM.findall(text)}


def _no_release(version: str, where: str, sums: dict[str, str]) -> SourceError:
    found = re.findall(r"^linux-([\d.]+)\.tar\.xz$", "\n".join(sums), re.MULTILINE)
    near = near_versions(version, found)
    return SourceError(
        f"there is no Linux {version} in {where}",
        hint=f"near it there are {', '.join(near)}" if near else "is that a mirror of kernel.org?",
    )


def near_versions(version: str, offered: list[str]) -> list[str]:
    """The releases nearest to one that does not exist: of its series, or around it."""
    wanted = KernelVersion.parse(version)
    known = sorted(map(KernelVersion.parse, offered))
    same = [each for each in known if each.numbers[:2] == wanted.numbers[:2]]
    pool = same or known
    below = [each for each in pool if each < wanted]
    above = [each for each in pool if each > wanted]
    return [each.text for each in (*below[-3:], *above[:2])]


def _decompress(path: Path, plain: Path) -> None:
    look = watch_room(plain.parent)
    total = 0
    try:
        with open_decompressed(path) as source, plain.open("wb") as target:
            while chunk := source.read(1 << 20):
                process.check_stopping()
                total += len(chunk)
                if total > MAX_BYTES:
                    raise SourceError(f"{path.name} is larger than any kernel when unpacked")
                target.write(chunk)
                if total % (64 << 20) < 1 << 20:
                    look()
    except (EOFError, lzma.LZMAError) as error:
        raise SourceError(f"{path.name} cannot be decompressed: {error}") from error
    except OSError as error:
        raise disk_error(error, plain) from error


def judge_signature(name: str, status: int, said: str) -> str:
    """Whose good signature gpgv's status lines tell of (GnuPG's doc/DETAILS).

    Raises ``SourceError`` for anything else.
    """
    lines = [line.split()[1:] for line in said.splitlines() if line.startswith("[GNUPG:] ")]
    found = {words[0]: words[1:] for words in lines if words}
    if "BADSIG" in found:
        raise SourceError(
            f"{name} is not what {' '.join(found['BADSIG'][1:])} signed",
            hint="do not build it: the mirror has been tampered with, or is damaged",
        )
    if "NO_PUBKEY" in found:
        raise SourceError(
            f"{name} is signed with the key {found['NO_PUBKEY'][0]}, which is none of those that "
            "releases are signed with",
            hint="those are listed in adapters/kernelorg.py, with where they come from",
        )
    valid = found.get("VALIDSIG", [])
    if status != 0 or len(valid) < 10 or "REVKEYSIG" in found:
        raise SourceError(f"{name} has no signature that can be verified")
    return FINGERPRINTS.get(valid[9], valid[9])
