"""Guests that mean ill, in one run of the lab: each ends, is judged rightly, and harms nobody else.

``TABLE`` is what must come of the scenarios in ``lab/scenarios.yaml``.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.hostile.conftest import BY_NIGHT, MIB, memory_of
from tests.unit.test_report_html import Page
from tests.vm.conftest import REPOSITORY, Ran, lab_argv

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]

LAB = Path(__file__).parent / "lab"
DID_NOT_END = r"it did not end within \d+ s"
GONE = r"^the guest is gone: it powered off or rebooted; last console line: "
# What each scenario comes to, and what its reason says.
TABLE: dict[str, tuple[str, str]] = {
    "well-1": ("passed", ""),
    "well-2": ("passed", ""),
    "console-flood": ("failed", DID_NOT_END),
    "console-newlines": ("failed", DID_NOT_END),
    "kmsg-flood": ("failed", DID_NOT_END),
    "module-flood": ("passed", ""),
    "output-flood": ("failed", DID_NOT_END),
    "errors-flood": ("failed", DID_NOT_END),
    "outputs": ("passed", ""),
    "background-flood": ("passed", ""),
    "agent-killed": ("error", r"^the connection ended \(Killed\) while this ran: kill -KILL"),
    "agent-stopped": ("failed", DID_NOT_END),
    "everybody-killed": ("failed", DID_NOT_END),
    "server-killed": ("failed", DID_NOT_END),
    "unasked-answers": ("error", "^the marker 'step-2' did not reach the host's end"),
    "huge-piece": ("error", "the guest's agent sends a piece of 4294967295 bytes"),
    "second-caller": ("error", "^the connection ended while this ran: "),
    "forged-markers": ("failed", "unexpected warning: WARNING: .* evil_names at evil.c:"),
    "quiet-complaint": ("error", r"the kernel is tainted \(warning\), and its log does not say"),
    "rescue-garbage": ("passed", ""),
    "qemu-commands": ("passed", ""),
    "escapes": ("failed", "stdout is not what is expected: 131 bytes"),
    "names": ("failed", "unexpected warning: WARNING: .* evil_names at evil.c:"),
    "threads": ("failed", f"{DID_NOT_END}: it is blocked in evil_threads at evil.c:"),
    "tests": ("failed", "3 of 5 tests failed: "),
    "collected-names": ("passed", ""),
    "collected-sparse": ("passed", ""),
    "collected-bomb": ("passed", ""),
    "collected-endless": ("failed", "^bringing files back did not end in time"),
    "connects": ("passed", ""),
    "frames": ("passed", ""),
    "network-gone": ("failed", DID_NOT_END),
    "devices-gone": ("failed", DID_NOT_END),
    "ports": ("failed", GONE),
    "memory-of-the-machine": ("passed", ""),
    "another-kernel": ("failed", f"{DID_NOT_END}: the guest answers neither over SSH nor to SysRq"),
    "powers-off": ("failed", GONE),
    "reboots": ("failed", GONE),
    "sysrq-reset": ("failed", f"{GONE}'sysrq: Resetting'"),
    "sysrq-off": ("failed", GONE),
    "sysrq-crash": ("failed", "^unexpected panic: "),
    "triple-fault": ("failed", GONE),
    "silent": ("failed", f"{DID_NOT_END}: the guest answers neither over SSH nor to SysRq"),
    "clock-stopped": ("passed", ""),
    "disk-full": ("passed", ""),
    "memory-full": ("failed", "^unexpected oom: "),
    "forks": ("failed", ""),
    "files-gone": ("passed", ""),
    "mounts-gone": ("error", "^the guest.s names could not be listed"),
}
BY_DAY = (
    *("well-1", "module-flood", "output-flood", "huge-piece", "second-caller"),
    *("forged-markers", "quiet-complaint", "qemu-commands", "escapes", "names", "tests"),
    *("collected-names", "connects", "powers-off", "sysrq-reset"),
    *("triple-fault", "clock-stopped", "well-2"),
)
# What the lab's process has at most: a log, the output of a step, and all else.
MOST_MEMORY = 700 * MIB


class Listeners:
    """All that could hear a guest on this machine: TCP and UDP, on every address it has."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._sockets = []
        for family, kind, host in (
            (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0"),
            (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0"),
            (socket.AF_INET6, socket.SOCK_STREAM, "::1"),
            (socket.AF_INET6, socket.SOCK_DGRAM, "::1"),
        ):
            with contextlib.suppress(OSError):  # a machine without IPv6
                sock = socket.socket(family, kind)
                sock.bind((host, 0))
                self._sockets.append(sock)
        self.ports = [sock.getsockname()[1] for sock in self._sockets]
        for sock in self._sockets:
            threading.Thread(target=self._listen, args=(sock,), daemon=True).start()

    def _listen(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if sock.type == socket.SOCK_STREAM:
                sock.listen()
                while True:
                    self.heard.append(f"TCP {sock.accept()[1]}")
            while (datagram := sock.recvfrom(100))[1] is not None:  # None once it is closed
                self.heard.append(f"UDP {datagram}")

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@dataclass(frozen=True)
class Attacked:
    """A run of all attacks, and what it cost."""

    ran: Ran
    peak: int
    """The most memory that the lab's process had, in bytes."""
    heard: list[str]
    left: list[str]
    """Processes of the run that were there after its end."""


def processes_with(token: str) -> list[str]:
    """The processes that have the token in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes()[:100].decode(errors="replace"))
    return found


def attack(results_dir: Path, lab: Path, *arguments: str) -> Attacked:
    """Play the lab as a user does, and watch it."""
    listeners = Listeners()
    text = (lab / "scenarios.yaml").read_text()
    ports = ", ".join(f'"{port}"' for port in listeners.ports)
    frames = "100000" if BY_NIGHT else "1000"
    text = text.replace('"@PORTS@"', ports).replace("@FRAMES@", frames)
    (lab / "scenarios.yaml").write_text(text)
    token = secrets.token_hex(16)
    argv = lab_argv("run", "--lab", lab / "lab.yaml", "--results", results_dir, *arguments)
    output = results_dir.parent / "output"
    peak = 0
    with output.open("wb") as file:
        child = subprocess.Popen(
            argv,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOSTILE_RUN": token, "GITHUB_ACTIONS": "true"},
        )
        while child.poll() is None:
            with contextlib.suppress(OSError, LookupError):
                peak = max(peak, memory_of(child.pid, "VmHWM"))
            time.sleep(0.5)
    listeners.close()
    said = output.read_text(errors="replace")
    print(said)
    ran = Ran(child.returncode, said, results_dir)
    return Attacked(ran, peak, listeners.heard, processes_with(token))


CHOSEN = tuple(TABLE) if BY_NIGHT else BY_DAY


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(LAB, folder / "lab")
    chosen = [word for name in CHOSEN for word in ("--scenario", f"scenarios/{name}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_FROZEN_GIB", "0")
        yield attack(folder / "results", folder / "lab", "-j", "1", *chosen)


def cell(attacked: Attacked, name: str) -> dict[str, Any]:
    return attacked.ran.cells()["6.1", f"scenarios/{name}"]


@pytest.mark.parametrize("name", CHOSEN)
def test_what_comes_of_it(attacked: Attacked, name: str) -> None:
    outcome, reason = TABLE[name]
    found = cell(attacked, name)
    assert found["outcome"] == outcome, found["reason"]
    assert re.search(reason, found["reason"]), found["reason"]
    assert bool(found["reason"]) == (outcome != "passed")


def test_every_attack_is_in_the_table() -> None:
    text = (LAB / "scenarios.yaml").read_text()
    assert set(re.findall(r"^  ([a-z0-9-]+):$", text, re.MULTILINE)) == set(TABLE)


def test_the_run_ends_in_order(attacked: Attacked) -> None:
    assert attacked.ran.status == 3, "some scenarios could not be judged"
    assert "Traceback" not in attacked.ran.output
    assert attacked.left == []


def test_the_lab_takes_a_bounded_amount_of_memory(attacked: Attacked) -> None:
    print(f"{attacked.peak / MIB:.0f} MiB")
    assert 0 < attacked.peak < MOST_MEMORY


def test_nobody_on_the_host_heard_of_a_guest(attacked: Attacked) -> None:
    assert attacked.heard == []


# --- what all of them said, wherever it is shown ----------------------------------------------


def test_nothing_is_obeyed_on_a_terminal(attacked: Attacked) -> None:
    output = attacked.ran.output
    assert "owned" in output
    assert all(line.isprintable() for line in output.split("\n"))
    report = (attacked.ran.run_dir / "report.txt").read_text()
    assert "owned" in report
    assert all(line.isprintable() for line in report.split("\n"))


def test_nothing_is_obeyed_by_github(attacked: Attacked) -> None:
    """The run believed to be in an Action."""
    obeyed = list(commands_in(attacked.ran.output))
    assert any("owned" in each for each in obeyed)
    for each in obeyed:  # the lab's own annotations, and nothing else
        place = each.removeprefix("::").partition("::")[0]
        assert re.fullmatch(
            r"error( (file=[^,]+,line=\d+,)?title=scenarios/[a-z0-9-]+ [a-z ]+ on 6\.1)?", place
        )
        assert "passwd" not in place


def commands_in(output: str) -> Iterator[str]:
    """What GitHub's runner would take for commands: see ActionCommand.cs of actions/runner."""
    stopped = ""
    for line in output.splitlines():
        text = line.strip()
        if stopped:
            stopped = "" if text == f"::{stopped}::" else stopped
        elif text.startswith("::stop-commands::"):
            stopped = text.removeprefix("::stop-commands::")
        elif text.startswith("::"):
            yield text
        elif (at := text.find("##[")) >= 0:
            yield text[at:]


def test_nothing_is_obeyed_by_gitlab(attacked: Attacked) -> None:
    assert not re.search(r"section_(start|end):\d+:[^\n]*\r", attacked.ran.output)


def test_the_page_has_no_element_of_theirs(attacked: Attacked) -> None:
    page = Page((attacked.ran.run_dir / "report.html").read_text())
    assert "owned" in page.text
    assert page.tags["blink"] == 0
    named = [attributes.get("id", "") for tag, attributes, _ in page.raw if tag == "script"]
    assert [name for name in named if not (name or "").startswith("data-")] == [""]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_junit_is_well_formed(attacked: Attacked) -> None:
    tree = ElementTree.parse(attacked.ran.run_dir / "junit.xml")
    names = {case.get("name") for case in tree.iter("testcase")}
    assert any("<script>alert(1)</script>]]>&amp;" in (name or "") for name in names)
    assert not list(tree.iter("script"))


def test_no_file_is_anywhere_else(attacked: Attacked) -> None:
    root = attacked.ran.run_dir.resolve()
    found = [path for path in root.rglob("*") if path.is_symlink()]
    assert found == []
    for artifact in cell(attacked, "collected-names")["artifacts"]:
        folder = root / cell(attacked, "collected-names")["evidence"]
        place = (folder / artifact["file"]).resolve()
        assert place.is_relative_to(folder.resolve())
        assert place.is_file()
