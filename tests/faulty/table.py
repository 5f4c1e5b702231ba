"""How each module of the zoo must be seen, kernel by kernel: the one place that says so.

A scenario that is not in ``TABLE`` is a mistake, and so is one of ``TABLE`` that no file has:
``tests/unit/test_zoo.py`` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from orchestrator.plan.model import FindingClass
from orchestrator.plan.version import KernelVersion, VersionRange

Flavour = Literal["default", "debug", "kcsan"]
Sort = Literal["hang", "load", "unload", "mismatch", "left", "died"]
"""What a scenario can fail by beside a complaint of the kernel: a step that does not end, a
module that is not loaded or not unloaded, another expectation that is not met, names that stay,
a guest that ends by itself.
"""
KINDS = frozenset((*get_args(FindingClass), *get_args(Sort)))


@dataclass(frozen=True)
class Seen:
    """How a fault must be seen on some kernels."""

    kinds: tuple[str, ...]
    """What the lab may call it first: of ``KINDS``; more than one where chance decides."""
    says: str = ""
    """What the reason must have in it."""
    line: bool = False
    """Whether the line to blame must be the marked one."""
    times: int = 1
    """How many complaints of that class there must be at least."""
    kernels: str = "*"
    flavours: tuple[Flavour, ...] = ("default",)

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - KINDS:
            raise ValueError(f"no such kind: {', '.join(sorted(unknown))}")

    def fits(self, version: KernelVersion, flavour: Flavour) -> bool:
        """Whether it is meant for such a kernel."""
        return flavour in self.flavours and VersionRange.parse(self.kernels).contains(version)


@dataclass(frozen=True)
class Fault:
    """A scenario of the zoo, and how it must fail."""

    seen: tuple[Seen, ...]
    """The first that fits a kernel counts. None fits: nothing of it shows there, and it passes,
    or is skipped.
    """
    module: str = ""
    """Whose file has the marked line, where it is not called as the scenario."""


def _fault(*seen: Seen, module: str = "") -> Fault:
    return Fault(seen, module)


def _complaint(
    *kinds: str, says: str = "", line: bool = True, times: int = 1, kernels: str = "*"
) -> Seen:
    return Seen(kinds, says, line, times, kernels)


def _debug(kind: str, *, line: bool = True, flavour: Flavour = "debug") -> Seen:
    return Seen((kind,), line=line, flavours=(flavour,))


# CONFIG_DEBUG_LIST: Debian's kernels have it, Ubuntu's 5.4 has not. CONFIG_PREEMPT_COUNT, by
# PREEMPT_DYNAMIC: Debian's 6.1 and 6.12 have it, 5.10 and Ubuntu's 5.4 have not; without it the
# kernel does not know that a spinlock is held.
_LIST_IS_CHECKED, _LIST_IS_NOT = ">=5.10", "<5.10"
_LOCKS_ARE_COUNTED = ">=6.1"

TABLE: Mapping[str, Fault] = {
    # --- memory
    "faulty/null_deref": _fault(_complaint("oops", says="NULL pointer dereference")),
    "faulty/use_after_free": _fault(_complaint("gpf")),
    # Whose fault it is, is known where memory is freed; the report begins with where it was
    # allocated.
    "faulty/double_free": _fault(_complaint("bug", says="double_free")),
    # A red zone is looked at when the memory is freed: too late to know who wrote.
    "faulty/heap_overflow": _fault(_complaint("bug", says="kmalloc-192", line=False)),
    # The stack that is checked is the one that was broken: the function is known, no line.
    "faulty/stack_smash": _fault(_complaint("panic", says="stack-protector", line=False)),
    "faulty/uninitialised": _fault(_complaint("gpf")),
    "faulty/user_pointer": _fault(_complaint("oops")),
    "faulty/wild_pointer": _fault(_complaint("gpf")),
    "faulty/cache_left": _fault(_complaint("not-empty", says="cache_left")),
    # Where in the function the stack comes to its end is chance.
    "faulty/deep_recursion": _fault(_complaint("stack-overflow", says="descend", line=False)),
    # --- what the code itself says
    "faulty/bug_on": _fault(_complaint("bug")),
    "faulty/divide": _fault(_complaint("oops", says="divide error")),
    "faulty/warn_once": _fault(_complaint("warning", says="level 0 is not possible")),
    "faulty/warn_again": _fault(_complaint("warning", times=2), module="warn_once"),
    "faulty/refcount_underflow": _fault(_complaint("refcount", says="underflow")),
    "faulty/list_twice": _fault(
        _complaint("list-corruption", kernels=_LIST_IS_CHECKED),
        _complaint("gpf", kernels=_LIST_IS_NOT),
    ),
    "faulty/panic_init": _fault(_complaint("panic", says="no controller found")),
    "faulty/panic_exit": _fault(_complaint("panic", says="unloaded with 1 users")),
    # --- locks, and waiting
    "faulty/sleep_in_atomic": _fault(_complaint("atomic-sleep", kernels=_LOCKS_ARE_COUNTED)),
    "faulty/sleep_in_timer": _fault(_complaint("atomic-sleep")),
    "faulty/lock_inversion": _fault(_complaint("hang", line=False)),
    "faulty/self_deadlock": _fault(_complaint("hang", line=False)),
    "faulty/spin_twice": _fault(_complaint("soft-lockup")),
    "faulty/missed_unlock": _fault(_complaint("hang", line=False)),
    "faulty/irq_off": _fault(_complaint("hang", "soft-lockup", "rcu-stall", line=False)),
    "faulty/preempt_off": _fault(_complaint("soft-lockup")),
    "faulty/hung_task": _fault(_complaint("hung-task")),
    # --- loading and unloading
    "faulty/no_memory": _fault(_complaint("load", says="ENOMEM", line=False)),
    "faulty/wrong_magic": _fault(
        _complaint("load", says="it is built for 3.2.0-4-486", line=False)
    ),
    "faulty/needs_symbol": _fault(
        _complaint("load", says="gives_symbol of this lab exports gives_symbol_answer", line=False)
    ),
    "faulty/module_held": _fault(_complaint("unload", says="EAGAIN", line=False)),
    "faulty/stuck_exit": _fault(_complaint("hang", says="unload stuck_exit", line=False)),
    # --- what stays
    "faulty/proc_left": _fault(_complaint("left", says="/proc/proc_left", line=False)),
    "faulty/misc_left": _fault(_complaint("left", says="/dev/misc_left", line=False)),
    "faulty/class_left": _fault(_complaint("left", says="/sys/class/class_left", line=False)),
    "faulty/kobject_left": _fault(_complaint("left", says="/sys/kernel/kobject_left", line=False)),
    "faulty/debugfs_left": _fault(
        _complaint("left", says="/sys/kernel/debug/debugfs_left", line=False)
    ),
    "faulty/chrdev_left": _fault(_complaint("left", says="chrdev_left", line=False)),
    # The handler's name is gone too: whoever reads /proc/interrupts reads it. Dropbear does, for
    # randomness, and was first on 6.1.
    "faulty/irq_left": _fault(_complaint("left", "oops", line=False)),
    "faulty/dir_left": _fault(_complaint("not-empty", says="removing non-empty directory")),
    "faulty/no_unwind": _fault(_complaint("left", says="/proc/no_unwind", line=False)),
    "faulty/proc_twice": _fault(_complaint("duplicate-name", says="proc_twice")),
    "faulty/sysfs_twice": _fault(_complaint("duplicate-name", says="sysfs_twice/level")),
    # --- what comes later: the code is gone, and its lines with it
    "faulty/timer_left": _fault(_complaint("oops", line=False)),
    "faulty/work_left": _fault(_complaint("oops", line=False)),
    "faulty/thread_left": _fault(_complaint("oops", line=False)),
    "faulty/panic_late": _fault(_complaint("oops", "panic", line=False)),
    "faulty/reboot_self": _fault(_complaint("died", says="rebooted", line=False)),
    # --- what is read and written
    # A MiB in pieces of six bytes takes longer than the step may, without KVM.
    "faulty/endless_read": _fault(_complaint("mismatch", "hang", says="no end", line=False)),
    "faulty/endless_seq": _fault(_complaint("mismatch", says="the file has no end", line=False)),
    "faulty/read_too_much": _fault(
        _complaint("mismatch", says="12 bytes for a buffer of 5", line=False)
    ),
    "faulty/short_read": _fault(_complaint("mismatch", says="at byte 5", line=False)),
    "faulty/write_zero": _fault(_complaint("mismatch", says="0 of 4 bytes written", line=False)),
    "faulty/wrong_errno": _fault(_complaint("mismatch", says="EPERM", line=False)),
    # A /proc file without a way to seek: d4455faccd6c (v5.13) calls a null pointer,
    # 3f61631d47f1 (v6.0) refuses; before, it seeks as any file.
    "faulty/no_lseek": _fault(
        _complaint("oops", line=False, kernels="5.13..5.19"),
        _complaint("mismatch", says="exit status", line=False, kernels=">=6.0"),
    ),
    "faulty/flood": _fault(_complaint("lost-log", says="lost part of its log", line=False)),
    # --- what takes the kernel's own checks
    "debug/silent_uaf": _fault(_debug("kasan")),
    "debug/silent_oob": _fault(_debug("kasan")),
    "debug/memory_leak": _fault(_debug("kmemleak")),
    "debug/lock_order": _fault(_debug("lockdep")),
    "debug/lock_uninit": _fault(_debug("lockdep")),
    "debug/sleep_alloc": _fault(_debug("atomic-sleep")),
    "debug/data_race": _fault(_debug("kcsan", flavour="kcsan")),
    # --- what is healthy
    "healthy/lookalike": _fault(),
    "healthy/tidy": _fault(),
    "healthy/helped": _fault(),
}
