"""Kernels from an archive that the test makes, signs, serves and spoils."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import apt as apt_module
from orchestrator.adapters.apt import AptRoot, as_part, ensure_apt_root, ensure_keyring
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.kernels import (
    BOOT_MODULES,
    _resolution_path,
    ensure_kernel,
    ensure_resolution,
    forget_resolutions,
    load_resolution,
)
from orchestrator.adapters.sources import SourceContext
from orchestrator.adapters.sources.distribution import DistributionEntry, resolve_kernel
from orchestrator.foundation import process
from orchestrator.foundation.errors import HostError, RunInterruptedError, SourceError
from orchestrator.plan.kernel import Part
from orchestrator.plan.recipe import Keyring, Recipe
from tests.contract import aptroot
from tests.contract.aptroot import isolate
from tests.contract.mirror import Archive, Deb, Fault, Mirror, serve
from tests.contract.openpgp import SigningKey

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here"),
]

KEY = SigningKey("Archive <archive@example.org>")
STRANGER = SigningKey("Stranger <stranger@example.org>")
SERIES_6_1 = DistributionEntry(image="testy", version="6.1")


def recipe_of(release: str, flavour: str, *also: str) -> Recipe:
    return Recipe(
        distribution="debian",
        release=release,
        also=also,
        keyring=Keyring(file="test-keyring.gpg", package="test-keyring", release="trixie"),
        flavour=flavour,
        packages=("bash",),
    )


@pytest.fixture(autouse=True)
def apt_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


def make_apt_root(folder: Path, url: str, *suites: str) -> AptRoot:
    return aptroot.make_apt_root(folder, url, *suites, keyring=KEY.keyring)


# --- which kernel ----------------------------------------------------------------------------


def debian_kernel(release: str, series: str, version: str, *, headers: bool = True) -> list[Deb]:
    """A kernel's packages as Debian 12 has them."""
    base, flavour = release.rsplit("-", 1)
    common = f"linux-headers-{base.removesuffix('-rt').removesuffix('-cloud')}-common"
    image = Deb(f"linux-image-{release}", version, ("kmod", "linux-base (>= 4.3~)", "initramfs"))
    unsigned = Deb(f"linux-image-{release}-unsigned", version, ("kmod",))
    debug = Deb(f"linux-image-{release}-dbg", version)
    header = Deb(
        f"linux-headers-{release}",
        version,
        (f"{common} (= {version})", f"linux-kbuild-{series} (>= 6)", "linux-compiler-gcc-12-x86"),
    )
    assert flavour == "amd64"
    return [image, unsigned, debug, *([header] if headers else [])]


DEBIAN = [
    *debian_kernel("6.1.0-9-amd64", "6.1", "6.1.27-1"),
    *debian_kernel("6.1.0-10-amd64", "6.1", "6.1.38-1"),
    # Newer, but something of its headers is not to be had.
    *debian_kernel("6.1.0-11-amd64", "6.1", "6.1.55-1"),
    *debian_kernel("6.1.0-12-amd64", "6.1", "6.1.60-1", headers=False),
    # Newer still, and of other flavours.
    *debian_kernel("6.1.0-13-rt-amd64", "6.1", "6.1.66-1"),
    *debian_kernel("6.1.0-13-cloud-amd64", "6.1", "6.1.66-1"),
    *debian_kernel("6.1.99-rt-amd64", "6.1", "6.1.99-1"),
    *debian_kernel("6.1.99-cloud-amd64", "6.1", "6.1.99-1"),
    Deb("linux-headers-6.1.0-9-common", "6.1.27-1"),
    Deb("linux-headers-6.1.0-10-common", "6.1.38-1"),
    Deb("linux-headers-6.1.0-12-common", "6.1.60-1"),
    Deb("linux-headers-6.1.0-13-common", "6.1.66-1"),
    Deb("linux-headers-6.1.99-common", "6.1.99-1"),
    Deb("linux-kbuild-6.1", "6.1.99-1", ("libc6", "libssl3 (>= 3.0.0)")),
    # Nobody has signed this one yet.
    Deb("linux-image-6.5.0-1-amd64-unsigned", "6.5.6-1"),
    Deb("linux-headers-6.5.0-1-amd64", "6.5.6-1"),
    # Metapackages and strangers.
    Deb("linux-image-amd64", "6.1.99-1", ("linux-image-6.1.0-13-amd64",)),
    Deb("linux-image-6.1-but-not-really", "1"),
    Deb("linux-base", "4.9"),
]
MODULES_5_13 = "linux-modules-5.13.0-52-generic"
UBUNTU = [
    *(
        deb
        for abi in (9, 10)
        for deb in (
            Deb(
                f"linux-image-unsigned-5.4.0-{abi}-generic",
                f"5.4.0-{abi}.13",
                ("kmod", "linux-base", f"linux-modules-5.4.0-{abi}-generic"),
            ),
            Deb(
                f"linux-image-5.4.0-{abi}-generic",
                f"5.4.0-{abi}.13",
                ("kmod", f"linux-modules-5.4.0-{abi}-generic"),
            ),
            Deb(f"linux-modules-5.4.0-{abi}-generic", f"5.4.0-{abi}.13"),
            Deb(f"linux-modules-extra-5.4.0-{abi}-generic", f"5.4.0-{abi}.13"),
            Deb(
                f"linux-headers-5.4.0-{abi}-generic",
                f"5.4.0-{abi}.13",
                (f"linux-headers-5.4.0-{abi}", "libc6 (>= 2.14) | libc6.1"),
            ),
            Deb(f"linux-headers-5.4.0-{abi}", f"5.4.0-{abi}.13", ("coreutils | util",)),
        )
    ),
    Deb("linux-image-unsigned-5.4.0-11-lowlatency", "5.4.0-11.14"),
    Deb("linux-headers-5.4.0-11-lowlatency", "5.4.0-11.14"),
    Deb(
        "linux-image-5.15.0-139-generic",
        "5.15.0-139.149~20.04.1",
        ("linux-modules-5.15.0-139-generic",),
    ),
    Deb("linux-modules-5.15.0-139-generic", "5.15.0-139.149~20.04.1"),
    Deb(
        "linux-headers-5.15.0-139-generic",
        "5.15.0-139.149~20.04.1",
        ("linux-hwe-5.15-headers-5.15.0-139",),
    ),
    Deb("linux-hwe-5.15-headers-5.15.0-139", "5.15.0-139.149~20.04.1"),
    # Modules that name the signed image first, where there is an unsigned one too.
    Deb("linux-image-5.13.0-52-generic", "5.13.0-52.59~20.04.1"),
    Deb("linux-image-unsigned-5.13.0-52-generic", "5.13.0-52.59~20.04.1", (MODULES_5_13,)),
    Deb(
        MODULES_5_13,
        "5.13.0-52.59~20.04.1",
        ("linux-image-5.13.0-52-generic | linux-image-unsigned-5.13.0-52-generic",),
    ),
    # What hardware enablement was called before it had a number.
    Deb(
        "linux-headers-5.13.0-52-generic",
        "5.13.0-52.59~20.04.1",
        ("linux-hwe-headers-5.13.0-52",),
    ),
    Deb("linux-hwe-headers-5.13.0-52", "5.13.0-52.59~20.04.1"),
]
# Debian since 7.x: the image package is empty, and its parts are packages of their own.
SEVEN = [
    Deb(
        "linux-image-7.3.4+deb13-amd64",
        "7.3.4-1~bpo13+1",
        (
            "dracut | linux-initramfs-tool",
            "linux-base-7.3.4+deb13-amd64 (= 7.3.4-1~bpo13+1)",
            "linux-binary-7.3.4+deb13-amd64",
            "linux-modules-7.3.4+deb13-amd64",
        ),
    ),
    Deb("linux-base-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
    Deb("linux-binary-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", ("linux-base-7.3.4+deb13-amd64",)),
    Deb("linux-modules-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", ("kmod",)),
    Deb(
        "linux-headers-7.3.4+deb13-amd64",
        "7.3.4-1~bpo13+1",
        (
            "gcc-14-for-host (>= 14.2)",
            "linux-base",
            "linux-headers-7.3.4+deb13-common",
            "linux-kbuild-7.3.4+deb13",
        ),
    ),
    Deb("linux-headers-7.3.4+deb13-common", "7.3.4-1~bpo13+1"),
    Deb("linux-kbuild-7.3.4+deb13", "7.3.4-1~bpo13+1", ("libc6",)),
    Deb("linux-image-7.3.4+deb13-rt-amd64", "7.3.4-1~bpo13+1"),
    Deb("linux-headers-7.3.4+deb13-rt-amd64", "7.3.4-1~bpo13+1"),
]


@pytest.fixture(scope="module")
def apt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AptRoot]:
    """Three releases' indexes, fetched once."""
    root = tmp_path_factory.mktemp("releases")
    root.chmod(0o755)
    archive = Archive(root / "build", KEY)
    suites = {"debian": DEBIAN, "ubuntu": UBUNTU, "seven": SEVEN}
    for suite, debs in suites.items():
        archive.publish(suite, debs)
    with serve(archive) as mirror:
        roots = {suite: make_apt_root(root / suite, mirror.url, suite) for suite in suites}
        for apt_root in roots.values():
            apt_root.update()
    return roots


Roots = dict[str, AptRoot]


def names(packages: tuple[Part, ...]) -> list[str]:
    return [package.name for package in packages]


def test_debians_newest_kernel_with_all_its_headers_is_taken(apt: Roots) -> None:
    found = resolve_kernel(apt["debian"], recipe_of("debian", "amd64"), SERIES_6_1)
    assert found.release == "6.1.0-10-amd64"
    assert found.version == "6.1.38"
    assert found.compiler == "gcc-12"
    assert names(found.parts) == [
        "linux-headers-6.1.0-10-amd64",
        "linux-headers-6.1.0-10-common",
        "linux-image-6.1.0-10-amd64",
        "linux-kbuild-6.1",
    ]
    assert {len(package.sha256) for package in found.parts} == {64}


@pytest.mark.parametrize(
    ("flavour", "release"),
    [("rt-amd64", "6.1.99-rt-amd64"), ("cloud-amd64", "6.1.99-cloud-amd64")],
)
def test_a_flavour_is_not_another_that_ends_like_it(apt: Roots, flavour: str, release: str) -> None:
    entry = DistributionEntry(image="testy", version="6.1", flavour=flavour)
    found = resolve_kernel(apt["debian"], recipe_of("debian", "amd64"), entry)
    assert found.release == release


def test_an_exact_package_is_taken_where_it_is_asked_for(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="6.1", package="linux-image-6.1.0-9-amd64")
    found = resolve_kernel(apt["debian"], recipe_of("debian", "amd64"), entry)
    assert (found.release, found.version) == ("6.1.0-9-amd64", "6.1.27")


def test_a_kernel_that_nobody_has_signed_is_a_kernel(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="6.5")
    found = resolve_kernel(apt["debian"], recipe_of("debian", "amd64"), entry)
    assert "linux-image-6.5.0-1-amd64-unsigned" in names(found.parts)


def test_ubuntus_unsigned_image_is_taken_with_its_modules(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="5.4")
    found = resolve_kernel(apt["ubuntu"], recipe_of("ubuntu", "generic"), entry)
    assert found.release == "5.4.0-10-generic"
    assert found.compiler == ""
    assert names(found.parts) == [
        "linux-headers-5.4.0-10",
        "linux-headers-5.4.0-10-generic",
        "linux-image-unsigned-5.4.0-10-generic",
        "linux-modules-5.4.0-10-generic",
    ]


def test_ubuntus_other_drivers_come_where_they_are_asked_for(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="5.4", extra=True)
    found = resolve_kernel(apt["ubuntu"], recipe_of("ubuntu", "generic"), entry)
    assert names(found.parts) == [
        "linux-headers-5.4.0-10",
        "linux-headers-5.4.0-10-generic",
        "linux-image-unsigned-5.4.0-10-generic",
        "linux-modules-5.4.0-10-generic",
        "linux-modules-extra-5.4.0-10-generic",
    ]


def test_what_debian_has_no_package_for_is_told(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="6.1", extra=True)
    with pytest.raises(SourceError, match=r"has no linux-modules-extra-6\.1\.0-") as caught:
        resolve_kernel(apt["debian"], recipe_of("debian", "amd64"), entry)
    assert "flavour: amd64" in caught.value.hint


def test_ubuntus_package_with_unsigned_in_its_name_can_be_asked_for(apt: Roots) -> None:
    package = "linux-image-unsigned-5.4.0-9-generic"
    entry = DistributionEntry(image="testy", version="5.4", package=package)
    found = resolve_kernel(apt["ubuntu"], recipe_of("ubuntu", "generic"), entry)
    assert found.release == "5.4.0-9-generic"


def test_a_signed_image_is_taken_where_there_is_no_other(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="5.15")
    found = resolve_kernel(apt["ubuntu"], recipe_of("ubuntu", "generic"), entry)
    assert names(found.parts) == [
        "linux-headers-5.15.0-139-generic",
        "linux-hwe-5.15-headers-5.15.0-139",
        "linux-image-5.15.0-139-generic",
        "linux-modules-5.15.0-139-generic",
    ]


def test_of_two_images_that_modules_would_do_with_one_is_taken(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="5.13")
    found = resolve_kernel(apt["ubuntu"], recipe_of("ubuntu", "generic"), entry)
    assert names(found.parts) == [
        "linux-headers-5.13.0-52-generic",
        "linux-hwe-headers-5.13.0-52",
        "linux-image-unsigned-5.13.0-52-generic",
        "linux-modules-5.13.0-52-generic",
    ]


def test_a_kernel_in_many_packages_is_taken_whole(apt: Roots) -> None:
    entry = DistributionEntry(image="testy", version="7")
    found = resolve_kernel(apt["seven"], recipe_of("seven", "amd64"), entry)
    assert (found.release, found.version) == ("7.3.4+deb13-amd64", "7.3.4")
    assert found.compiler == "gcc-14"
    assert names(found.parts) == [
        "linux-base-7.3.4+deb13-amd64",
        "linux-binary-7.3.4+deb13-amd64",
        "linux-headers-7.3.4+deb13-amd64",
        "linux-headers-7.3.4+deb13-common",
        "linux-image-7.3.4+deb13-amd64",
        "linux-kbuild-7.3.4+deb13",
        "linux-modules-7.3.4+deb13-amd64",
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (DistributionEntry(image="x", version="4.19"), "debian offers no amd64 kernel 4.19"),
        (DistributionEntry(image="x", version="6.1.1"), "no amd64 kernel 6.1.1"),
        (
            DistributionEntry(image="x", version="6.1", package="linux-image-1"),
            "kernel linux-image-1",
        ),
        (
            DistributionEntry(image="x", version="6.1", package="linux-image-6.1.0-12-amd64"),
            "that has its headers",
        ),
    ],
)
def test_a_kernel_that_is_not_offered_is_told_with_those_that_are(
    apt: Roots, entry: DistributionEntry, said: str
) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        resolve_kernel(apt["debian"], recipe_of("debian", "amd64"), entry)
    assert caught.value.hint == (
        "it has 6.1.0-9-amd64, 6.1.0-10-amd64, 6.1.0-11-amd64, 6.1.0-12-amd64, 6.5.0-1-amd64"
    )


def test_a_flavour_that_is_not_offered_is_told(apt: Roots) -> None:
    with pytest.raises(SourceError, match="no generic kernel") as caught:
        resolve_kernel(apt["debian"], recipe_of("debian", "generic"), SERIES_6_1)
    assert caught.value.hint == "it has none"


def test_packages_that_are_not_there_are_left_out(apt: Roots) -> None:
    found = apt["debian"].show(("linux-base", "no-such-package"))
    assert list(found) == ["linux-base"]
    assert apt["debian"].show(("no-such-package",)) == {}
    assert apt["debian"].show(()) == {}
    assert apt["debian"].names("linux-kbuild") == ("linux-kbuild-6.1",)


# --- a mirror that is ill --------------------------------------------------------------------

KERNEL = Deb("linux-image-6.1.0-9-amd64", "1:6.1.27-1", files={"boot/vmlinuz": "kernel" * 1000})
HEADERS = Deb("linux-headers-6.1.0-9-amd64", "1:6.1.27-1", files={"usr/src/file": "headers"})


@pytest.fixture
def mirror(open_dir: Path) -> Iterator[Mirror]:
    archive = Archive(open_dir / "build", KEY)
    archive.publish("testy", [KERNEL, HEADERS])
    with serve(archive) as mirror:
        yield mirror


@pytest.fixture
def root(open_dir: Path, mirror: Mirror) -> AptRoot:
    return make_apt_root(open_dir / "apt", mirror.url, "testy")


def all_packages(root: AptRoot) -> tuple[Part, ...]:
    shown = root.show((KERNEL.name, HEADERS.name)).values()
    return tuple(as_part(package) for package in shown)


def test_packages_are_fetched_and_are_what_was_signed(root: AptRoot, tmp_path: Path) -> None:
    root.update()
    paths = root.download(all_packages(root), tmp_path)
    assert len(paths) == 2
    assert all(path.read_bytes().startswith(b"!<arch>") for path in paths)


def test_packages_are_fetched_at_a_time(root: AptRoot, mirror: Mirror, tmp_path: Path) -> None:
    """The mirror answers when it has been asked for both, and closes the line otherwise."""
    root.update()
    mirror.together = threading.Barrier(2, timeout=20)
    packages = all_packages(root)
    paths = root.download(packages, tmp_path)
    assert [path.name for path in paths] == [f"{package.name}.deb" for package in packages]
    assert not mirror.together.broken


def test_how_much_has_come_is_told(root: AptRoot, mirror: Mirror, tmp_path: Path) -> None:
    root.update()
    packages = all_packages(root)
    total = sum(package.size or 0 for package in packages)
    slow = next(package for package in packages if package.name == KERNEL.name)
    mirror.slow = f"{KERNEL.name}_6.1.27-1_amd64.deb"
    told = []

    def tell(done: int, of: int | None) -> None:
        assert of == total
        told.append(done)
        if done > total - (slow.size or 0):  # some of the slow one is here
            mirror.go_on.set()

    folder = tmp_path / "packages"
    folder.mkdir()
    root.download(packages, folder, tell)
    assert told[0] == 0
    assert told == sorted(told)
    assert total - (slow.size or 0) < told[-1] <= total


def test_what_cannot_be_had_ends_the_others(root: AptRoot, mirror: Mirror, tmp_path: Path) -> None:
    root.update()
    mirror.slow = f"{KERNEL.name}_6.1.27-1_amd64.deb"  # and nobody lets it go on
    mirror.faults[f"{HEADERS.name}_6.1.27-1_amd64.deb"] = "gone"
    with pytest.raises(SourceError, match=f"cannot fetch {HEADERS.name}"):
        root.download(all_packages(root), tmp_path)
    assert not mirror.go_on.is_set()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("truncate", "Failed to fetch|Undetermined|unexpected size|Connection"),
        ("lie", "Hash Sum mismatch"),
        ("gone", "404"),
        ("broken", "503"),
        ("cut", "Connection failed|Failed to fetch"),
    ],
)
def test_a_package_that_is_spoilt_is_refused(
    root: AptRoot, mirror: Mirror, tmp_path: Path, fault: Fault, said: str
) -> None:
    root.update()
    packages = all_packages(root)
    mirror.faults["linux-headers-6.1.0-9-amd64_6.1.27-1_amd64.deb"] = fault
    with pytest.raises(SourceError, match=said) as caught:
        root.download(packages, tmp_path)
    assert "cannot fetch linux-headers-6.1.0-9-amd64=1:6.1.27-1" in caught.value.message
    assert "--update" in caught.value.hint


def test_a_package_is_checked_against_what_was_resolved(root: AptRoot, tmp_path: Path) -> None:
    """The index may have changed since: then even a well signed package is not the one."""
    root.update()
    package = all_packages(root)[0]
    other = package.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SourceError, match="not what the index signed"):
        root.download((other,), tmp_path)


def test_a_version_that_is_not_offered_any_more_is_told(root: AptRoot, tmp_path: Path) -> None:
    root.update()
    with pytest.raises(SourceError, match=r"Version '2' for 'linux-image-6.1.0-9-amd64'"):
        root.download((Part(name=KERNEL.name, version="2", sha256="0" * 64, size=1),), tmp_path)


@pytest.mark.parametrize(
    ("path", "fault", "said"),
    [
        ("testy/Release.gpg", "gone", "is not signed"),
        ("testy/Release.gpg", "lie", "is not signed|invalid|BADSIG"),
        ("testy/Release", "lie", "BADSIG|not signed"),
        ("testy/Release", "gone", "does not have a Release file"),
        ("testy/Release", "broken", "503|does not have a Release file"),
        ("Packages.gz", "lie", "Hash Sum mismatch"),
        ("Packages.gz", "truncate", "Failed to fetch|unexpected size"),
        ("Packages.gz", "gone", "404|Failed to fetch"),
        ("", "cut", "Failed to fetch|Connection failed|not have a Release"),
    ],
)
def test_an_index_that_is_spoilt_is_refused(
    root: AptRoot, mirror: Mirror, path: str, fault: Fault, said: str
) -> None:
    mirror.faults[path] = fault
    if path == "Packages.gz":
        mirror.faults["Packages"] = fault
    with pytest.raises(SourceError, match=said) as caught:
        root.update()
    assert caught.value.message.startswith("cannot fetch the package indexes: ")
    assert "lab doctor" in caught.value.hint
    assert root.names("linux-image") == ()


def test_an_index_that_a_stranger_signed_is_refused(root: AptRoot, mirror: Mirror) -> None:
    mirror.archive.publish("testy", [KERNEL], key=STRANGER)
    with pytest.raises(SourceError, match=r"NO_PUBKEY|not signed"):
        root.update()
    assert root.names("linux-image") == ()


def test_a_package_put_into_a_signed_index_is_refused(root: AptRoot, mirror: Mirror) -> None:
    release = mirror.archive.files["dists/testy/Release"]
    signature = mirror.archive.files["dists/testy/Release.gpg"]
    mirror.archive.publish("testy", [KERNEL, HEADERS, Deb("evil")])
    mirror.archive.files["dists/testy/Release"] = release
    mirror.archive.files["dists/testy/Release.gpg"] = signature
    with pytest.raises(SourceError, match=r"mismatch|unexpected size"):
        root.update()
    assert root.names("evil") == ()


def test_a_mirror_that_is_not_there_is_told(root: AptRoot, mirror: Mirror) -> None:
    mirror.stop()
    with pytest.raises(SourceError, match=r"Could not connect|Connection refused|Failed to fetch"):
        root.update()


def test_a_mirror_that_goes_away_mid_way_is_told(
    root: AptRoot, mirror: Mirror, tmp_path: Path
) -> None:
    root.update()
    packages = all_packages(root)
    root.download(packages[:1], tmp_path)
    mirror.stop()
    with pytest.raises(SourceError, match=f"cannot fetch {packages[1].name}"):
        root.download(packages[1:], tmp_path)


def test_one_suite_of_several_out_of_reach_is_told(open_dir: Path, mirror: Mirror) -> None:
    root = make_apt_root(open_dir / "apt", mirror.url, "testy", "testy-updates")
    with pytest.raises(SourceError, match="testy-updates"):
        root.update()


def test_the_end_of_the_run_ends_a_download(open_dir: Path) -> None:
    """A mirror that accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        root = make_apt_root(
            open_dir / "apt", f"http://127.0.0.1:{silent.getsockname()[1]}", "testy"
        )
        threading.Timer(0.5, process.stop_all).start()
        started = time.monotonic()
        with pytest.raises(RunInterruptedError):
            root.update()
        assert time.monotonic() - started < 5


# --- through mmdebstrap, into the cache ------------------------------------------------------


@pytest.fixture
def bench(open_dir: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """The real mmdebstrap, led to our mirror by a namesake earlier in the PATH."""
    real = shutil.which("mmdebstrap")
    if real is None:
        pytest.skip("no mmdebstrap here")
    if os.geteuid() != 0:
        pytest.skip("mmdebstrap without root takes ranges of user ids")
    tools = open_dir / "tools"
    tools.mkdir()
    (tools / "mmdebstrap").write_text(f'#!/bin/sh\nexec {real} "$@" {mirror.url}\n')
    (tools / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    keyrings = open_dir / "keyrings"
    keyrings.mkdir()
    (keyrings / "test-keyring.gpg").write_bytes(KEY.keyring)
    monkeypatch.setattr(apt_module, "HOST_KEYRINGS", keyrings)
    monkeypatch.setenv("LAB_SNAPSHOT", mirror.url)
    return Cache(tmp_path / "cache")


RECIPE = recipe_of("testy", "amd64", "testy-backports")
OLD = debian_kernel("6.1.0-9-amd64", "6.1", "6.1.27-1")
COMMON = [Deb("linux-headers-6.1.0-9-common", "6.1.27-1"), Deb("linux-kbuild-6.1", "6.1.27-1")]
NEW = [
    *debian_kernel("6.1.0-10-amd64", "6.1", "6.1.38-1"),
    Deb("linux-headers-6.1.0-10-common", "6.1.38-1"),
]


def context(cache: Cache) -> SourceContext:
    return SourceContext(cache, RECIPE, cache.root)


def no_half_entries(cache: Cache) -> bool:
    return not any(path.name.startswith(".") for path in cache.root.glob("*/.*"))


def test_the_private_apt_knows_the_release_and_its_further_suites(
    bench: Cache, mirror: Mirror
) -> None:
    mirror.archive.publish("testy", [*OLD, *COMMON])
    mirror.archive.publish("testy-backports", NEW)
    apt = ensure_apt_root(bench, RECIPE)
    found = resolve_kernel(apt, RECIPE, SERIES_6_1)
    assert found.release == "6.1.0-10-amd64"
    asked = len(mirror.asked)
    ensure_apt_root(bench, RECIPE)
    assert len(mirror.asked) == asked  # it is cached now
    assert no_half_entries(bench)


def test_newer_kernels_are_seen_when_they_are_asked_for(bench: Cache, mirror: Mirror) -> None:
    mirror.archive.publish("testy", [*OLD, *COMMON])
    mirror.archive.publish("testy-backports", [])
    assert load_resolution(context(bench), SERIES_6_1) is None
    first = ensure_resolution(context(bench), SERIES_6_1)
    assert first.release == "6.1.0-9-amd64"

    mirror.archive.publish("testy", [*OLD, *COMMON, *NEW])
    assert ensure_resolution(context(bench), SERIES_6_1) == first
    assert load_resolution(context(bench), SERIES_6_1) == first
    forget_resolutions([(context(bench), SERIES_6_1)])
    assert ensure_resolution(context(bench), SERIES_6_1).release == "6.1.0-10-amd64"


def test_a_mirror_out_of_reach_forgets_nothing(bench: Cache, mirror: Mirror) -> None:
    mirror.archive.publish("testy", [*OLD, *COMMON])
    mirror.archive.publish("testy-backports", [])
    first = ensure_resolution(context(bench), SERIES_6_1)
    mirror.faults[""] = "gone"
    with pytest.raises(SourceError, match="testy"):
        forget_resolutions([(context(bench), SERIES_6_1)])
    assert load_resolution(context(bench), SERIES_6_1) == first
    assert resolve_kernel(ensure_apt_root(bench, RECIPE), RECIPE, SERIES_6_1) == first
    assert no_half_entries(bench)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"release": 1', '{"packages": [3]}'])
def test_a_damaged_resolution_is_asked_for_again(bench: Cache, mirror: Mirror, damage: str) -> None:
    (bench.root / "resolved").mkdir(parents=True)
    mirror.faults[""] = "gone"
    with pytest.raises(SourceError):
        ensure_resolution(context(bench), SERIES_6_1)
    _resolution_path(context(bench), SERIES_6_1).write_text(damage)
    assert load_resolution(context(bench), SERIES_6_1) is None


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"testy/Release.gpg": "gone"}, "the indexes of testy.*not signed"),
        ({"testy/Release": "gone"}, "the indexes of testy.*does not have a Release file"),
        ({"testy-backports/Release": "gone"}, "package indexes.*testy-backports"),
    ],
)
def test_an_apt_that_cannot_be_made_leaves_nothing_in_the_cache(
    bench: Cache, mirror: Mirror, faults: dict[str, Fault], said: str
) -> None:
    mirror.archive.publish("testy-backports", [])
    mirror.faults |= faults
    with pytest.raises(SourceError, match=said) as caught:
        ensure_apt_root(bench, RECIPE)
    assert len(caught.value.message) < 1000
    assert list((bench.root / "apt").iterdir()) == []
    mirror.faults.clear()
    ensure_apt_root(bench, RECIPE)


def test_a_key_that_is_not_the_archives_verifies_nothing(bench: Cache) -> None:
    (apt_module.HOST_KEYRINGS / "test-keyring.gpg").write_bytes(STRANGER.keyring)
    with pytest.raises(SourceError, match=r"NO_PUBKEY|not signed"):
        ensure_apt_root(bench, RECIPE)


RELEASE = "6.1.0-8-amd64"
BOOTABLE = [
    Deb(
        f"linux-image-{RELEASE}",
        "6.1.27-1",
        ("kmod",),
        {
            f"boot/vmlinuz-{RELEASE}": "the kernel",
            f"boot/config-{RELEASE}": "CONFIG_X=y",
            f"lib/modules/{RELEASE}/modules.order": "",
            f"lib/modules/{RELEASE}/modules.builtin": "".join(
                f"kernel/{name}.ko\n" for name in BOOT_MODULES
            ),
        },
    ),
    Deb(
        f"linux-headers-{RELEASE}",
        "6.1.27-1",
        (),
        {f"usr/src/linux-headers-{RELEASE}/Makefile": "all:\n"},
    ),
]


def test_a_kernel_goes_all_the_way_into_the_cache(bench: Cache, mirror: Mirror) -> None:
    mirror.archive.publish("testy", BOOTABLE)
    mirror.archive.publish("testy-backports", [])
    resolved = ensure_resolution(context(bench), SERIES_6_1)
    kernel = ensure_kernel(context(bench), SERIES_6_1, resolved)
    assert kernel.release == RELEASE
    assert kernel.vmlinuz_path.read_text() == "the kernel"
    assert sorted(path.name for path in kernel.vmlinuz_path.parent.iterdir()) == [
        *("boot-modules", "config", "kernel.json", "layer.squashfs", "vmlinuz")
    ]
    mirror.faults[""] = "gone"
    assert ensure_kernel(context(bench), SERIES_6_1, resolved) == kernel


@pytest.mark.parametrize("fault", ["lie", "gone"])
def test_a_kernel_with_a_spoilt_package_leaves_nothing_in_the_cache(
    bench: Cache, mirror: Mirror, fault: Fault
) -> None:
    mirror.archive.publish("testy", BOOTABLE)
    mirror.archive.publish("testy-backports", [])
    resolved = ensure_resolution(context(bench), SERIES_6_1)
    mirror.faults[f"linux-image-{RELEASE}_6.1.27-1_amd64.deb"] = fault
    with pytest.raises(SourceError, match=f"cannot fetch linux-image-{RELEASE}=6.1.27-1"):
        ensure_kernel(context(bench), SERIES_6_1, resolved)
    assert list((bench.root / "kernels").iterdir()) == []


# --- keyrings --------------------------------------------------------------------------------


def test_the_hosts_own_keyring_is_taken_where_it_is(bench: Cache) -> None:
    path = ensure_keyring(bench, RECIPE.keyring)
    assert path == apt_module.HOST_KEYRINGS / "test-keyring.gpg"
    assert not bench.root.exists()


def test_without_debians_keyring_nothing_can_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt_module, "HOST_KEYRINGS", tmp_path)
    keyring = Keyring(file="debian-archive-keyring.gpg", package="x", release="trixie")
    with pytest.raises(HostError, match="is missing") as caught:
        ensure_keyring(Cache(tmp_path), keyring)
    assert "debian-archive-keyring" in caught.value.hint


@contextlib.contextmanager
def packed(path: Path, member: str | None, link: tuple[str, str] | None = None) -> Iterator[Path]:
    """A script in place of mmdebstrap that gives an archive with this one file, and a link."""
    with tarfile.open(path / "ready.tar", "w") as tar:
        if member is not None:
            (path / "data").write_bytes(b"the key")
            tar.add(path / "data", member)
        if link is not None:
            (path / "link").symlink_to(link[1])
            tar.add(path / "link", link[0])
    tools = path / "tools"
    tools.mkdir()
    script = f'#!/bin/sh\nfor last; do :; done\ncp {path}/ready.tar "$last"\n'
    (tools / "mmdebstrap").write_text(script)
    (tools / "mmdebstrap").chmod(0o755)
    yield tools


KEYRING_MEMBER = "./usr/share/keyrings/test-keyring.gpg"


@pytest.mark.parametrize(
    ("member", "link"),
    [
        ("./usr/share/keyrings/other.gpg", None),
        (None, None),
        ("./etc/shadow", (KEYRING_MEMBER, "missing.pgp")),
    ],
    ids=["another file", "nothing", "a link to nothing"],
)
def test_a_package_without_the_keyring_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    member: str | None,
    link: tuple[str, str] | None,
) -> None:
    with packed(tmp_path, member, link) as tools:
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        monkeypatch.setattr(apt_module, "HOST_KEYRINGS", tmp_path / "none")
        with pytest.raises(SourceError, match=r"test-keyring has no test-keyring\.gpg"):
            ensure_keyring(Cache(tmp_path / "cache"), RECIPE.keyring)
    assert list((tmp_path / "cache/keyrings").iterdir()) == []


@pytest.mark.parametrize(
    ("member", "link"),
    [
        (KEYRING_MEMBER, None),
        ("./usr/share/keyrings/test-keyring.pgp", (KEYRING_MEMBER, "test-keyring.pgp")),
    ],
    ids=["a file", "a link, as since Debian 13"],
)
def test_a_keyring_from_a_package_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    member: str,
    link: tuple[str, str] | None,
) -> None:
    with packed(tmp_path, member, link) as tools:
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        monkeypatch.setattr(apt_module, "HOST_KEYRINGS", tmp_path / "none")
        path = ensure_keyring(Cache(tmp_path / "cache"), RECIPE.keyring)
        assert path.read_bytes() == b"the key"
        (tools / "mmdebstrap").unlink()
        assert ensure_keyring(Cache(tmp_path / "cache"), RECIPE.keyring) == path
