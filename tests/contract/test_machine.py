"""Machines whose QEMU is a stand-in: it hangs, dies, lies and panics on order."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import console, machine
from orchestrator.adapters.machine import (
    QEMU,
    BootFiles,
    Machine,
    probe_boots,
    start_machine,
    time_scale,
)
from orchestrator.adapters.ssh import generate_key_pair
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import (
    BootError,
    ConnectError,
    GuestDiedError,
    GuestPanickedError,
    HostError,
    LaunchError,
    MachineError,
    RunInterruptedError,
)
from orchestrator.plan.qemu import GuestSpec
from tests.contract.ssh_server import say, ssh_server

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]

DATA = Path(__file__).parents[1] / "data" / "klog"
SPEC = GuestSpec("tcg", memory_mib=256, cpus=1)
USER_KEY = generate_key_pair()
HOST_KEY = generate_key_pair()
READY = ("say", "lab-NONCE boot ready")
GIVE_UP = ("say", "lab-NONCE boot failed-now")
Order = tuple[str, ...]

at_once = pytest.mark.usefixtures("quickly")


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline.after(seconds, "the boot")


class Bench:
    """A folder with the stand-in, something to boot, and room for evidence."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.folder = root / "boot-1"
        self.program = root / "bin" / QEMU
        self._monkeypatch = monkeypatch
        self._write_program()
        self.files = BootFiles(root / "vmlinuz", root / "initramfs.cpio", root / "image")
        (root / "vmlinuz").write_text("the kernel")
        (root / "initramfs.cpio").write_bytes(b"")
        (root / "image").write_text("the image")
        for path in DATA.glob("*.log"):
            shutil.copy(path, root)
        monkeypatch.setenv("PATH", f"{self.program.parent}:{os.environ['PATH']}")
        monkeypatch.setattr(machine, "REAP_SECONDS", 1.0)
        monkeypatch.setattr(machine, "RESCUE_SECONDS", 0.5)

    def _write_program(self) -> None:
        # Not this interpreter: it may lie where another user cannot look.
        python = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin") or sys.executable
        source = (Path(__file__).parent / "fake_qemu.py").read_text()
        self.program.parent.mkdir()
        self.program.write_text(f"#!{python} -IS\n{source}")
        self.program.chmod(0o755)

    def order(self, *orders: Order) -> None:
        """What the next stand-in will do."""
        self._monkeypatch.setenv("LAB_TEST_QEMU", json.dumps(orders))

    def start(self, *orders: Order) -> contextlib.AbstractContextManager[Machine]:
        self.order(*orders)
        return start_machine(SPEC, self.files, self.folder, user_key=USER_KEY, host_key=HOST_KEY)

    def boot(self, *orders: Order, seconds: float = 20.0, after: str = "") -> None:
        """Start one and wait for its boot, so many seconds ``after`` the console said that."""
        with self.start(*orders) as guest:
            if after:
                assert guest.log.wait_until(lambda: after in guest.log.last_line, soon())
            guest.wait_for_boot(soon(seconds), USER_KEY, HOST_KEY)

    def processes(self) -> list[int]:
        """Every process of the stand-in that there is."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.program).encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue  # it has ended meanwhile
        return found


@pytest.fixture
def bench(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(open_dir, monkeypatch)
    yield bench
    wait_for(lambda: not bench.processes())


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def quickly() -> Iterator[None]:
    """The test takes no longer than what is noticed at once takes."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 8


# --- a guest that is well --------------------------------------------------------------------


def test_a_guest_boots_and_takes_commands(bench: Bench) -> None:
    with ssh_server(HOST_KEY, USER_KEY, {"uname -r": say(b"6.1.0\n")}) as server:
        orders = (("greet", str(server.port)), ("replay", str(bench.root / "healthy-6.1.log")))
        with bench.start(*orders, READY) as guest:
            guest.wait_for_boot(soon(), USER_KEY, HOST_KEY)
            assert guest.alive
            assert guest.ssh_port() == server.port
            assert guest.shell.run("uname -r", soon()).stdout == b"6.1.0\n"
            guest.check_alive()
            assert bench.processes()
        assert not bench.processes()
    with pytest.raises(GuestDiedError):
        guest.check_alive()


def test_the_folder_tells_the_whole_story(bench: Bench) -> None:
    orders = (("complain", "qemu: a warning"), ("say", "a line"), ("greet",))
    with pytest.raises(BootError):
        bench.boot(*orders, seconds=0.3, after="a line")
    assert {path.name for path in bench.folder.iterdir()} == {
        *("argv", "console.log", "qemu.log", "rescue.log")
    }
    assert "a line" in (bench.folder / "console.log").read_text()
    assert (bench.folder / "qemu.log").read_text() == "qemu: a warning\n"
    argv = (bench.folder / "argv").read_text().splitlines()
    assert str(bench.program) in argv
    assert argv[argv.index("-append") + 1].startswith("console=ttyS0 ")


def test_no_secret_is_left_in_the_folder(bench: Bench) -> None:
    with pytest.raises(BootError):
        bench.boot(("greet",), GIVE_UP)
    secrets = (HOST_KEY.to_dropbear()[-32:], USER_KEY.private.get_base64().encode())
    for path in bench.folder.iterdir():
        assert not any(secret in path.read_bytes() for secret in secrets), path


def test_qemu_gets_what_it_needs_and_nothing_beside_it(bench: Bench) -> None:
    with pytest.raises(BootError):
        bench.boot(("tell",), ("greet",), GIVE_UP)
    told = dict(line.split("=", 1) for line in (bench.folder / "qemu.log").read_text().splitlines())
    assert told["NoNewPrivs"] == "['1']"
    assert told["CapEff"] == "['0000000000000000']"
    if os.geteuid() == 0:
        assert told["Uid"] == f"{['65534'] * 4}"
        assert told["Gid"] == f"{['65534'] * 4}"
        assert told["Groups"] == "[]"
        assert told["CapBnd"] == "['0000000000000000']"
    assert told["kernel"] == "the kernel"
    assert told["keys"] == USER_KEY.public_line
    assert told["fds"].count("socket:") == 3
    assert told["fds"].count("pipe:") == 2
    assert told["fds"].count("/memfd:initrd") == 1
    assert told["fds"].count("/vmlinuz") == told["fds"].count("/image") == 1
    # Standard input, output, error; three sockets, three files, the initramfs.
    assert len(told["fds"].split(", ")) == 3 + 3 + 2 + 1, told["fds"]


def test_each_boot_has_a_nonce_of_its_own(bench: Bench) -> None:
    said = []
    for number in (1, 2):
        bench.folder = bench.root / f"boot-{number}"
        with pytest.raises(BootError):
            bench.boot(("greet",), ("say", "NONCE"), GIVE_UP)
        said.append((bench.folder / "console.log").read_text().split()[2])
    assert said[0] != said[1]
    assert len(said[0]) == 16


def test_the_way_in_is_closed_before_the_guest_has_booted(bench: Bench) -> None:
    with bench.start(("greet",)) as guest, pytest.raises(AssertionError):
        guest.shell.run("true", soon())


def test_a_hung_guest_is_asked_for_its_tasks(bench: Bench) -> None:
    with bench.start(("say", "hung"), ("greet",)) as guest:
        guest.greet()
        guest.collect_hang(soon(1.5))
        texts = [record.text for record in guest.log.records()]
    assert texts == ["hung", "sysrq: w", "sysrq: l"]


@pytest.fixture
def quick_sysrq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BREAK_SECONDS", (0.05, 0.05, 0.05))
    monkeypatch.setattr(machine, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(machine, "SYSRQ_SECONDS", 0.05)


@pytest.mark.usefixtures("quick_sysrq")
@pytest.mark.parametrize(
    ("missed", "answers"),
    [
        ("0", ["sysrq: w", "sysrq: l", "sysrq: t"]),
        ("2", ["w", "w", "sysrq: w", "sysrq: l", "sysrq: t"]),
        ("9", ["w", "w", "w"]),  # what takes no request takes no other
    ],
)
def test_a_guest_that_misses_a_break_is_asked_again(
    bench: Bench, missed: str, answers: list[str]
) -> None:
    with bench.start(("miss-breaks", missed), ("greet",)) as guest:
        guest.greet()
        guest.collect_hang(soon(30), every_task=True)
        assert [record.text for record in guest.log.records()] == answers


@pytest.mark.usefixtures("quick_sysrq")
def test_a_guest_that_says_on_and_on_is_not_waited_for(bench: Bench) -> None:
    with bench.start(("greet",), ("flood",)) as guest:
        guest.greet()
        guest.log.wait_until(lambda: guest.log.count > 100, soon(30))
        started = time.monotonic()
        guest.collect_hang(soon(2))
        assert time.monotonic() - started < 15


@at_once
def test_a_probe_is_over_when_the_first_process_has_spoken(bench: Bench) -> None:
    bench.order(("greet",), ("say", "lab-NONCE boot probed"))
    probe_boots(SPEC, bench.files, bench.folder, 20)


def test_a_probe_that_hangs_is_a_boot_that_failed(bench: Bench) -> None:
    bench.order(("say", "unchecked MSR access error"), ("greet",))
    with pytest.raises(BootError, match=r"no 'probed'.*unchecked MSR access"):
        probe_boots(SPEC, bench.files, bench.folder, 0.5)


# --- QEMU does not start ---------------------------------------------------------------------


@at_once
def test_a_qemu_that_refuses_is_told_with_its_words(bench: Bench) -> None:
    refusal = "qemu-system-x86_64: -cpu max: unknown option"
    with pytest.raises(LaunchError, match=r"did not start: .*unknown option") as caught:
        bench.boot(("complain", refusal), ("exit", "1"))
    assert caught.value.status == 1
    assert caught.value.output == refusal
    assert str(bench.program) in caught.value.argv


@at_once
def test_a_qemu_that_crashes_at_once_is_told(bench: Bench) -> None:
    with pytest.raises(LaunchError, match="did not start") as caught:
        bench.boot(("die",))
    assert caught.value.status == -signal.SIGSEGV


def test_a_qemu_that_says_nothing_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LAUNCH_SECONDS", 0.5)
    monkeypatch.setattr(machine, "REAP_SECONDS", 0.1)
    with pytest.raises(LaunchError, match="did not answer: QEMU's greeting") as caught:
        bench.boot()
    assert caught.value.status is None


@at_once
def test_a_qemu_that_greets_with_rubbish_is_given_up(bench: Bench) -> None:
    with pytest.raises(LaunchError, match="no JSON"):
        bench.boot(("greet-wrong",))


@at_once
def test_a_qemu_that_ends_before_the_kernel_speaks_did_not_launch(bench: Bench) -> None:
    with pytest.raises(LaunchError, match=r"before the kernel said anything.*no bios") as caught:
        bench.boot(("greet",), ("sleep", "0.2"), ("complain", "no bios"), ("exit", "1"))
    assert (caught.value.status, caught.value.output) == (1, "no bios")


def test_a_host_without_qemu_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = bench.root / "tools"
    tools.mkdir()
    for name in ("setpriv", "prlimit"):
        (tools / name).symlink_to(process.find_tool(name))
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(HostError, match="no 'qemu-system-x86_64'"):
        bench.boot()


@pytest.mark.parametrize("name", ["vmlinuz", "initramfs.cpio", "image"])
def test_a_missing_file_to_boot_from_is_an_error_that_names_it(bench: Bench, name: str) -> None:
    (bench.root / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        bench.boot()


def test_a_folder_that_cannot_be_made_is_an_error(bench: Bench) -> None:
    bench.folder.write_text("in the way")
    with pytest.raises(FileExistsError):
        bench.boot()


def test_evidence_that_cannot_be_written_is_an_error(bench: Bench) -> None:
    bench.folder.mkdir()
    (bench.folder / "console.log").mkdir()
    with pytest.raises(IsADirectoryError):
        bench.boot()


def test_a_rescue_log_that_cannot_be_written_is_an_error(bench: Bench) -> None:
    """QEMU runs already by then."""
    bench.folder.mkdir()
    (bench.folder / "rescue.log").mkdir()
    with pytest.raises(IsADirectoryError):
        bench.boot(("greet",))


# --- the guest does not come up --------------------------------------------------------------


def test_a_boot_that_hangs_is_told_with_its_last_line(bench: Bench) -> None:
    orders = (("replay", str(bench.root / "healthy-6.1.log")), ("say", "stuck here"), ("greet",))
    said = r"no 'ready'.*the boot \(0\.3 s\); last console line: 'stuck here'"
    with pytest.raises(BootError, match=said) as caught:
        bench.boot(*orders, seconds=0.3, after="stuck here")
    assert caught.value.evidence == bench.folder / "console.log"


def test_a_kernel_that_stands_still_is_told_before_the_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(machine, "STILL_SECONDS", 0.5)
    orders = (("replay", str(bench.root / "healthy-6.1.log")), ("say", "stuck here"), ("greet",))
    said = r"the kernel has said nothing for \d+ s; last console line: 'stuck here'"
    with pytest.raises(BootError, match=said):
        bench.boot(*orders, seconds=6, after="stuck here")


def test_a_guest_that_never_speaks_is_told(bench: Bench) -> None:
    with pytest.raises(BootError, match="the console is empty"):
        bench.boot(("greet",), seconds=0.3)


def test_a_processor_that_stands_still_is_told_before_the_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.1)
    said = "no kernel started: the guest's processor has halted for good"
    with pytest.raises(BootError, match=said) as caught:
        bench.boot(("stand-still",), ("greet",), seconds=300)
    assert "damaged kernel file" in caught.value.hint
    assert caught.value.evidence == bench.folder / "console.log"


def test_a_guest_that_is_up_and_not_heard_has_no_console(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.1)
    with ssh_server(HOST_KEY, USER_KEY) as server:
        orders = (("run-a-kernel",), ("greet", str(server.port)))
        with pytest.raises(BootError, match=r"no console: .*answers over SSH"):
            bench.boot(*orders, seconds=300)
        assert server.tries == 0


def test_a_kernel_that_runs_and_says_nothing_has_no_console(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.1)
    with pytest.raises(BootError, match=r"no console: .*no 'ready'.*the console is empty"):
        bench.boot(("run-a-kernel",), ("greet",), seconds=1)


def test_a_kernel_that_idles_and_speaks_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.1)
    with ssh_server(HOST_KEY, USER_KEY) as server:
        port = str(server.port)
        orders = (("say", "slow"), ("run-a-kernel",), ("greet", port), ("sleep", "1"), READY)
        bench.boot(*orders)


@at_once
def test_an_init_that_gives_up_is_told_at_once(bench: Bench) -> None:
    with pytest.raises(BootError, match="init gave up: no disk"):
        bench.boot(("greet",), ("say", "lab-NONCE boot failed-no-disk"))


@at_once
def test_an_init_that_gives_up_and_powers_off_gave_up(bench: Bench) -> None:
    with pytest.raises(BootError, match="init gave up: no overlay"):
        bench.boot(("greet",), ("say", "lab-NONCE boot failed-no-overlay"), ("exit", "0"))


@pytest.mark.parametrize(
    "forged",
    [
        "lab-0123456789abcdef boot ready",
        "lab-NONCE boot initramfs",
        "lab-NONCE step ready",
        "lab-0123456789abcdef boot failed-no-disk",
    ],
)
def test_another_marker_than_this_boots_is_not_taken(bench: Bench, forged: str) -> None:
    with pytest.raises(BootError, match="no 'ready'"):
        bench.boot(("say", forged), ("greet",), seconds=0.3, after=forged.split(" ", 1)[1])


@at_once
def test_a_panic_while_booting_is_told_at_once(bench: Bench) -> None:
    with pytest.raises(GuestPanickedError, match="Kernel panic - not syncing: "):
        bench.boot(("greet",), ("replay", str(bench.root / "panic-7.3.log")))


@at_once
def test_a_panic_that_ends_qemu_is_still_a_panic(bench: Bench) -> None:
    with pytest.raises(GuestPanickedError):
        bench.boot(("greet",), ("replay", str(bench.root / "panic-4.15.log")), ("exit", "0"))


@at_once
def test_a_qemu_that_dies_while_booting_is_told(bench: Bench) -> None:
    with pytest.raises(GuestDiedError, match=r"QEMU's status is -11.*'half way'") as caught:
        bench.boot(("greet",), ("say", "half way"), ("sleep", "0.2"), ("die",))
    assert not caught.value.by_itself


@at_once
def test_what_qemu_said_of_its_death_is_told(bench: Bench) -> None:
    with pytest.raises(GuestDiedError, match="QEMU said: out of memory"):
        bench.boot(("greet",), ("say", "half way"), ("complain", "out of memory"), ("exit", "1"))


@at_once
def test_a_guest_that_powers_off_while_booting_is_told(bench: Bench) -> None:
    with pytest.raises(GuestDiedError, match=r"powered off or rebooted.*'reboot: Power down'") as e:
        bench.boot(("greet",), ("say", "reboot: Power down"), ("exit", "0"))
    assert e.value.by_itself


def test_a_flood_is_told_as_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "MAX_LOG_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "REAP_SECONDS", 0.1)
    with pytest.raises(GuestDiedError, match=r"said more than .*, and nobody reads on") as caught:
        bench.boot(("greet",), ("flood",))
    assert not caught.value.by_itself


# --- the guest is up, but nobody can get in --------------------------------------------------


def test_a_qemu_that_names_no_port_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LAUNCH_SECONDS", 1.0)
    with pytest.raises(MachineError, match="did not answer: asking QEMU for its port"):
        bench.boot(("greet", "-1"), READY)


@at_once
def test_a_qemu_that_dies_when_asked_for_its_port_died(bench: Bench) -> None:
    with pytest.raises(GuestDiedError, match=r"QEMU's status is 3"):
        bench.boot(("greet", "-1"), READY, ("sleep", "0.3"), ("exit", "3"))


def test_a_guest_without_ssh_is_told_at_the_deadline(bench: Bench) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        orders = (READY, ("greet", str(bound.getsockname()[1])))
        with pytest.raises(ConnectError, match=r"no SSH.*refused"):
            bench.boot(*orders, seconds=1, after="ready")


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (("say", "Kernel panic - not syncing: too late"), GuestPanickedError),
        (("exit", "0"), GuestDiedError),
        (("die",), GuestDiedError),
    ],
    ids=["panic", "power-off", "crash"],
)
@at_once
def test_a_guest_that_ends_before_ssh_is_up_is_noticed_at_once(
    bench: Bench, last: Order, error: type[Exception]
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        orders = (("greet", str(bound.getsockname()[1])), READY, ("sleep", "0.5"), last)
        with pytest.raises(error):
            bench.boot(*orders, seconds=30)


def test_a_guest_without_ssh_is_looked_into(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RESCUE_SECONDS", 10.0)
    monkeypatch.setattr(machine, "RESCUE_LOOK", "echo all is dark")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        orders = (("offer-rescue",), READY, ("greet", str(bound.getsockname()[1])))
        with pytest.raises(ConnectError):
            bench.boot(*orders, seconds=1, after="ready")
    assert "all is dark" in (bench.folder / "rescue.log").read_text()


@at_once
def test_a_stranger_on_the_guests_port_is_refused(bench: Bench) -> None:
    with ssh_server(generate_key_pair(), USER_KEY) as server:
        with pytest.raises(ConnectError, match="not ours"):
            bench.boot(("greet", str(server.port)), READY)
        assert server.tries == 0


# --- ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "orders",
    [
        (),
        (("greet",),),
        (("greet",), ("say", "booting")),
        (("greet", "-1"), READY),
        (("greet", "1"), READY),
    ],
    ids=["greeting", "silence", "booting", "port", "ssh"],
)
def test_the_end_of_the_run_ends_every_wait_at_once(
    bench: Bench, orders: tuple[Order, ...]
) -> None:
    threading.Timer(0.6, process.stop_all).start()
    started = time.monotonic()
    with pytest.raises(RunInterruptedError):
        bench.boot(*orders, seconds=30)
    assert time.monotonic() - started < 5


def test_nothing_is_started_once_the_run_ends(bench: Bench) -> None:
    process.stop_all()
    with pytest.raises(RunInterruptedError):
        bench.boot()


def test_a_qemu_that_ignores_sigterm_is_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    with bench.start(("ignore-term",), ("greet",), ("say", "deaf")) as guest:
        guest.greet()
        assert guest.log.wait_until(lambda: guest.log.count == 1, soon())
        started = time.monotonic()
    assert 0.2 < time.monotonic() - started < 3


def test_an_exception_in_the_block_ends_the_guest(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.start(("greet",)):
        raise ZeroDivisionError


KILLED_LAB = """
import sys, time
from pathlib import Path
from orchestrator.adapters.machine import BootFiles, start_machine
from orchestrator.adapters.ssh import generate_key_pair
from orchestrator.plan.qemu import GuestSpec

root, key = Path(sys.argv[1]), generate_key_pair()
files = BootFiles(root / "vmlinuz", root / "initramfs.cpio")
spec = GuestSpec("tcg", memory_mib=256, cpus=1)
with start_machine(spec, files, root / "killed", user_key=key, host_key=key) as guest:
    guest.greet()
    print("up", flush=True)
    time.sleep(60)
"""


def test_qemu_does_not_outlive_a_lab_that_is_killed(bench: Bench) -> None:
    """Nor does one that changed its user on the way: that makes the kernel forget."""
    bench.order(("greet",))
    argv = (sys.executable, "-c", KILLED_LAB, str(bench.root))
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"up\n"
        assert bench.processes()
        lab.kill()
    wait_for(lambda: not bench.processes())


def test_emulated_guests_get_more_time() -> None:
    assert time_scale(GuestSpec("kvm", 256, 1)) == 1
    assert time_scale(SPEC) == machine.TCG_SLOWNESS > 1
