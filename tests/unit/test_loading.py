"""Why a module was not loaded: from lines that real kernels logged.

They come from guests with 5.4.0-216-generic (Ubuntu 20.04), 6.1.0-56-cloud-amd64 (Debian 12)
and 6.12.117+deb13-cloud-amd64 (Debian 13), where modules were spoilt with sed, dd and head.
"""

from __future__ import annotations

import pytest

from orchestrator.plan.klog import Record
from orchestrator.plan.loading import Loading, explain_load

RELEASE = "6.1.0-56-cloud-amd64"
NORMAL = (
    "refuse: loading out-of-tree module taints kernel.",
    "refuse: module verification failed: signature and/or required key missing - tainting kernel",
)


def records(*texts: str) -> tuple[Record, ...]:
    return tuple(Record(number, float(number), text) for number, text in enumerate(texts))


def loading(errno: str, **more: object) -> Loading:
    values: dict[str, object] = {"release": RELEASE, "built_for": RELEASE, **more}
    return Loading(errno, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("errno", "logged", "why"),
    [
        pytest.param(
            "ENOEXEC",
            [
                "refuse: version magic '5.4.0-216-generic SMP mad_unload modversions ' "
                "should be '5.4.0-216-generic SMP mod_unload modversions '"
            ],
            "it is built for a kernel of this name with other options: its vermagic is "
            "'5.4.0-216-generic SMP mad_unload modversions ', the kernel's is "
            "'5.4.0-216-generic SMP mod_unload modversions '",
            id="vermagic, 5.4",
        ),
        pytest.param(
            "ENOEXEC",
            [
                "refuse: version magic '6.1.0-50-cloud-amd64 SMP preempt mod_unload ' "
                "should be '6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions '"
            ],
            "it is built for 6.1.0-50-cloud-amd64, this is 6.1.0-56-cloud-amd64",
            id="vermagic of another release, made of the line above",
        ),
        pytest.param(
            "ENOENT",
            ["consumer: Unknown symbol provider_offers (err -2)"],
            "unknown symbol provider_offers: provider of this lab exports provider_offers, "
            "load it first",
            id="unknown symbol, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "ENOENT",
            [f"consumer: Unknown symbol other_{n} (err -2)" for n in (1, 2, 3, 4, 5, 1)],
            "unknown symbols other_1, other_2, other_3 and 2 more: neither this kernel nor a "
            "loaded module exports it to this module",
            id="many unknown symbols",
        ),
        pytest.param(
            "ENOEXEC",
            ["consumer: disagrees about version of symbol module_layout"],
            "it is built against another kernel: the version of module_layout is not this one's",
            id="version of the kernel's symbols, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "EINVAL",
            [
                "consumer: disagrees about version of symbol provider_offers",
                "consumer: Unknown symbol provider_offers (err -22)",
            ],
            "the version of symbol provider_offers is not the one that it was built with: "
            "build it again, with the module or kernel that exports it",
            id="version of a module's symbol, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "EINVAL",
            [
                "spaced: module uses symbol (provider_spaced) from namespace LABSPACE, "
                "but does not import it.",
                "spaced: Unknown symbol provider_spaced (err -22)",
            ],
            "symbol provider_spaced is in the namespace LABSPACE: name it with MODULE_IMPORT_NS()",
            id="namespace, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "ENOEXEC",
            ["providex: exports duplicate symbol provider_offers (owned by provider)"],
            "it exports provider_offers, which provider exports already",
            id="exported twice, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "EKEYREJECTED",
            ["Loading of unsigned module is rejected"],
            "the kernel enforces signatures, and it rejected this (unsigned module)",
            id="signature, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "EPERM",
            ["Lockdown: sysio: unsigned module loading is restricted; see man kernel_lockdown.7"],
            "the kernel is locked down: unsigned module loading is restricted",
            id="lockdown, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "EINVAL",
            ["refuse: `many' invalid for parameter `with'"],
            "parameter with cannot be 'many'",
            id="parameter, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "ENOSPC",
            [
                "name: string doesn't fit in 3 chars.",
                "refuse: `toolong' too large for parameter `name'",
            ],
            "'toolong' is too long for parameter name",
            id="long parameter, 5.4, 6.1 and 6.12",
        ),
        pytest.param(
            "ENOEXEC",
            ["Invalid architecture in ELF header: 183"],
            "it is built for another architecture (ELF machine 183)",
            id="architecture, 6.1 and 6.12",
        ),
        pytest.param(
            "ENOEXEC",
            ["Invalid ELF section header overflow"],
            "it is no whole module, or none for this architecture "
            "(Invalid ELF section header overflow)",
            id="cut off, 6.1 and 6.12",
        ),
        pytest.param(
            "ENOEXEC",
            ["Module has invalid ELF structures"],
            "it is no whole module, or none for this architecture "
            "(Module has invalid ELF structures)",
            id="architecture, or cut off, 5.4",
        ),
        pytest.param("ENODEV", [], "its init function returned -ENODEV", id="init"),
        pytest.param(
            "EINVAL",
            [],
            "its init function returned -EINVAL, or the file is empty or damaged; "
            "the kernel's log does not say",
            id="init, or an empty file: 5.4, 6.1 and 6.12 say nothing of either",
        ),
        pytest.param(
            "EPERM",
            [],
            "its init function returned -EPERM, or the kernel takes no more modules "
            "(see /proc/sys/kernel/modules_disabled); the kernel's log does not say",
            id="modules_disabled: 5.4, 6.1 and 6.12 say nothing",
        ),
        pytest.param("ENOKEY", [], "the kernel does not accept its signature", id="key"),
    ],
)
def test_a_refusal_is_explained(errno: str, logged: list[str], why: str) -> None:
    known = loading(errno, exporters={"provider_offers": "provider"})
    assert explain_load(known, records(*NORMAL, *logged)) == why


def test_a_module_that_the_scenario_has_loaded() -> None:
    why = "a module of this name is loaded already"
    assert explain_load(loading("EEXIST", is_loaded=True), ()) == why
    unsure = explain_load(loading("EEXIST"), ())
    assert unsure.startswith("its init function returned -EEXIST, or")
    assert why in unsure


def test_a_module_for_another_kernel_that_logged_nothing() -> None:
    why = explain_load(loading("ENOEXEC", built_for="5.4.0-216-generic"), ())
    assert why == "it is built for 5.4.0-216-generic, this is 6.1.0-56-cloud-amd64"
    assert "init function" in explain_load(loading("ENOEXEC"), ())


def test_what_the_kernel_always_logs_explains_nothing() -> None:
    assert explain_load(loading("EIO"), records(*NORMAL)) == "its init function returned -EIO"


def test_what_an_init_function_logged_last_is_told() -> None:
    # Of the module tirdad, which patches a function that this kernel has not.
    logged = (
        "tirdad: tainting kernel with TAINT_LIVEPATCH",
        *NORMAL,
        "[-] TIRDAD: Installing ISN hooks...",
        "livepatch: symbol 'secure_tcp_seq' not found in symbol table",
        "[!] TIRDAD: Installation failed",
    )
    assert explain_load(loading("EPERM"), records(*logged)) == (
        "its init function returned -EPERM; the kernel's log ends with 'livepatch: symbol "
        "'secure_tcp_seq' not found in symbol table' and '[!] TIRDAD: Installation failed'"
    )
    assert explain_load(loading("ENODEV"), records(*NORMAL, "acpi: none", "")) == (
        "its init function returned -ENODEV; the kernel's log ends with 'acpi: none'"
    )


def test_what_is_quoted_is_safe_and_short() -> None:
    hostile = records("m: `\x1b[2J" + "{0}%s\u202e" * 1000 + "' invalid for parameter `a\0b'")
    why = explain_load(loading("EINVAL"), hostile)
    assert why.isprintable()
    hostile = records("m: `\x1b[2J{0}{1}%s' invalid for parameter `a\0b'")
    why = explain_load(loading("EINVAL"), hostile)
    assert why == "parameter a\\0b cannot be '\\x1b[2J{0}{1}%s'"
    hostile = records(*(f"m: Unknown symbol {'x' * 900}{n} (err -2)" for n in range(1000)))
    assert len(explain_load(loading("ENOENT"), hostile)) < 600
