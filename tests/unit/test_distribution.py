"""What packages and the tools' complaints are read as; archives are in the contract tests."""

from __future__ import annotations

import pytest

from orchestrator.adapters.apt import Package, _parse_package, _telling_lines
from orchestrator.adapters.sources.distribution import _compiler_of, _upstream_version
from orchestrator.foundation.process import Completed

SUM = "a" * 64
PARAGRAPH = f"""\
Package: linux-headers-6.1.0-9-amd64
Source: linux
Version: 6.1.27-1
Architecture: amd64
Depends: linux-headers-6.1.0-9-common (= 6.1.27-1), linux-kbuild-6.1 | other,
 gcc-12:any, libc6(>= 2)
Description: header files
 More about it.
Size: 123
SHA256: {SUM}
"""


def test_a_package_is_read() -> None:
    assert _parse_package(PARAGRAPH.replace(",\n gcc", ", gcc")) == Package(
        name="linux-headers-6.1.0-9-amd64",
        version="6.1.27-1",
        sha256=SUM,
        size=123,
        depends=("linux-headers-6.1.0-9-common", "linux-kbuild-6.1", "gcc-12", "libc6"),
    )


@pytest.mark.parametrize("key", ["Package", "Version", "SHA256", "Size"])
def test_a_package_that_lacks_what_is_needed_is_none(key: str) -> None:
    lines = [line for line in PARAGRAPH.splitlines() if not line.startswith(f"{key}:")]
    assert _parse_package("\n".join(lines)) is None


@pytest.mark.parametrize("text", ["", "\n", "N: Unable to locate package x\n"])
def test_what_is_no_package_is_none(text: str) -> None:
    assert _parse_package(text) is None


@pytest.mark.parametrize(
    ("depends", "compiler"),
    [
        (("linux-kbuild-6.1", "linux-compiler-gcc-12-x86"), "gcc-12"),
        (("gcc-14-for-host",), "gcc-14"),
        (("gcc-14",), "gcc-14"),
        (("libgcc-s1", "coreutils"), ""),
        ((), ""),
    ],
)
def test_the_compiler_is_found(depends: tuple[str, ...], compiler: str) -> None:
    assert _compiler_of(depends) == compiler


@pytest.mark.parametrize(
    ("release", "version", "upstream"),
    [
        ("6.1.0-56-amd64", "6.1.192-2", "6.1.192"),
        ("5.4.0-216-generic", "5.4.0-216.236", "5.4.0"),
        ("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", "7.3.4"),
        ("6.19-amd64", "6.19~rc4-1~exp1", "6.19"),
        ("6.1.0-1-amd64", "odd", "6.1.0-1-amd64"),
    ],
)
def test_the_kernels_own_version(release: str, version: str, upstream: str) -> None:
    assert _upstream_version(release, version) == upstream


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (b"", "status 100"),
        (b"one\ntwo\nthree\nfour\n", "two; three; four"),
        (b"I: x\nE: the reason\nE: mmdebstrap failed to run\n", "E: the reason"),
        (b"E: same\nE: same\n", "E: same"),
        (
            b"Err:1 http://m testy Release\n  404  Not Found\nE: not signed\n",
            "Err:1 http://m testy Release: 404  Not Found; E: not signed",
        ),
        (b"E: 1\nE: 2\nE: 3\nE: 4\n", "E: 1; E: 2; E: 3"),
        (b"E: \xff\n", r"E: \xff"),
    ],
)
def test_the_lines_that_say_why(stderr: bytes, told: str) -> None:
    assert _telling_lines(Completed(("apt-get",), 100, b"", stderr)) == told


def test_a_long_complaint_is_cut() -> None:
    assert len(_telling_lines(Completed(("x",), 1, b"", b"E: " + b"y" * 5000))) == 800
