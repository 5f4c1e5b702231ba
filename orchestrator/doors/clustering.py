"""``lab run --cluster`` and ``lab worker``: from words to a venue, and a machine put to work."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from orchestrator.adapters.accelerator import cached_verdict, without_probing
from orchestrator.adapters.cache import Cache, default_cache_dir
from orchestrator.adapters.daskcluster import (
    KVM,
    LAB,
    MEMORY,
    Credentials,
    check_address,
    make_security,
    serve_worker,
)
from orchestrator.adapters.sandbox import sandbox_is_required
from orchestrator.doors.caching import cache_bound, keep_bound
from orchestrator.doors.doctor import require_host
from orchestrator.foundation.errors import EXIT_PASSED, UsageError
from orchestrator.plan.visible import visible
from orchestrator.policy.capacity import available_mib
from orchestrator.policy.cluster import ClusterVenue, Wishes
from orchestrator.policy.share import JOBS_VARIABLE, play_share


def check_run(arguments: argparse.Namespace) -> None:
    """Raise ``UsageError`` where the words for a run on a cluster do not go together."""
    for given, word in ((arguments.keep, "--keep"), (arguments.offline, "--offline")):
        if given:
            raise UsageError(f"{word} is for guests of this machine, and not for --cluster")
    if arguments.jobs:
        raise UsageError(
            "-j is for guests of this machine, and not for --cluster",
            hint="`lab worker -j N` says it of a worker",
        )
    check_address(arguments.cluster, insecure=arguments.insecure_cluster)
    make_security(arguments.cluster, credentials(arguments), "client")


def open_venue(arguments: argparse.Namespace) -> ClusterVenue:
    """The venue that the words name."""
    wishes = Wishes(
        with_kvm=arguments.cluster_kvm,
        sandboxed=arguments.require_sandbox or sandbox_is_required(),
    )
    return ClusterVenue(arguments.cluster, credentials(arguments), wishes)


def credentials(arguments: argparse.Namespace) -> Credentials:
    """What the words say of who one is."""
    return Credentials(arguments.cluster_ca, arguments.cluster_cert, arguments.cluster_key)


def declared(cache: Cache) -> dict[str, float]:
    """What this machine can do, as Dask's resources."""
    found: dict[str, float] = {LAB: 1, MEMORY: available_mib()}
    verdict = without_probing() or cached_verdict(cache)
    if verdict is not None and verdict.accelerator == "kvm":
        found[KVM] = 1
    return found


def work(arguments: argparse.Namespace) -> int:
    """Be a worker until a signal comes or the scheduler is gone; the exit status."""
    cache = Cache(default_cache_dir())
    resources = declared(cache)
    if arguments.resources:
        print(" ".join(f"{name}={amount:g}" for name, amount in resources.items()))
        return EXIT_PASSED
    address = arguments.scheduler
    check_address(address, insecure=arguments.insecure_cluster)
    security = make_security(address, credentials(arguments), "worker")
    require_host()
    keep_bound(cache, cache_bound())
    cache.close()
    name = arguments.name or f"{socket.gethostname()}-{os.getpid()}"
    words = ", ".join(f"{key} {amount:g}" for key, amount in resources.items())
    print(
        f"lab: {visible(name)} works for {visible(address)}: {words}", file=sys.stderr, flush=True
    )
    environment = {JOBS_VARIABLE: str(arguments.jobs)} if arguments.jobs else {}
    serve_worker(
        address,
        security,
        name=name,
        resources=resources,
        environment=environment,
        preload=play_share.__module__,
    )
    return EXIT_PASSED
