"""A cluster of Dask's (``dask.distributed``): the only module that knows it.

Dask queues, sends, watches over workers and plays again elsewhere what was lost with one. What
is here makes of it the few things that the lab needs, and of its errors the lab's own. Functions
that are submitted are named, not sent: a worker needs the lab installed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import __version__
from orchestrator.foundation.errors import HostError, UsageError
from orchestrator.plan.visible import clip, visible

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.security import Security

CONNECT_SECONDS = 20.0
# A scheduler that does not answer for so long is taken for gone; a busy one answers in seconds.
ASK_SECONDS = 60.0
POLL_SECONDS = 0.5
OPEN_PROTOCOLS = ("tcp", "ws")
# What a worker declares, as Dask's resources, and what cells ask for.
LAB = f"LAB-{__version__}"
"""The right to play on it: it has one, so that there is one share at a time in its process. Dask
sends nothing to workers of other versions so; what such a lab could not even unpickle included.
"""
ANY_LAB = "LAB-"
KVM = "KVM"
MEMORY = "MEMORY"
"""In MiB."""
HINT = "`dask scheduler` starts one, `lab worker ADDRESS` puts a machine to work for it"
ABSENT_HINT = "the extra `cluster` brings it: pip install 'kmod-lab[cluster]'"


@dataclass(frozen=True)
class Credentials:
    """What proves who one is, as files in PEM; Dask's own configuration where they are absent."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class ClusterError(HostError):
    """The cluster as a whole is of no use: the scheduler is gone, or no worker fits."""


@dataclass(frozen=True)
class WorkerAbout:
    """A worker as the scheduler knows it."""

    address: str
    name: str
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Lost:
    """Why a task gave nothing: the words of whoever gave it up."""

    reason: str
    by_workers: bool
    """Whether it was workers that were lost with it, again and again."""


def check_address(address: str, *, insecure: bool) -> None:
    """Raise ``UsageError`` for a scheduler that anybody on the way could be, or listen to.

    What is sent to a scheduler and what comes from it is run and unpickled.
    """
    protocol, _, rest = address.partition("://")
    if not rest or not protocol.isalpha():
        raise UsageError(
            f"{visible(address)} is no address of a scheduler",
            hint="it is written so: tls://host:8786",
        )
    if protocol not in OPEN_PROTOCOLS or insecure or _is_loopback(rest):
        return
    raise UsageError(
        f"{visible(address)} is neither encrypted nor authenticated: who can reach it can run "
        "what they like on this machine and on the workers",
        hint="give the scheduler certificates and name it tls://… (docs/cluster.md), or, in a "
        "network of yours alone, --insecure-cluster",
    )


def _is_loopback(rest: str) -> bool:
    host = rest.partition("/")[0].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_security(address: str, credentials: Credentials, role: str) -> Security:
    """Dask's own value of who one is, as ``role``: ``client``, ``worker`` or ``scheduler``.

    Raises ``UsageError`` for a file that cannot be read, and for none where one is needed.
    """
    _require_dask()
    from distributed.security import Security

    given = {
        "tls_ca_file": credentials.ca,
        f"tls_{role}_cert": credentials.cert,
        f"tls_{role}_key": credentials.key,
    }
    for path in given.values():
        if path is not None and not path.is_file():
            raise UsageError(f"{visible(str(path))}: there is no such file")
    words = {name: str(path) for name, path in given.items() if path is not None}
    if not address.startswith("tls://"):
        return Security(**words)
    security = Security(require_encryption=True, **words)
    needed = ("tls_ca_file", f"tls_{role}_cert")
    if any(getattr(security, name) is None for name in needed):
        raise UsageError(
            f"{visible(address)} asks for certificates, and none are named",
            hint="--cluster-ca, --cluster-cert and --cluster-key name them, or Dask's "
            "configuration does (distributed.comm.tls)",
        )
    return security


def _require_dask() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a cluster needs dask.distributed, and it cannot be imported: {error}",
            hint=ABSENT_HINT,
        ) from error


@contextlib.contextmanager
def connect(address: str, credentials: Credentials) -> Iterator[Cluster]:
    """A connection to a scheduler. Raises ``UsageError``, or ``ClusterError`` without an answer."""
    security = make_security(address, credentials, "client")
    import distributed

    # What it says of lost connections goes to standard error, in the middle of the progress.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(
            address,
            timeout=CONNECT_SECONDS,
            security=security,
            set_as_default=False,
            name="lab",
        )
    except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
        reason = clip(visible(str(error) or type(error).__name__), 300)
        raise ClusterError(
            f"the scheduler at {visible(address)} does not answer: {reason}", hint=HINT
        ) from error
    try:
        yield Cluster(address, client)
    finally:
        with contextlib.suppress(Exception):  # it may be gone already, in any of many ways
            client.close(timeout=5)


class Cluster:
    """A scheduler that is connected to."""

    def __init__(self, address: str, client: Client) -> None:
        self.address = address
        self._client = client
        self._lock = threading.Lock()
        self._futures: dict[object, Future[Any]] = {}

    @property
    def alive(self) -> bool:
        """Whether the scheduler is still connected."""
        return bool(self._client.status == "running")

    def workers(self) -> tuple[WorkerAbout, ...]:
        """The workers that there are now. Raises ``ClusterError`` where it cannot be asked."""
        try:
            scheduler = self._client.scheduler
            assert scheduler is not None, "it is connected to"
            found = self._client.sync(
                scheduler.identity, n_workers=-1, callback_timeout=ASK_SECONDS
            )["workers"]
        except Exception as error:  # a connection can end in any of many ways
            raise self.gone() from error
        return tuple(
            WorkerAbout(str(address), str(about.get("name", "")), dict(about.get("resources", {})))
            for address, about in found.items()
        )

    def gone(self) -> ClusterError:
        """That the scheduler is."""
        return ClusterError(
            f"the scheduler at {visible(self.address)} is gone",
            hint="what was judged is kept: `lab run --resume latest`, with --cluster or without, "
            "plays the rest",
        )

    def listen(self, topic: str, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Have ``take`` called with what tasks tell (``Site.tell``), on a thread of Dask's."""

        def handle(event: tuple[float, Any]) -> None:
            if isinstance(event[1], Mapping):
                take(event[1])

        self._client.subscribe_topic(topic, handle)

    def carry(self, label: tuple[str, ...], data: bytes) -> object:
        """Bytes that tasks can depend on, once for all tasks; workers get them from each other.

        They are a task themselves, so that they are not lost with the worker that has them.
        """
        key = ("lab-part", *label)
        # None of it is taken: such a worker can run it beside whatever it plays.
        return self._client.submit(_carry, data, key=key, pure=False, resources={LAB: 0})

    def submit(
        self,
        key: tuple[str | int, ...],
        function: Callable[..., Any],
        *arguments: object,
        resources: Mapping[str, float],
        workers: Sequence[str] = (),
        priority: int = 0,
        done: Callable[[Any | Lost], None],
    ) -> None:
        """Have a function called on a worker that has the ``resources``, or on one of ``workers``.

        Arguments can be what ``carry`` gave, and keys of earlier calls as ``Key``. ``done`` is
        called, on a thread of Dask's, with what it gives or ``Lost``. Raises ``ClusterError``.
        """
        words = [self._futures[each.key] if isinstance(each, Key) else each for each in arguments]
        try:
            future = self._client.submit(
                function,
                *words,
                key=key,
                pure=False,
                resources=dict(resources),
                workers=list(workers) or None,
                priority=priority,
            )
        except Exception as error:  # a connection can end in any of many ways
            if self.alive:
                raise
            raise self.gone() from error
        with self._lock:
            self._futures[key] = future
        future.add_done_callback(lambda ended: done(_outcome(ended)))

    def forget(self, key: tuple[str | int, ...]) -> None:
        """Let go of a call: a worker that is at it ends it, and its result is kept no longer."""
        with self._lock:
            future = self._futures.pop(key, None)
        if future is not None:
            with contextlib.suppress(Exception):
                future.release()

    def cancel_all(self) -> None:
        """Let go of every call."""
        with self._lock:
            futures, self._futures = list(self._futures.values()), {}
        with contextlib.suppress(Exception):
            self._client.cancel(futures, force=True)


@dataclass(frozen=True)
class Key:
    """Stands for the result of an earlier call, which is where it was made."""

    key: tuple[str | int, ...]


def _carry(data: bytes) -> bytes:
    return data


def _outcome(future: Future[Any]) -> Any | Lost:
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return Lost(f"{error.allowed_failures + 1} workers were lost that had it", True)
    except BaseException as error:  # what ended it on the worker, or on the way from there
        return Lost(clip(visible(f"{type(error).__name__}: {error}"), 300), False)


def serve_worker(
    address: str,
    security: Security,
    *,
    name: str,
    resources: Mapping[str, float],
    environment: Mapping[str, str],
    preload: str,
) -> None:
    """Be a worker, in a process of its own that is started anew if it dies; blocks until a signal
    comes, or the scheduler is gone. ``preload`` is the module whose functions it will call.

    Raises ``ClusterError`` where the scheduler cannot be reached.
    """
    import asyncio

    try:
        asyncio.run(_serve(address, security, name, resources, environment, preload))
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        reason = clip(visible(str(error) or type(error).__name__), 300)
        raise ClusterError(
            f"the scheduler at {visible(address)} cannot be worked for: {reason}", hint=HINT
        ) from error


async def _serve(
    address: str,
    security: Security,
    name: str,
    resources: Mapping[str, float],
    environment: Mapping[str, str],
    preload: str,
) -> None:
    import asyncio

    from distributed import Nanny

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    nanny = Nanny(
        address,
        security=security,
        name=name,
        resources=dict(resources),
        # One is for what is only passed on while guests are at work; LAB bounds those.
        nthreads=2,
        memory_limit=0,  # the memory is the guests', which are other processes
        env=dict(environment),
        # Or the first task would import the lab in the loop that has to answer the scheduler.
        preload=[preload],
        config={"distributed.worker.profile.enabled": False},
    )
    async with nanny:
        ends = [asyncio.create_task(nanny.finished()), asyncio.create_task(stop.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


# --- on a worker ---------------------------------------------------------------------------


class Site:
    """The worker that a task runs on, as the task sees it."""

    def __init__(self) -> None:
        from distributed import get_worker

        self._worker = get_worker()
        self._key = self._worker.get_current_task()

    @property
    def address(self) -> str:
        """The worker's address."""
        return str(self._worker.address)

    @property
    def name(self) -> str:
        """What the worker is called."""
        return str(self._worker.name)

    @property
    def scratch(self) -> Path:
        """A folder that Dask removes when the worker has ended, however it did."""
        return Path(self._worker.local_directory)

    def tell(self, topic: str, message: Mapping[str, Any]) -> None:
        """Tell whoever listens to the topic."""
        with contextlib.suppress(Exception):  # what is only told must not end what is played
            self._worker.log_event(topic, dict(message))

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for this task: not so once its client let go of it or died,
        or the scheduler took the worker for lost.
        """
        state = self._worker.state.tasks.get(self._key)
        return state is not None and state.state not in ("cancelled", "resumed", "released")
