"""Files of a guest that are kept with a scenario's evidence.

The guest copies them first and sends the copies as one archive: what a file of /proc or /sys holds
is known only to who has read it to its end. All of that is the guest's word, so what comes is read
as a stranger's archive, and gets names that the host chooses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.agent import Order
from orchestrator.adapters.archive import ArchiveError, PlainFile, read_plain_files
from orchestrator.foundation.deadline import Deadline
from orchestrator.plan.model import CollectEntry
from orchestrator.plan.outcome import Artifact
from orchestrator.plan.safenames import safe_names
from orchestrator.plan.visible import clip, decode, visible, visible_lines
from orchestrator.policy.guest import Guest

FOLDER = "collected"
STAGE = "/run/lab/collect"
# The guest has the copies in its memory.
MAX_BYTES = 16 << 20
MAX_FILES = 1000
MAX_NOTES = 20
COLLECT_SECONDS = 20.0
# A tar archive's own share: two headers and the padding, twice that for long names.
_OVERHEAD = 4096
# head(1) reads to the end, whatever size the file claims; timeout(1) gives up on what blocks.
# Lines on stderr are notes for the reports.
SCRIPT = r"""
stage=$1 left=$2 files=$3 seconds=$4
shift 4
rm -rf "$stage"
mkdir -p "$stage" || exit
number=0
for pattern do
	number=$((number + 1))
	IFS=
	for path in $pattern; do
		find -H "$path" -type f -printf "$number %p\n" 2>/dev/null
	done
done | while IFS= read -r line; do
	file=${line#* }
	copy=$stage/${line%% *}$file
	if [ "$files" -eq 0 ] || [ "$left" -eq 0 ]; then
		echo "there was more than is brought back: from $file on" >&2
		break
	fi
	mkdir -p "${copy%/*}"
	said=$(timeout "$seconds" head -c "$left" -- "$file" 2>&1 >"$copy")
	status=$?
	size=$(stat -c %s "$copy") || break
	if [ "$status" -eq 124 ]; then
		echo "$file: reading it did not end within $seconds s" >&2
	elif [ "$status" -ne 0 ]; then
		echo "$file: ${said##*: }" >&2
	elif [ "$size" -eq "$left" ]; then
		echo "$file: cut after $size bytes" >&2
	fi
	if [ "$status" -ne 0 ] && [ "$size" -eq 0 ]; then
		rm -f "$copy"
	fi
	left=$((left - size))
	files=$((files - 1))
done
tar -c -C "$stage" .
rm -rf "$stage"
"""


@dataclass(frozen=True)
class Collected:
    """What came back from a guest."""

    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[str, ...] = ()
    """What did not come, and why; safe to show."""
    failure: str = ""
    """Why the scenario fails for it, where it does; safe to show."""


def as_entries(wanted: Sequence[str | CollectEntry]) -> tuple[CollectEntry, ...]:
    """What a scenario wants, all as entries; a path alone is not required."""
    return tuple(CollectEntry(path=each) if isinstance(each, str) else each for each in wanted)


def collect_words(entries: Sequence[CollectEntry], stage: str = STAGE) -> tuple[str, ...]:
    """The command that has a guest print the archive."""
    bounds = (str(MAX_BYTES), str(MAX_FILES), "5")
    return ("sh", "-c", SCRIPT, "sh", stage, *bounds, *(entry.path for entry in entries))


def collect(guest: Guest, entries: Sequence[CollectEntry], folder: Path) -> Collected:
    """Bring back what is there of ``entries``, into a folder within ``folder``.

    Raises ``LabError`` where the guest does not answer, or not in time.
    """
    deadline = Deadline.after(COLLECT_SECONDS * guest.plan.scale, "bringing files back")
    limit = MAX_BYTES + MAX_FILES * _OVERHEAD
    result = guest.run(Order(collect_words(entries)), deadline, limit=limit)
    notes = [clip(line, 300) for line in visible_lines(decode(result.stderr))[:MAX_NOTES]]
    if result.truncated or result.status != 0:
        notes.append(
            "the guest did not send all that it has: it ended with "
            f"{result.signal or f'status {result.status}'}"
        )
    return keep_collected(result.stdout, entries, folder / FOLDER, notes)


def keep_collected(
    archive: bytes, entries: Sequence[CollectEntry], folder: Path, notes: Sequence[str] = ()
) -> Collected:
    """Write the files of what a guest sent below ``folder``, each only for the owner.

    Raises ``OSError`` where the disk refuses them.
    """
    notes = list(notes)
    files: dict[str, bytes] = {}
    found: set[int] = set()
    try:
        for file in read_plain_files(archive):
            number, path = _origin(file, len(entries))
            if number is None or path in files or len(files) == MAX_FILES:
                continue
            files[path] = file.content
            found.add(number)
    except ArchiveError as error:
        notes.append(clip(visible(f"the guest's archive of files is damaged: {error}"), 300))
    for number, entry in enumerate(entries):
        if number not in found:
            notes.append(f"{visible(entry.path)}: there was no file")
    missing = [
        visible(entry.path)
        for number, entry in enumerate(entries)
        if entry.required and number not in found
    ]
    failure = f"nothing to bring back, and it is required: {', '.join(missing)}" if missing else ""
    return Collected(tuple(_write(files, folder)), tuple(notes), failure)


def _origin(file: PlainFile, count: int) -> tuple[int | None, str]:
    """Which entry a file came for, and its path in the guest; None for what nobody asked for."""
    number, slash, rest = file.name.removeprefix("./").partition("/")
    if not (slash and number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= count):
        return None, ""
    return int(number) - 1, f"/{rest}"


def _write(files: dict[str, bytes], folder: Path) -> list[Artifact]:
    shutil.rmtree(folder, ignore_errors=True)
    if files:
        folder.mkdir(parents=True)
        folder.chmod(0o700)
    artifacts = []
    for path, name in safe_names(files).items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(place, flags, 0o600), "wb") as out:
            out.write(files[path])
        digest = hashlib.sha256(files[path]).hexdigest()
        artifacts.append(Artifact(visible(path), f"{FOLDER}/{name}", len(files[path]), digest))
    return artifacts
