"""Signatures that outlived their keys: what apt runs in place of gpgv for old archives."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.plan.keyring import find_unrevoked

SCRIPT = Path(__file__).with_name("gpgv-when-signed")


def install_verifier(folder: Path, keyring: Path) -> str:
    """Put the verifier for a keyring into ``folder``: what ``Apt::Key::gpgvcommand`` may name.

    A copy, because apt may run it as a user who cannot look into this package. apt 3 has sqv
    check signatures unless that option is set. sqv judges by the time of the signature itself
    (apt 3.0.4 came to the same verdicts either way), but refuses keys as old as SHA-1.
    """
    keys = find_unrevoked(keyring.read_bytes())
    table = folder / "unrevoked"
    table.write_text("".join(f"{key.fingerprint} {key.created}\n" for key in keys))
    table.chmod(0o644)
    script = folder / SCRIPT.name
    shutil.copyfile(SCRIPT, script)
    script.chmod(0o755)
    return str(script)
