"""The board that guests boot quickest on, among those that this QEMU has.

Which parts of a q35 can be left out differs between QEMU's versions, and what is packaged with it
between distributions. So QEMU is asked, once for each QEMU.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from orchestrator.adapters.cache import Cache, hash_of, write_json
from orchestrator.adapters.machine import QEMU
from orchestrator.adapters.vmlinux import qemu_data_dirs
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.plan.qemu import QUICK_FIRMWARE, Board, choose_board


def ensure_board(cache: Cache) -> Board:
    """The board for guests on this machine. Raises ``HostError`` where there is no QEMU."""
    path = cache.root / "accelerator" / f"board-{_qemu_key()}.json"
    known = _read(path)
    if known is None:
        known = (_ask_for_parts(), [str(folder) for folder in qemu_data_dirs()])
        write_json(path, {"q35": known[0], "folders": known[1]})
    told, folders = known
    # The firmware may be a package of its own, which comes and goes without QEMU.
    has_it = any(os.access(Path(folder) / QUICK_FIRMWARE, os.R_OK) for folder in folders)
    return choose_board(told, has_quick_firmware=has_it)


def _qemu_key() -> str:
    """A name for this QEMU; asking it for its version would take as long as asking for parts."""
    path = Path(process.find_tool(QEMU)).resolve()
    about = path.stat()
    return hash_of(str(path), about.st_size, about.st_mtime_ns)


def _ask_for_parts() -> str:
    """What QEMU tells of its q35; nothing where it has none."""
    argv = (process.find_tool(QEMU), "-machine", "q35,help")
    done = process.run(argv, deadline=Deadline.after(20, "asking QEMU for the parts of a q35"))
    return done.stdout.decode(errors="replace") if done.status == 0 else ""


def _read(path: Path) -> tuple[str, list[str]] | None:
    try:
        raw = json.loads(path.read_text())
        return str(raw["q35"]), [str(folder) for folder in raw["folders"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never asked, or damaged
