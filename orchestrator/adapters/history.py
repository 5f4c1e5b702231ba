"""The history of runs, in an SQLite file that many runs may write to at once.

SQLite's own locks keep runs apart; whoever waits longer than ``BUSY_SECONDS`` gives up. What a file
holds came from guests and may have been written by anybody: it is data, and shown as such.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from orchestrator.foundation.errors import EXIT_INTERRUPTED, HostError
from orchestrator.plan.history import PastCell, PastRun
from orchestrator.plan.outcome import Outcome, Revision
from orchestrator.plan.yamlsource import shown_path

VERSION = 1
BUSY_SECONDS = 5.0
MAX_RUNS = 100
"""How many of the newest runs are looked at."""

_TABLES = """
create table run (
    id text primary key, lab text not null, started text not null, revision text not null,
    dirty integer not null, status integer not null, verdict text not null, seconds real not null
);
create table kernel (
    run text not null references run, name text not null, release text not null,
    primary key (run, name)
) without rowid;
create table cell (
    run text not null references run, kernel text not null, scenario text not null,
    outcome text not null, seconds real not null, reason text not null,
    primary key (run, kernel, scenario)
) without rowid;
create index run_of_lab on run (lab, started);
"""


def add_run(path: Path, run: PastRun) -> bool:
    """Record a run; False where it is there already. Makes the file.

    What was recorded of a run that had not ended gives way to what came of it.

    Raises ``HostError`` where the file cannot be written, is damaged, or stays locked.
    """
    with _open(path) as database:
        database.execute("begin immediate")
        _make_tables(database)
        if added := _make_room(database, run):
            database.execute(
                "insert into run values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run.run_id,
                    _storable(run.lab),
                    run.started,
                    run.revision.name,
                    run.revision.dirty,
                    run.exit_status,
                    _storable(run.verdict),
                    run.seconds,
                ),
            )
            database.executemany(
                "insert into kernel values (?, ?, ?)",
                ((run.run_id, *map(_storable, pair)) for pair in run.kernels.items()),
            )
            database.executemany(
                "insert into cell values (?, ?, ?, ?, ?, ?)",
                (
                    (
                        run.run_id,
                        *map(_storable, key),
                        cell.outcome.value,
                        cell.seconds,
                        _storable(cell.reason),
                    )
                    for key, cell in run.cells.items()
                ),
            )
        database.execute("commit")
    return added


def _make_room(database: sqlite3.Connection, run: PastRun) -> bool:
    """Whether a run is to be recorded; what an earlier look at it left is removed."""
    query = "select status, seconds from run where id = ?"
    known = database.execute(query, (run.run_id,)).fetchone()
    if known is None:
        return True
    if known[0] != EXIT_INTERRUPTED or known == (run.exit_status, run.seconds):
        return False
    for table, key in (("cell", "run"), ("kernel", "run"), ("run", "id")):
        database.execute(f"delete from {table} where {key} = ?", (run.run_id,))
    return True


def load_runs(path: Path, lab: str = "") -> tuple[PastRun, ...]:
    """The newest runs of a lab, the oldest of them first. Without a name, of the newest run's lab.

    Nothing where there is no file. Raises ``HostError`` as ``add_run`` does.
    """
    if not path.exists():
        return ()
    with _open(path) as database:
        database.execute("begin")
        if _version(database) == 0:
            return ()
        found = database.execute(
            "select * from run where lab = coalesce(nullif(?, ''), "
            "(select lab from run order by started desc, id desc limit 1)) "
            "order by started desc, id desc limit ?",
            (lab, MAX_RUNS),
        ).fetchall()
        return tuple(_load_run(database, row) for row in reversed(found))


def _load_run(database: sqlite3.Connection, row: tuple[object, ...]) -> PastRun:
    run_id, lab, started, revision, dirty, status, verdict, seconds = row
    kernels = database.execute("select name, release from kernel where run = ?", (run_id,))
    cells = database.execute(
        "select kernel, scenario, outcome, seconds, reason from cell where run = ?", (run_id,)
    )
    return PastRun(
        str(run_id),
        str(lab),
        str(started),
        Revision(str(revision), bool(dirty)),
        int(str(status)),
        str(verdict),
        float(str(seconds)),
        {str(name): str(release) for name, release in kernels},
        {
            (str(kernel), str(scenario)): PastCell(Outcome(outcome), float(taken), str(reason))
            for kernel, scenario, outcome, taken, reason in cells
        },
    )


def _storable(text: str) -> str:
    """The text without what UTF-8 cannot write."""
    return text.encode("utf-8", "backslashreplace").decode()


def _version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("pragma user_version").fetchone()
    if version not in (0, VERSION):
        raise HostError(
            f"the history is of version {version}, and this lab knows {VERSION}",
            hint="use the lab that wrote it, or name another file: --history FILE",
        )
    return int(version)


def _make_tables(database: sqlite3.Connection) -> None:
    if _version(database) == VERSION:
        return
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            database.execute(statement)
    database.execute(f"pragma user_version = {VERSION}")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection, closed at the end; a transaction that is open then is undone."""
    shown = shown_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        with contextlib.closing(connection) as database:
            yield database
    except (sqlite3.Error, ValueError) as error:
        raise HostError(
            f"the history in {shown} cannot be used: {error}",
            hint="if it is damaged, remove it; `lab history --import lab-results/*` makes it anew",
        ) from error
    except OSError as error:
        raise HostError(f"the history in {shown} cannot be used: {error.strerror}") from error
