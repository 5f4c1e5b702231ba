"""Why a module was not loaded: from the error, the kernel's log of that step, and the module.

The kernel gives one of a few errors and says the rest in its log. ``_CAUSES`` pairs what it
logs with a sentence; the lines are those of Linux 5.4, 6.1 and 6.12 (``kernel/module.c``, later
``kernel/module/``, ``kernel/params.c``, ``security/lockdown/``). Where it logged nothing, the
error alone tells less, and the sentence says so. What is quoted is the guest's, and hostile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.plan.klog import Record
from orchestrator.plan.visible import clip, visible

MAX_QUOTED = 120
MAX_SYMBOLS = 3
MAX_LINES = 2
_MAX_RECORD = 1000


@dataclass(frozen=True)
class Loading:
    """A load that failed."""

    errno: str
    """The error's name."""
    release: str
    """The kernel's, as ``uname -r`` says it."""
    built_for: str
    """The release that the module's vermagic says it is built for."""
    is_loaded: bool = False
    """Whether the scenario has loaded it already."""
    exporters: Mapping[str, str] = field(default_factory=dict)
    """The lab's own modules by the symbols that they export."""


def explain_load(loading: Loading, records: Sequence[Record]) -> str:
    """Why the load failed, in a sentence without its full stop, safe to show."""
    texts = [record.text[:_MAX_RECORD] for record in records]
    for cause in _CAUSES:
        found = [match for text in texts if (match := re.search(cause.logged, text))]
        if found:
            return visible(cause.say(loading, found))
    return visible(_explain_errno(loading, [text for text in texts if not _is_usual(text)]))


# --- what the kernel logs --------------------------------------------------------------------


@dataclass(frozen=True)
class _Cause:
    """A line of the kernel's log, and what it means."""

    logged: str
    say: Callable[[Loading, Sequence[re.Match[str]]], str]


def _quote(text: str) -> str:
    return clip(text, MAX_QUOTED)


def _plain(sentence: str) -> Callable[[Loading, Sequence[re.Match[str]]], str]:
    """Says the sentence, with the groups of the first line in the places of ``{}``."""
    return lambda _, found: sentence.format(*map(_quote, found[0].groups()))


def _say_vermagic(_loading: Loading, found: Sequence[re.Match[str]]) -> str:
    built, kernel = found[0][1], found[0][2]
    one, other = built.split(" ", 1)[0], kernel.split(" ", 1)[0]
    if one != other:
        return f"it is built for {_quote(one)}, this is {_quote(other)}"
    return (
        "it is built for a kernel of this name with other options: its vermagic is "
        f"'{_quote(built)}', the kernel's is '{_quote(kernel)}'"
    )


def _say_version(_loading: Loading, found: Sequence[re.Match[str]]) -> str:
    symbol = found[0][1]
    if symbol == "module_layout":  # of the kernel's own struct module: checked first of all
        return "it is built against another kernel: the version of module_layout is not this one's"
    return (
        f"the version of symbol {_quote(symbol)} is not the one that it was built with: "
        "build it again, with the module or kernel that exports it"
    )


def _say_unknown(loading: Loading, found: Sequence[re.Match[str]]) -> str:
    symbols = list(dict.fromkeys(match[1] for match in found))
    named = ", ".join(map(_quote, symbols[:MAX_SYMBOLS]))
    more = f" and {len(symbols) - MAX_SYMBOLS} more" if len(symbols) > MAX_SYMBOLS else ""
    told = f"unknown symbol{'s' if len(symbols) > 1 else ''} {named}{more}"
    if owner := loading.exporters.get(symbols[0]):
        return f"{told}: {owner} of this lab exports {_quote(symbols[0])}, load it first"
    return f"{told}: neither this kernel nor a loaded module exports it to this module"


# In the order of what tells most: after a namespace or a version that is wrong, the kernel
# calls the symbol unknown too.
_CAUSES: tuple[_Cause, ...] = (
    _Cause(r"version magic '(.*)' should be '(.*)'", _say_vermagic),
    _Cause(
        r"module uses symbol \(?(\S+?)\)? from namespace (\S+), but does not import it",
        _plain("symbol {} is in the namespace {}: name it with MODULE_IMPORT_NS()"),
    ),
    _Cause(r"disagrees about version of symbol (\S+)", _say_version),
    _Cause(r"Unknown symbol (\S+) \(err -?\d+\)", _say_unknown),
    _Cause(
        r"exports duplicate symbol (\S+) \(owned by (\S+)\)",
        _plain("it exports {}, which {} exports already"),
    ),
    _Cause(
        r"Loading of (unsigned module|module with [a-z ]+) is rejected",
        _plain("the kernel enforces signatures, and it rejected this ({})"),
    ),
    _Cause(
        r"Lockdown: .*: (.*) is restricted; see man kernel_lockdown",
        _plain("the kernel is locked down: {} is restricted"),
    ),
    _Cause(r"`(.*)' invalid for parameter `(.*)'", _plain("parameter {1} cannot be '{0}'")),
    _Cause(r"`(.*)' too large for parameter `(.*)'", _plain("'{0}' is too long for parameter {1}")),
    _Cause(
        r"Invalid architecture in ELF header: (\d+)",
        _plain("it is built for another architecture (ELF machine {})"),
    ),
    _Cause(
        r"(Invalid ELF .*|Module has invalid ELF structures)",
        _plain("it is no whole module, or none for this architecture ({})"),
    ),
)


# --- what the error alone says ---------------------------------------------------------------

# Errors of the loader itself, with what else than an init function is behind them where the
# kernel logs nothing: load_module() and what it calls, Linux 6.1.
_LOADER = {
    "EBUSY": "the kernel is still loading or unloading a module of this name",
    "EEXIST": "a module of this name is loaded already",
    "EINVAL": "the file is empty or damaged",
    "ENOENT": "a symbol or the file is missing",
    "ENOEXEC": "the file is no module for this kernel",
    "ENOMEM": "the kernel has no memory for it",
    "EPERM": "the kernel takes no more modules (see /proc/sys/kernel/modules_disabled)",
}
_SIGNATURE = frozenset({"EBADMSG", "EKEYREJECTED", "ENOKEY", "ENOPKG"})


# What is logged of any module from outside the kernel's tree, Linux 4.4 to 6.12.
_USUAL = re.compile(
    r"loading out-of-tree module taints kernel|module verification failed: |"
    r"module license '.{0,60}' taints kernel|Disabling lock debugging due to kernel taint|"
    r"tainting kernel with TAINT_LIVEPATCH"
)


def _is_usual(text: str) -> bool:
    return not text.strip() or _USUAL.search(text) is not None


def _explain_errno(loading: Loading, texts: Sequence[str]) -> str:
    errno = loading.errno
    if errno in _SIGNATURE:
        return "the kernel does not accept its signature"
    if errno == "EEXIST" and loading.is_loaded:
        return _LOADER[errno]
    if errno == "ENOEXEC" and loading.built_for != loading.release:
        return f"it is built for {_quote(loading.built_for)}, this is {_quote(loading.release)}"
    returned = f"its init function returned -{errno}"
    if texts:
        # The loader's own refusals are above: what else is logged is the init function's.
        last = "' and '".join(_quote(text) for text in texts[-MAX_LINES:])
        return f"{returned}; the kernel's log ends with '{last}'"
    if errno in _LOADER:
        return f"{returned}, or {_LOADER[errno]}; the kernel's log does not say"
    return returned
