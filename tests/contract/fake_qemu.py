"""A stand-in for QEMU: an executable that takes QEMU's arguments and does as it is told.

Told by ``LAB_TEST_QEMU``, a list of orders that are carried out in turn; when they are
done, it goes on doing nothing. It runs as whoever QEMU would run as, so this file is
copied to where everybody can read it, and needs nothing but Python itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""},
        "capabilities": [],
    }
}
STAMP = "[    1.000000] "


def fd_of(name: str) -> int:
    """The descriptor behind ``-chardev socket,id=NAME,fd=N`` or ``-NAME /proc/self/fd/N``."""
    line = " ".join(sys.argv)
    found = re.search(rf"socket,id={name},fd=(\d+)|-{name} /proc/self/fd/(\d+)", line)
    assert found, name
    return int(found[1] or found[2])


def read_member(archive: bytes, wanted: str) -> bytes:
    """A file out of concatenated newc archives, as the kernel reads them."""
    at = 0
    while at < len(archive):
        if archive[at : at + 6] != b"070701":
            at += 1
            continue
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) & ~3
        if name == wanted:
            return archive[start : start + size]
        at = (start + size + 3) & ~3
    raise KeyError(wanted)


def initrd() -> bytes:
    return Path(f"/proc/self/fd/{fd_of('initrd')}").read_bytes()


class Console:
    """Standard input and output, as ``-chardev stdio`` has it."""

    def sendall(self, data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    def recv(self, size: int) -> bytes:
        return os.read(0, size)


class Standin:
    def __init__(self) -> None:
        assert "stdio,id=console,signal=off" in sys.argv
        self.console = Console()
        self.monitor = socket.socket(fileno=fd_of("qmp"))
        self.nonce = read_member(initrd(), "lab/nonce").decode().strip()
        self.greeted = threading.Event()
        self.registers = ""
        self.missed = 0

    def do(self, verb: str, *arguments: str) -> None:
        getattr(self, verb.replace("-", "_"))(*arguments)

    def say(self, text: str) -> None:
        """A line of the kernel's."""
        line = STAMP + text.replace("NONCE", self.nonce) + "\r\n"
        self.console.sendall(line.encode())

    def replay(self, path: str) -> None:
        data = Path(path).read_bytes()
        for start in range(0, len(data), 1000):
            self.console.sendall(data[start : start + 1000])

    def complain(self, text: str) -> None:
        """QEMU's own output."""
        print(text, file=sys.stderr, flush=True)

    def sleep(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def exit(self, status: str) -> None:
        os._exit(int(status))

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def flood(self) -> None:
        while True:
            self.say("on and on")

    def ignore_term(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def tell(self) -> None:
        """Who it is, what it may, and what it was given."""
        status = Path("/proc/self/status").read_text()
        for key in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs"):
            found = re.search(rf"^{key}:[ \t]*(.*)$", status, re.MULTILINE)
            self.complain(f"{key}={found[1].split() if found else None}")
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        self.complain(f"fds={sorted(os.readlink(link) for link in links if os.path.exists(link))}")
        kernel = Path(f"/proc/self/fd/{fd_of('kernel')}").read_bytes()
        self.complain(f"kernel={kernel.decode()}")
        self.complain(f"keys={read_member(initrd(), 'lab/authorized_keys').decode().strip()}")

    def greet(self, port: str = "1") -> None:
        """Be a QEMU that is well; its guest's SSH is at ``port``."""
        threading.Thread(target=self._serve, args=(int(port),), daemon=True).start()
        self.greeted.wait()

    def stand_still(self) -> None:
        """A processor that is halted with interrupts off, as QEMU 7.2 tells it."""
        self.registers = "RIP=000000000431e079 RFL=00000002 [-------] CPL=0 II=0 SMM=0 HLT=1"

    def run_a_kernel(self) -> None:
        """A processor that idles in a kernel."""
        self.registers = "RIP=ffffffff81a8f4bb RFL=00000246 [---Z-P-] CPL=0 II=0 SMM=0 HLT=1"

    def offer_rescue(self) -> None:
        """A shell on the second serial port."""
        rescue = fd_of("rescue")
        subprocess.Popen(("sh",), stdin=rescue, stdout=rescue, stderr=rescue)

    def greet_wrong(self) -> None:
        self.monitor.sendall(b"HTTP/1.0 400 Bad Request\r\n")

    def miss_breaks(self, count: str) -> None:
        """Take so many letters after a break for what they are."""
        self.missed = int(count)

    def hang_up(self) -> None:
        self.monitor.shutdown(socket.SHUT_RDWR)

    def _serve(self, port: int) -> None:
        lines = self.monitor.makefile("rb")
        self._send(GREETING)
        for line in lines:
            command = json.loads(line)
            answer: object = {}
            if command["execute"] == "human-monitor-command":
                if port < 0:
                    continue  # no answer at all
                asked = command["arguments"]["command-line"]
                answer = f"  TCP[HOST_FORWARD]  13  127.0.0.1 {port}  10.0.2.15  22  0  0\r\n"
                answer = self.registers if asked == "info registers" else answer
            self._send({"return": answer, "id": command.get("id")})
            self.greeted.set()
            if command["execute"] == "chardev-send-break":
                letter = self.console.recv(1).decode()
                self.missed -= 1
                self.say(letter if self.missed >= 0 else f"sysrq: {letter}")

    def _send(self, message: object) -> None:
        self.monitor.sendall(json.dumps(message).encode() + b"\r\n")


if __name__ == "__main__":
    standin = Standin()
    for order in json.loads(os.environ["LAB_TEST_QEMU"]):
        standin.do(*order)
    while True:
        time.sleep(60)
