"""``lab.lock``: what is written is read back, what is damaged or does not fit is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sources import entry_types
from orchestrator.foundation.errors import ConfigError
from orchestrator.plan.kernel import Part, ResolvedKernel
from orchestrator.plan.labfile import load_lab, validate_document
from orchestrator.plan.lock import (
    Lock,
    LockedImage,
    LockedKernel,
    asked,
    changed_packages,
    find_pinned,
    load_lock,
    lock_path,
    render_lock,
)
from orchestrator.plan.model import KernelEntry, Lab
from orchestrator.plan.plan import Plan, resolve_plan
from orchestrator.plan.recipes import load_recipe
from orchestrator.plan.yamlsource import parse_yaml
from orchestrator.policy.locking import pin_what_fits
from tests.unit.labs import LAB, demo_lab, write_lab

SHA = "0" * 64
PACKAGE = f"bash=5.2.15-2+b7 sha256:{SHA}"


def kernel_of(lab: Lab, name: str, release: str = "6.1.0-56-amd64") -> LockedKernel:
    part = Part(name=f"linux-image-{release}", version="6.1.192-1", sha256=SHA, size=5)
    return LockedKernel(
        asked=asked(lab.file.kernels[name]),
        kernel=ResolvedKernel(release=release, version="6.1.192", origin="here", parts=(part,)),
        vmlinuz=SHA,
        config=SHA,
    )


def lock_of(lab: Lab, *names: str) -> Lock:
    images = {lab.file.kernels[name].image for name in names}
    return Lock(
        images={image: LockedImage(packages=(PACKAGE,)) for image in sorted(images)},
        kernels={name: kernel_of(lab, name) for name in names},
    )


def plan_of(lab: Lab, *names: str, lock: Lock | None = None) -> Plan:
    return resolve_plan(
        lab,
        kernels=names,
        scenarios=lab.scenarios,
        recipes={entry.image: load_recipe(lab, entry.image) for entry in lab.file.kernels.values()},
        known={},
        jobs=2,
        lock=lock,
    )


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return demo_lab(tmp_path)


# --- written and read back -------------------------------------------------------------------

# Text that one reader of YAML or another takes for something else.
ODD = ["6.10", "1e5", "12e4", "0o17", "0x10", "0644", "1_000", "2026-01-02", "1.0", "no", "true",
       "null", "on", "5.10", "007", "1e0", "y", "Infinity", "00e00"]  # fmt: skip
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,20}\Z") | st.sampled_from(ODD)
releases = st.from_regex(r"\A[0-9][A-Za-z0-9._+~-]{0,20}\Z") | st.sampled_from(ODD)
versions = st.from_regex(r"\A[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?([+~-][a-z0-9.+~]{0,9})?\Z")
shas = st.text("0123456789abcdef", min_size=64, max_size=64) | st.integers(0, 63).map(
    lambda at: "1" * at + "e" + "2" * (63 - at)
)
lines = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30
) | st.sampled_from([*ODD, " x ", "- x", "a: b", "#", "'", '"', "\u2028", "\ufeff", "~", "=", "%"])
parts = st.builds(
    Part,
    name=names | st.sampled_from(["my linux", ".linux", "linux~1", "ä: #"]),
    version=lines | st.from_regex(r"\A[0-9][0-9.+~-]{0,9}\Z"),
    sha256=shas,
    size=st.integers(0, 2**40),
    place=st.none() | lines,
)
kernels = st.builds(
    ResolvedKernel,
    release=releases,
    version=versions,
    origin=lines,
    parts=st.lists(parts, max_size=3).map(tuple),
    compiler=st.just("") | lines,
    recipe=st.just("") | lines,
)
plain: st.SearchStrategy[Any] = st.recursive(
    lines | st.just("") | st.booleans() | st.integers(-(2**40), 2**40),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=5,
)
packages = st.builds(
    "{}={} sha256:{}".format,
    st.from_regex(r"\A[a-z0-9][a-z0-9+.-]{0,9}\Z"),
    st.from_regex(r"\A([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,9}\Z"),
    shas,
)
locks = st.builds(
    Lock,
    images=st.dictionaries(
        names,
        st.builds(LockedImage, packages=st.lists(packages, max_size=4).map(tuple)),
        max_size=3,
    ),
    kernels=st.dictionaries(
        names,
        st.builds(
            LockedKernel,
            asked=st.dictionaries(names, plain, max_size=3),
            kernel=kernels,
            vmlinuz=shas,
            config=shas,
        ),
        max_size=3,
    ),
)


@settings(deadline=None)
@given(locks)
def test_a_lock_is_read_back_as_it_was_written(lock: Lock) -> None:
    text = render_lock(lock)
    read = validate_document(Lock, parse_yaml(text.encode(), Path("lab.lock")))
    assert read == lock
    assert render_lock(read) == text


def test_a_lock_as_a_person_reads_it(lab: Lab) -> None:
    assert render_lock(lock_of(lab, "6.1-rt")) == (
        f"""\
# Written by `lab lock`; `lab run` uses exactly this. Keep it under version control.
format: 1
images:
  bookworm:
    packages:
    - bash=5.2.15-2+b7 sha256:{SHA}
kernels:
  6.1-rt:
    asked:
      image: bookworm
      version: '6.1'
      flavour: rt-amd64
    kernel:
      release: 6.1.0-56-amd64
      version: 6.1.192
      origin: here
      parts:
      - name: linux-image-6.1.0-56-amd64
        version: 6.1.192-1
        sha256: '{SHA}'
        size: 5
    vmlinuz: '{SHA}'
    config: '{SHA}'
"""
    )


def test_what_an_older_lock_lists_in_another_order_is_the_same(lab: Lab) -> None:
    first, second = (f"{name}=1 sha256:{SHA}" for name in ("a", "b"))
    assert LockedImage(packages=(second, first, second)) == LockedImage(packages=(first, second))
    assert load_lock(lab) is None


# --- damaged ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format: 1", "format: 2", "lab.lock:2:9: "),
        ("format: 1\n", "format: 1\nnote: x\n", "lab.lock:3:1: unknown key 'note'"),
        ("release: 6.1.0-56-amd64", "release: ../../x", "lab.lock:14:16: .*is not what `uname -r`"),
        ("release: 6.1.0-56-amd64", "release: -x", "lab.lock:14:16: .*is not what `uname -r`"),
        ("version: 6.1.192\n", "version: six\n", "lab.lock:15:16: 'six' is not a kernel version"),
        ("      origin: here\n", "", "lab.lock:14:7: key 'origin' is missing"),
        ("name: linux-image-6", "name: -oAcquire::x", "lab.lock:18:15: .* is not a file's name"),
        ("name: linux-image-6", "name: ../etc/x", "lab.lock:18:15: .* is not a file's name"),
        ("size: 5", "size: -5", "lab.lock:21:15: the number -5 must be at least 0"),
        ("size: 5", "size: five", "lab.lock:21:15: found the text 'five'"),
        (f"config: '{SHA}'", "config: '00'", r"lab.lock:23:13: the text '00' is not a SHA-256"),
        (f"config: '{SHA}'", "config:", r"lab.lock:23:5: nothing is given for 'config'"),
        (f"=5.2.15-2+b7 sha256:{SHA}", "", "lab.lock:6:7: the text 'bash' is not a package"),
        ("kernels:", "kernels: [", "lab.lock:9:"),
        ("kernels:", "<<<<<<< HEAD\nkernels:", "lab.lock:7:1: "),
        ("images:", "images:\n  bookworm: {packages: []}", "lab.lock:5:3: key 'bookworm' is there"),
    ],
)
def test_a_damaged_lock_is_told_with_its_place(lab: Lab, old: str, new: str, said: str) -> None:
    text = render_lock(lock_of(lab, "6.1-rt"))
    assert text.count(old) == 1
    lock_path(lab).write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_lock(lab)
    assert re.match(rf".*{said}", caught.value.message), caught.value.message
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("text", ["", "[]", "x", "\x00", "format: 1\n"])
def test_a_file_that_is_no_lock_is_told(lab: Lab, text: str) -> None:
    lock_path(lab).write_text(text)
    with pytest.raises(ConfigError, match=r"lab\.lock:\d+:\d+: "):
        load_lock(lab)


def test_a_lock_is_beside_its_lab(lab: Lab) -> None:
    assert lock_path(lab) == lab.path.parent / "lab.lock"
    lock = lock_of(lab, "5.4", "6.1")
    lock_path(lab).write_text(render_lock(lock))
    assert load_lock(lab) == lock


# --- does it fit -----------------------------------------------------------------------------


def test_what_is_locked_is_found(lab: Lab) -> None:
    lock = lock_of(lab, "5.4", "6.1")
    pinned = find_pinned(lab, lock, "6.1")
    assert (pinned.kernel, pinned.image) == (lock.kernels["6.1"], lock.images["bookworm"])


def test_a_kernel_that_is_not_in_the_lock_is_told(lab: Lab) -> None:
    with pytest.raises(ConfigError) as caught:
        find_pinned(lab, lock_of(lab, "5.4"), "6.1")
    assert caught.value.render() == (
        "kernel '6.1' of lab.yaml is not in lab.lock: nothing is put in its place\n"
        "  hint: `lab lock` brings lab.lock up to date, and keeps what fits"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('6.1"}', '6.2"}'),
        ('6.1"}', '6.1", flavour: amd64}'),
        ('6.1"}', '6.1", package: linux-image-6.1.0-9-amd64}'),
        ('bookworm, version: "6.1"}', 'trixie, version: "6.1"}'),
    ],
)
def test_an_entry_that_changed_is_told(tmp_path: Path, lab: Lab, old: str, new: str) -> None:
    lock = lock_of(lab, "6.1")
    assert LAB.count(old) == 1
    write_lab(tmp_path, lab=LAB.replace(old, new))
    changed = load_lab(tmp_path / "lab.yaml", entry_types())
    with pytest.raises(ConfigError) as caught:
        find_pinned(changed, lock, "6.1")
    assert caught.value.message.startswith(
        "kernel '6.1' was locked as {image: bookworm, version: 6.1}, lab.yaml now says {image: "
    )


def test_whether_a_kernel_is_optional_changes_not_which_it_is(tmp_path: Path, lab: Lab) -> None:
    lock = lock_of(lab, "6.1")
    write_lab(tmp_path, lab=LAB.replace('version: "6.1"}', 'version: "6.1", optional: true}'))
    changed = load_lab(tmp_path / "lab.yaml", entry_types())
    assert changed.file.kernels["6.1"].optional
    assert find_pinned(changed, lock, "6.1").kernel == lock.kernels["6.1"]


def test_a_lock_without_the_image_is_told(lab: Lab) -> None:
    lock = lock_of(lab, "6.1").model_copy(update={"images": {}})
    with pytest.raises(ConfigError, match=r"image 'bookworm' is not in lab\.lock"):
        find_pinned(lab, lock, "6.1")


class ListEntry(KernelEntry):
    words_of_it: tuple[str, ...]
    more: dict[str, tuple[int, ...]]


def test_an_entry_with_lists_fits_what_was_written_of_it() -> None:
    entry = ListEntry(image="x", words_of_it=("a", "1e5"), more={"b": (1, 2)})
    lock = Lock(
        images={},
        kernels={
            "k": LockedKernel(
                asked=asked(entry),
                kernel=ResolvedKernel(release="6.1", version="6.1", origin="x", parts=()),
                vmlinuz=SHA,
                config=SHA,
            )
        },
    )
    read = validate_document(Lock, parse_yaml(render_lock(lock).encode(), Path("x")))
    assert read.kernels["k"].asked == asked(entry)


# --- in a plan -------------------------------------------------------------------------------


def test_a_plan_with_a_lock_plays_what_is_locked(lab: Lab) -> None:
    lock = lock_of(lab, "6.1")
    plan = plan_of(lab, "6.1", lock=lock).kernels[0]
    assert plan.known == lock.kernels["6.1"].kernel
    assert plan.pinned is not None
    assert [bool(cell.skip) for cell in plan.cells] == [False, False, True]


def test_only_the_kernels_of_the_plan_must_fit(lab: Lab) -> None:
    lock = lock_of(lab, "6.1")
    plan_of(lab, "6.1", lock=lock)
    with pytest.raises(ConfigError, match=r"kernel '5\.4' of lab\.yaml is not in"):
        plan_of(lab, "5.4", "6.1", lock=lock)


def test_what_fits_is_pinned_and_nothing_else(tmp_path: Path, lab: Lab) -> None:
    lock = lock_of(lab, "5.4", "6.1")
    write_lab(tmp_path, lab=LAB.replace('version: "5.4"', 'version: "5.15"'))
    changed = load_lab(tmp_path / "lab.yaml", entry_types())
    plan = pin_what_fits(plan_of(changed, "5.4", "6.1", "7.x"), lock)
    assert [kernel.pinned is not None for kernel in plan.kernels] == [False, True, False]
    assert [kernel.known for kernel in plan.kernels] == [None, lock.kernels["6.1"].kernel, None]
    assert replace(plan, kernels=()) == replace(plan_of(changed, "6.1"), kernels=())


# --- what changed in a userland --------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ([], [], []),
        (["a=1 sha256:x"], ["a=1 sha256:x"], []),
        (["a=1 sha256:x"], ["a=2 sha256:y"], ["a: locked 1, found 2"]),
        (["a=1 sha256:x"], [], ["a: locked 1, found none"]),
        ([], ["a=1:2~rc+b1 sha256:x"], ["a: locked none, found 1:2~rc+b1"]),
        (
            ["a=1 sha256:x"],
            ["a=1 sha256:y"],
            ["a: another 1 than the locked one, by its hash"],
        ),
        (
            ["b=1 sha256:x", "a=1 sha256:x"],
            ["a=2 sha256:x", "b=2 sha256:x"],
            ["a: locked 1, found 2", "b: locked 1, found 2"],
        ),
    ],
)
def test_what_changed_in_a_userland_is_told(
    was: list[str], now: list[str], said: list[str]
) -> None:
    assert changed_packages(tuple(was), tuple(now)) == tuple(said)
