"""Freezing a machine and going on from there, with QEMU itself and nothing in the machine."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import socket
from collections.abc import Iterator

import pytest

from orchestrator.adapters.machine import QEMU, open_memory, seal_memory
from orchestrator.adapters.qmp import Qmp
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, MachineError

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("spawner", "no_leaks"),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"no {QEMU} here"),
]

MIB = 64
WORDS = b"what the machine had in mind"
# Where the firmware leaves memory alone.
AT = 32 << 20


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds, "the test")


@contextlib.contextmanager
def machine(memory: int, state: int | None = None) -> Iterator[Qmp]:
    """A machine that finds nothing to boot from, or goes on with ``state``."""
    share = "on" if state is None else "off"
    ours, theirs = socket.socketpair()
    argv = (
        *(QEMU, "-nodefaults", "-display", "none", "-machine", "pc,memory-backend=ram"),
        *("-accel", "tcg", "-m", f"{MIB}M", "-object"),
        f"memory-backend-file,id=ram,size={MIB}M,mem-path=/proc/self/fd/{memory},share={share}",
        *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"),
        *(() if state is None else ("-incoming", "defer")),
    )
    fds = (theirs.fileno(), memory, *(() if state is None else (state,)))
    with ours, process.start(argv, pass_fds=fds):
        theirs.close()
        qmp = Qmp(ours)
        qmp.greet(soon())
        yield qmp


@pytest.fixture
def memory() -> Iterator[int]:
    with open_memory() as fd:
        os.ftruncate(fd, MIB << 20)
        yield fd


@pytest.fixture
def state() -> Iterator[int]:
    fd = os.memfd_create("state")
    yield fd
    os.close(fd)


def status(qmp: Qmp) -> str:
    return str(qmp.execute("query-status", soon())["status"])


def test_any_number_of_machines_go_on_from_one(memory: int, state: int) -> None:
    os.pwrite(memory, WORDS, AT)
    with machine(memory) as qmp:
        qmp.freeze(state, soon())
        assert status(qmp) == "postmigrate"
    seal_memory(memory)
    for _ in range(2):
        os.lseek(state, 0, os.SEEK_SET)
        with machine(memory, state) as qmp:
            qmp.thaw(state, soon())
            assert status(qmp) == "running"
    assert os.pread(memory, len(WORDS), AT) == WORDS


def test_memory_is_no_part_of_the_state(memory: int, state: int) -> None:
    os.pwrite(memory, WORDS, AT)
    with machine(memory) as qmp:
        qmp.freeze(state, soon())
    data = os.pread(state, MIB << 20, 0)
    assert 0 < len(data) < 4 << 20
    assert WORDS not in data


def test_nobody_can_change_a_memory_that_was_sealed(memory: int) -> None:
    seal_memory(memory)
    with pytest.raises(PermissionError):
        os.pwrite(memory, WORDS, AT)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)
    with pytest.raises(PermissionError):
        mmap.mmap(memory, MIB << 20, mmap.MAP_SHARED)
    with mmap.mmap(memory, MIB << 20, mmap.MAP_PRIVATE) as private:
        private[AT : AT + len(WORDS)] = WORDS
    assert os.pread(memory, len(WORDS), AT) == bytes(len(WORDS))


def test_a_memory_that_a_machine_writes_to_cannot_be_sealed(memory: int) -> None:
    with machine(memory), pytest.raises(HostError, match="cannot be sealed"):
        seal_memory(memory)


@pytest.mark.parametrize("damage", ["nothing", "rubbish", "half"])
def test_a_state_that_is_damaged_is_noticed(memory: int, state: int, damage: str) -> None:
    with machine(memory) as qmp:
        qmp.freeze(state, soon())
    seal_memory(memory)
    size = os.fstat(state).st_size
    os.ftruncate(state, {"nothing": 0, "rubbish": size, "half": size // 2}[damage])
    if damage == "rubbish":
        os.pwrite(state, os.urandom(size), 0)
    os.lseek(state, 0, os.SEEK_SET)
    with machine(memory, state) as qmp, pytest.raises(MachineError):
        qmp.thaw(state, soon(10))
