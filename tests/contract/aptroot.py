"""A private apt without mmdebstrap, and an environment that leaves apt nothing of the host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.apt import AptRoot
from orchestrator.adapters.cache import Cache


def isolate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a setting of the host's, nor pauses between two tries, nor Debian's own service."""
    config = folder / "apt.conf"
    parts = folder / "apt.conf.d"
    parts.mkdir()
    config.write_text(
        f'Dir::Etc::Parts "{parts}/";\n'  # a host may have switched Valid-Until off
        'Acquire::http::Proxy "false";\nAcquire::Retries::Delay "false";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(config))
    monkeypatch.setenv("LAB_SNAPSHOT", "http://127.0.0.1:1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def make_apt_root(
    folder: Path,
    url: str,
    *suites: str,
    keyring: bytes,
    past: bool = False,
    snapshot: str | None = None,
) -> AptRoot:
    """What ``ensure_apt_root`` makes."""
    for name in (
        *("etc/apt/preferences.d", "var/lib/dpkg", "var/log/apt"),
        *("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"),
    ):
        (folder / name).mkdir(parents=True)
    (folder / "var/lib/dpkg/status").touch()
    lines = (f"deb [arch=amd64] {url} {suite} main\n" for suite in suites)
    (folder / "etc/apt/sources.list").write_text("".join(lines))
    path = folder / "keyring.gpg"
    path.write_bytes(keyring)
    return AptRoot(Cache(folder / "cache"), folder, path, past=past, snapshot=snapshot)
