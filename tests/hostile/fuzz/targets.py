"""What is fuzzed: each target takes bytes and raises nothing, unless there is a defect.

What a parser says it raises is caught here. Some say more: lengths, or that what was read is
written as it was.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters import apt, sshstate
from orchestrator.adapters.agent import Agent, Order
from orchestrator.adapters.archive import ArchiveError, read_plain_files
from orchestrator.adapters.bundle import read_bundle, write_bundle
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.dwarf import resolve
from orchestrator.adapters.images import parse_package_list
from orchestrator.adapters.kbuild import read_module
from orchestrator.adapters.kernelorg import parse_sums
from orchestrator.adapters.kernelsource import join_localversions, parse_make_version
from orchestrator.adapters.snapshot import parse_binfiles
from orchestrator.adapters.sources import entry_types
from orchestrator.adapters.vmlinux import (
    NoVmlinuxError,
    decompress,
    find_payload,
    find_pvh_entry,
)
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    BuildError,
    ConfigError,
    ConnectionLostError,
    LabError,
    UsageError,
)
from orchestrator.plan.bootfailure import BootSight, explain_boot, parse_processor
from orchestrator.plan.buildfailure import parse_failure
from orchestrator.plan.dkms import parse_dkms
from orchestrator.plan.frames import find_bare_frames, locate_code, parse_frames
from orchestrator.plan.holders import find_holders
from orchestrator.plan.kconfig import parse_config, parse_kconfig, parse_optional
from orchestrator.plan.keyring import find_unrevoked
from orchestrator.plan.klog import LineAssembler, find_findings, parse_log, parse_marker
from orchestrator.plan.labfile import load_lab, load_scenarios, validate_document
from orchestrator.plan.leaks import parse_kmemleak
from orchestrator.plan.leftovers import describe_leftovers, find_leftovers, parse_names
from orchestrator.plan.linear import LinearPattern
from orchestrator.plan.lock import Lock
from orchestrator.plan.makefiles import parse_makefile
from orchestrator.plan.openpgp import dearmor, split_keys
from orchestrator.plan.outcome import CellResult, KernelResult, Outcome, RunResult
from orchestrator.plan.recipe import Recipe
from orchestrator.plan.safenames import safe_names
from orchestrator.plan.stacks import explain_stacks, parse_sysrq, parse_tasks
from orchestrator.plan.starting import render_files, survey
from orchestrator.plan.tap import parse_logged_tap, parse_tap
from orchestrator.plan.version import KernelVersion, VersionRange
from orchestrator.plan.visible import decode, visible, visible_lines
from orchestrator.plan.yamlsource import parse_yaml
from orchestrator.policy.reports.reading import ShapeError, parse_results
from orchestrator.policy.reports.results import render_results
from tests.elf import make_ko
from tests.kernelimage import make_vmlinux

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = REPOSITORY / "tests/data"
FOUND = Path(__file__).parent / "found"
"""What once broke a target, in a folder of its name: a regression each."""

Feed = Callable[[bytes], None]
_VERSION = KernelVersion.parse("6.1.0")


@dataclass(frozen=True)
class Target:
    """A parser, and where examples of what it reads are."""

    feed: Feed
    examples: tuple[str, ...] = ()
    """Patterns of files, from the repository."""
    texts: tuple[str, ...] = ()
    made: Callable[[], Iterable[bytes]] = tuple

    def corpus(self, name: str) -> Iterator[bytes]:
        """Examples, and what was found before."""
        for pattern in self.examples:
            for path in sorted(REPOSITORY.glob(pattern)):
                yield path.read_bytes()
        for text in self.texts:
            yield text.encode()
        yield from self.made()
        for path in sorted((FOUND / name).glob("*")):
            yield path.read_bytes()


def require(holds: bool) -> None:
    """Raise ``AssertionError`` unless that holds."""
    assert holds


# --- what a guest says ----------------------------------------------------------------------


def _klog(data: bytes) -> None:
    records = parse_log(data)
    found = find_findings(records)
    for finding in found:
        assert 0 <= finding.first <= finding.last
        assert visible(finding.headline).isprintable()
    for record in records[:50]:
        parse_marker(record.text)
    whole = LineAssembler()
    lines = whole.feed(data) + whole.flush()
    pieces = LineAssembler()
    cut = [line for at in range(0, len(data), 7) for line in pieces.feed(data[at : at + 7])]
    assert cut + pieces.flush() == lines


def _frames(data: bytes) -> None:
    lines = visible_lines(decode(data))
    parse_frames(lines)
    find_bare_frames(lines, [locate_code("beep", {".text": 4096}, data)])


def _stacks(data: bytes) -> None:
    explain_stacks(parse_sysrq(parse_log(data)), {"beep"})
    tasks = parse_tasks(data)
    assert isinstance(tasks.are_told, bool)


def _tap(data: bytes) -> None:
    text = decode(data)
    for report in (
        parse_tap(text),
        parse_tap(text, is_whole=False),
        parse_logged_tap(text.splitlines()),
    ):
        assert len(report.failed) <= len(text)


def _names(data: bytes) -> None:
    names = parse_names(data)
    empty = parse_names(b"0\n\0")
    if names is not None and empty is not None:
        describe_leftovers(find_leftovers(empty, names, ["beep"]))
    find_holders(data, "beep", frozenset({"/proc/beep"}))
    parse_kmemleak(data)


def _boot(data: bytes) -> None:
    parse_processor(decode(data))
    records = parse_log(data)
    for end in (False, True):
        failure = explain_boot(
            BootSight(records, "0123456789abcdef", output=decode(data), answers_ssh=end)
        )
        assert failure is None or all(line.isprintable() for line in failure.last_lines)


class _Stream:
    """A connection on which these bytes come, and then the end."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def send(self, data: bytes, deadline: Deadline) -> None:
        pass

    def receive(self, _: Deadline) -> bytes:
        if data := self._data.read(4096):
            return data
        raise ConnectionLostError("the guest closed the connection")

    def close(self) -> None:
        pass


def _agent(data: bytes) -> None:
    agent = Agent(_Stream(data))  # type: ignore[arg-type]
    try:
        agent.run(Order(("true",)), Deadline.after(5, "an answer"), limit=1000)
    except LabError as error:
        require(error.message.isprintable())


def _archive(data: bytes) -> None:
    total = 0
    try:
        for file in read_plain_files(data):
            total += len(file.content)
    except ArchiveError:
        pass
    assert total <= len(data)


def _module(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".ko") as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        with contextlib.suppress(BuildError):
            read_module(path)
        answers = resolve(path, [("beep_init", 1, 16, False), (".text", 0, 0, True)])
        json.dumps(answers)


# --- what a lab's files hold ----------------------------------------------------------------


def _yaml(data: bytes) -> None:
    try:
        document = parse_yaml(data, Path("f.yaml"))
    except ConfigError as error:
        require(error.where is not None)
        return
    for model in (Lock, Recipe):
        try:
            validate_document(model, document)
        except ConfigError as error:
            require(bool(str(error)))


def _labfile(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "src").mkdir()
        (root / "s.yaml").write_text("scenarios:\n  a: {steps: [{run: id}]}\n")
        (root / "lab.yaml").write_bytes(data)
        try:
            load_lab(root / "lab.yaml", entry_types())
        except ConfigError as error:
            require("yaml" in error.message)
        try:
            load_scenarios(root / "lab.yaml", root)
        except ConfigError as error:
            require("yaml" in error.message)


def _linear(data: bytes) -> None:
    pattern, _, text = decode(data[:400]).partition("\n")
    try:
        compiled = LinearPattern(pattern)
    except (re.error, ValueError, OverflowError, RecursionError):
        return
    compiled.search(text)


def _version(data: bytes) -> None:
    text = decode(data)
    for parse in (KernelVersion.parse, VersionRange.parse):
        try:
            parsed = parse(text)
        except ValueError:
            continue
        if isinstance(parsed, KernelVersion):
            assert parsed == parsed
        else:
            parsed.contains(_VERSION)


def _names_safe(data: bytes) -> None:
    text = decode(data)
    assert visible(text).isprintable()
    found = safe_names(dict.fromkeys(text.split("\n")))
    assert len(set(found.values())) == len(found)
    parts = [part for name in found.values() for part in name.split("/")]
    assert all(part not in ("", ".", "..") and part.isprintable() for part in parts)


# --- what a module's folder, or a kernel's source, holds -----------------------------------


def _makefile(data: bytes) -> None:
    text = decode(data)
    parse_makefile(text, ("a.c", "b.c"))
    parse_dkms(text)
    tree = {"Makefile": text, "dkms.conf": text, "src/Kbuild": text, "a.c": text, "src/b.c": ""}
    render_files(survey(tree, "it"), "it", "scenarios")


def _buildfailure(data: bytes) -> None:
    text = decode(data)
    lines = tuple(text.splitlines()[:20])
    failure = parse_failure("beep", text, "/lab/src/beep", _VERSION, lambda _: lines)
    failure.explain()
    assert all(line.isprintable() for line in failure.excerpt())


def _kconfig(data: bytes) -> None:
    text = decode(data)
    with contextlib.suppress(ValueError):
        parse_config(text)
    parse_kconfig(text)
    parse_optional(text)
    join_localversions({"localversion": text})
    with contextlib.suppress(ValueError):
        parse_make_version(text)


# --- what is fetched, or kept ---------------------------------------------------------------


def _openpgp(data: bytes) -> None:
    find_unrevoked(data)
    try:
        for key in split_keys(dearmor(data)).values():
            assert key
    except ValueError:
        pass


def _packages(data: bytes) -> None:
    text = decode(data)
    apt._parse_package(text)
    apt._parse_uris(text)
    parse_package_list(text)
    parse_sums(text)
    with contextlib.suppress(LabError):
        parse_binfiles(data, 10)


def _bundle(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        path.write_bytes(data)
        with contextlib.suppress(UsageError):
            read_bundle(Cache(Path(folder) / "cache"), path)
        assert {each.name for each in Path(folder).iterdir()} <= {"bundle", "cache"}


def _vmlinux(data: bytes) -> None:
    with contextlib.suppress(NoVmlinuxError):
        find_pvh_entry(io.BytesIO(data))
    try:
        size = 0
        for piece in decompress(find_payload(data)):
            size += len(piece)
            if size > 1 << 24:
                break
    except NoVmlinuxError:
        pass


def _results(data: bytes) -> None:
    try:
        result = parse_results(json.loads(data))
    except (ShapeError, ValueError, RecursionError):
        return
    again = parse_results(json.loads(render_results(result)))
    assert render_results(again) == render_results(result)


def _sshstate(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        state = sshstate.from_json(value)
    except (KeyError, TypeError, ValueError):
        return
    assert sshstate.from_json(sshstate.to_json(state)) == state


# --- examples that are made -----------------------------------------------------------------


def _archives() -> Iterator[bytes]:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, size in (("a", 10), ("b" * 99 + "/c\u00e4", 600)):
                info = tarfile.TarInfo(name)
                info.size = size
                tar.addfile(info, io.BytesIO(bytes(size)))
            link = tarfile.TarInfo("l")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        yield out.getvalue()


def _modules() -> Iterator[bytes]:
    yield make_ko("vermagic=6.1.0 SMP", "depends=a,b", exports=("x",), imports=("y",), size=64)
    for path in sorted(REPOSITORY.glob("tests/data/**/*.ko")):
        yield path.read_bytes()


def _vmlinuxes() -> Iterator[bytes]:
    vmlinux = make_vmlinux()
    yield vmlinux
    for pack in (gzip.compress, lzma.compress, bz2.compress):
        yield make_bzimage(pack(vmlinux) + len(vmlinux).to_bytes(4, "little"))


def make_bzimage(payload: bytes) -> bytes:
    """As much of a bzImage as is looked at, with this payload."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload


def _bundles() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder) / "entry"
        entry.mkdir()
        (entry / "vmlinuz").write_bytes(b"kernel")
        write_bundle({("kernels", "6.1-0123456789abcdef"): entry}, Path(folder) / "bundle")
        yield (Path(folder) / "bundle").read_bytes()


def _past_results() -> Iterator[bytes]:
    cell = CellResult("6.1", "s/a", Outcome.FAILED, "why")
    yield render_results(
        RunResult(
            "lab",
            "run",
            "1",
            "2026",
            1.0,
            "tcg",
            "why",
            "7.2",
            False,
            (KernelResult("6.1", None, cells=(cell,)),),
        )
    ).encode()


def _states() -> Iterator[bytes]:
    way = {"key": "00" * 16, "iv": "01" * 16, "mac_key": "02" * 32, "packets": 3}
    about = {"session_id": "aa", "mac": "hmac-sha2-256", "remote_version": "SSH-2.0-x"}
    numbers = {"channel": 0, "remote_channel": 1, "windows": [1, 2, 3, 4], "taken": 0}
    yield json.dumps({"out": way, "into": way, **about, **numbers}).encode()


TARGETS: dict[str, Target] = {
    "klog": Target(_klog, ("tests/data/klog/*.log",)),
    "frames": Target(_frames, ("tests/data/klog/*-6.1.log", "tests/data/klog/*-4.15.log")),
    "stacks": Target(_stacks, ("tests/data/stacks/*",)),
    "tap": Target(_tap, texts=("TAP version 13\n1..2\nok 1 - a # SKIP b\n    # Subtest: x\n",)),
    "names": Target(_names, texts=("0\n/proc/beep\0/sys/module/beep\0\0a\0b\0",)),
    "boot": Target(_boot, ("tests/data/boot/*.log",)),
    "agent": Target(_agent, texts=("o\3\0\0\0abcx\4\0\0\0\0\0\0\0",)),
    "archive": Target(_archive, made=_archives),
    "module": Target(_module, made=_modules),
    "yaml": Target(_yaml, ("lab.yaml", "images/*.yaml", "kmod/scenarios/*.yaml")),
    "labfile": Target(_labfile, ("lab.yaml", "tests/vm/labs/*/*.yaml", "kmod/scenarios/*.yaml")),
    "linear": Target(_linear, texts=("^a(b|c)*[^d-f]{2,3}\\b$\nabcbcgg", "(?i)\\w+\\s\nA b")),
    "version": Target(_version, texts=("6.1.0-56-cloud-amd64", ">=5.6 <7.0", "7.0-rc1")),
    "safenames": Target(_names_safe, texts=("a/b\na b\n..\n.\nA/B", "x\u202e\x1b]0;")),
    "makefile": Target(_makefile, ("kmod/Kbuild", "kmod/Makefile", "tests/vm/labs/*/Kbuild")),
    "buildfailure": Target(_buildfailure, ("tests/data/builds/*.txt",)),
    "kconfig": Target(_kconfig, ("images/config/*",)),
    "openpgp": Target(_openpgp, texts=("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n=aaaa\n",)),
    "packages": Target(
        _packages,
        texts=("Package: a\nVersion: 1\nSHA256: aa\nSize: 1\nDepends: b (>= 1) | c, d\n",),
    ),
    "bundle": Target(_bundle, made=_bundles),
    "vmlinux": Target(_vmlinux, made=_vmlinuxes),
    "results": Target(_results, made=_past_results),
    "sshstate": Target(_sshstate, made=_states),
}
