"""A lab's lock from end to end: with an archive that goes on, loses, lies, or is out of reach."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.adapters import apt as apt_module
from orchestrator.adapters.cache import Cache
from orchestrator.adapters.images import Image, find_image
from orchestrator.adapters.kernels import BOOT_MODULES, Kernel
from orchestrator.adapters.sources import entry_types
from orchestrator.doors import doctor
from orchestrator.doors.cli import main
from orchestrator.doors.planning import make_plan
from orchestrator.foundation.errors import ConfigError, SourceError
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.lock import Lock, load_lock, lock_path, render_lock
from orchestrator.plan.model import Lab
from orchestrator.plan.outcome import KernelResult, Outcome
from orchestrator.plan.paths import RunDir, tool_dir
from orchestrator.plan.plan import Plan
from orchestrator.policy.capacity import Slots
from orchestrator.policy.events import Event
from orchestrator.policy.locking import check_lock, make_lock, pin_what_fits
from orchestrator.policy.preparing import fetch
from orchestrator.policy.worker import Worker
from tests.contract.mirror import Archive, Deb, Fault, Mirror, serve
from tests.contract.openpgp import SigningKey

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not all(
            shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")
            for tool in ("apt-get", "dpkg-deb", "depmod", "mksquashfs", "sqfstar")
        ),
        reason="needs apt, kmod and squashfs-tools",
    ),
]

KEY = SigningKey("Archive <archive@example.org>")
LAB = """\
lab: demo
kernels:
  "6.1": {image: testy, version: "6.1"}
  "6.5": {image: testy, version: "6.5"}
scenarios: [scenarios/*.yaml]
"""
RECIPE = """\
distribution: debian
release: testy
keyring: {file: test-keyring.gpg, package: test-keyring, release: trixie}
flavour: amd64
packages: [bash]
"""
SCENARIOS = """\
scenarios:
  uname:
    steps:
      - run: uname -r
"""


def bootable(release: str, version: str, kernel: str = "") -> list[Deb]:
    """A kernel in two packages, with all that makes it ready to boot."""
    builtin = "".join(f"kernel/{name}.ko\n" for name in BOOT_MODULES)
    files = {
        f"boot/vmlinuz-{release}": kernel or f"the kernel {version}",
        f"boot/config-{release}": f"CONFIG_X={version}",
        f"lib/modules/{release}/modules.order": "",
        f"lib/modules/{release}/modules.builtin": builtin,
    }
    headers = {f"usr/src/linux-headers-{release}/Makefile": "all:\n"}
    return [
        Deb(f"linux-image-{release}", version, ("kmod",), files),
        Deb(f"linux-headers-{release}", version, (), headers),
    ]


OLD = bootable("6.1.0-9-amd64", "6.1.27-1")
NEW = bootable("6.1.0-10-amd64", "6.1.38-1")
REBUILT = bootable("6.1.0-9-amd64", "6.1.28-1")
FIVE = bootable("6.5.0-1-amd64", "6.5.6-1~bpo+2")
IMAGE_PLACE = OLD[0].file_name

# Gives what the test laid ready: an apt root whose source is our mirror, or a userland.
STAND_IN = """\
#!/bin/sh
for last; do :; done
case "$*" in
*--variant=essential*) what=userland ;;
*) what=root ;;
esac
echo $what >>{folder}/asked
test -f {folder}/$what.tar || {{ echo "E: no $what here" >&2; exit 1; }}
cp {folder}/$what.tar "$last"
"""


@dataclass
class Bench:
    """A lab, a cache, an archive, and what was said."""

    lab: Lab
    cache: Cache
    mirror: Mirror
    tools: Path
    said: list[Event] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        self.said.append(event)

    @property
    def archive(self) -> Archive:
        return self.mirror.archive

    def publish(self, *kernels: list[Deb]) -> None:
        self.archive.publish("testy", [deb for kernel in kernels for deb in kernel])

    def userland(self, **packages: str) -> None:
        """What installing gives from now on: packages by name, with their versions."""
        lines = "".join(
            f"Package: {name}\nVersion: {version}\nSHA256: {version[-1] * 64}\n"
            for name, version in packages.items()
        )
        members = {"./usr/bin/busybox": "box", "./usr/share/kmod-lab/packages": lines}
        self._pack("userland", members)

    def _pack(self, name: str, members: dict[str, str]) -> None:
        with tarfile.open(self.tools / f"{name}.tar", "w") as tar:
            for member, text in members.items():
                path = self.tools / "member"
                path.write_text(text)
                tar.add(path, member)

    def reload(self, text: str) -> None:
        """The lab's file, changed."""
        self.lab.path.write_text(text)
        self.lab = load_lab(self.lab.path, entry_types())

    def plan(self, *kernels: str, locked: bool = True) -> Plan:
        return make_plan(self.lab, self.cache, kernels=kernels or ("6.1",), jobs=2, locked=locked)

    def write_lock(self, *kernels: str, update: bool = False) -> Lock:
        """What ``lab lock`` does."""
        old = load_lock(self.lab)
        plan = self.plan(*kernels, locked=False)
        if old and not update:
            plan = pin_what_fits(plan, old)
        lock = make_lock(plan, self.cache, self.hear, old, update=update)
        lock_path(self.lab).write_text(render_lock(lock))
        return lock

    def fetch(self, kernel: str = "6.1", cache: Cache | None = None) -> tuple[Kernel, Image]:
        """What a run does before it boots."""
        plan = self.plan(kernel).kernels[0]
        return fetch(self.lab, plan, cache or self.cache, self.hear)

    def cold(self, *, offline: bool = False) -> Cache:
        """Another machine's cache."""
        return Cache(self.cache.root.with_name("cold"), offline=offline)

    def requests(self) -> int:
        """How often anything was asked of the archive, or of mmdebstrap."""
        asked = self.tools / "asked"
        return len(self.mirror.asked) + (len(asked.read_text().split()) if asked.exists() else 0)

    def remarks(self, *kernels: str) -> list[tuple[str, str]]:
        found = check_lock(self.plan(*kernels), self.cache, self.hear)
        return [(remark.kind, remark.text) for remark in found]


@pytest.fixture
def bench(open_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    config = open_dir / "apt.conf"
    config.write_text('Acquire::http::Proxy "false";\nAcquire::Retries::Delay "false";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    tools = open_dir / "tools"
    tools.mkdir()
    (tools / "mmdebstrap").write_text(STAND_IN.format(folder=tools))
    (tools / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    keyrings = open_dir / "keyrings"
    keyrings.mkdir()
    (keyrings / "test-keyring.gpg").write_bytes(KEY.keyring)
    monkeypatch.setattr(apt_module, "HOST_KEYRINGS", keyrings)
    monkeypatch.setattr(doctor, "check_host", lambda: ())
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "lab"
    for name, text in {
        "lab.yaml": LAB.replace("scenarios:", "images: images\nscenarios:"),
        "images/testy.yaml": RECIPE,
        "scenarios/all.yaml": SCENARIOS,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    with serve(Archive(open_dir / "build", KEY)) as mirror:
        lab = load_lab(folder / "lab.yaml", entry_types())
        bench = Bench(lab, Cache(tmp_path / "cache"), mirror, tools)
        source = f"deb [arch=amd64] {mirror.url} testy main\n"
        bench._pack("root", {"./etc/apt/sources.list": source})
        bench.userland(bash="5.2-1")
        bench.publish(OLD, FIVE)
        yield bench


# --- the locked kernel and no other ----------------------------------------------------------


def test_what_is_locked_stays_when_the_archive_goes_on(bench: Bench) -> None:
    lock = bench.write_lock("6.1", "6.5")
    assert list(lock.kernels) == ["6.1", "6.5"]
    assert lock.kernels["6.5"].kernel.release == "6.5.0-1-amd64"
    bench.publish(OLD, NEW, FIVE)
    kernel, image = bench.fetch(cache=bench.cold())
    assert kernel.release == "6.1.0-9-amd64"
    assert kernel.vmlinuz_path.read_text() == "the kernel 6.1.27-1"
    assert image.packages == lock.images["testy"].packages
    # And without the lock, the newest.
    plan = make_plan(bench.lab, bench.cold(), kernels=["6.1"], locked=False).kernels[0]
    assert fetch(bench.lab, plan, bench.cold(), bench.hear)[0].release == "6.1.0-10-amd64"


def test_a_second_lock_changes_nothing(bench: Bench) -> None:
    first = bench.write_lock("6.1", "6.5")
    bench.publish(NEW, FIVE)
    asked = bench.requests()
    assert bench.write_lock("6.1", "6.5") == first
    assert bench.requests() == asked  # all of it is cached


def test_a_package_that_left_the_index_is_fetched_from_its_place(bench: Bench) -> None:
    bench.write_lock()
    bench.publish(NEW)
    assert IMAGE_PLACE in bench.archive.files
    kernel, _ = bench.fetch(cache=bench.cold())
    assert kernel.vmlinuz_path.read_text() == "the kernel 6.1.27-1"
    assert IMAGE_PLACE in bench.mirror.asked


def test_another_version_under_the_same_name_is_no_substitute(bench: Bench) -> None:
    bench.write_lock()
    bench.publish(REBUILT)
    kernel, _ = bench.fetch(cache=bench.cold())
    assert kernel.vmlinuz_path.read_text() == "the kernel 6.1.27-1"


def test_a_package_that_is_gone_for_good_is_named(bench: Bench) -> None:
    bench.write_lock()
    bench.publish(REBUILT)
    bench.archive.drop(IMAGE_PLACE)
    with pytest.raises(SourceError) as caught:
        bench.fetch(cache=bench.cold())
    assert "cannot fetch linux-image-6.1.0-9-amd64=6.1.27-1: " in caught.value.message
    assert "404" in caught.value.message
    assert "`lab lock`" in caught.value.hint
    assert "`lab import`" in caught.value.hint
    assert not list((bench.cold().root / "kernels").iterdir())


@pytest.mark.parametrize("in_index", [True, False], ids=["in the index", "only in the pool"])
@pytest.mark.parametrize("fault", ["lie", "truncate", "broken", "cut"])
def test_a_mirror_that_spoils_the_package_is_refused(
    bench: Bench, fault: Fault, in_index: bool
) -> None:
    bench.write_lock()
    bench.publish(OLD if in_index else NEW)
    bench.mirror.faults[Path(IMAGE_PLACE).name] = fault
    with pytest.raises(SourceError, match=r"cannot fetch linux-image-6\.1\.0-9-amd64=6\.1\.27-1"):
        bench.fetch(cache=bench.cold())
    assert not list((bench.cold().root / "kernels").iterdir())


@pytest.mark.parametrize("signed", [True, False])
def test_other_content_at_the_same_place_is_refused(bench: Bench, signed: bool) -> None:
    """Signed or not: the archive's word is no longer enough, what was locked counts."""
    bench.write_lock()
    other = bootable("6.1.0-9-amd64", "6.1.27-1", kernel="another")
    if signed:
        shutil.rmtree(bench.archive.folder)
        bench.publish(other)
    else:
        bench.archive.files[IMAGE_PLACE] = bench.archive.files[OLD[1].file_name]
    with pytest.raises(
        SourceError, match=r"cannot fetch linux-(image|headers)-6\.1\.0-9-amd64=6\.1\.27-1"
    ):
        bench.fetch(cache=bench.cold())


def test_a_lock_that_names_another_kernel_file_is_refused(bench: Bench) -> None:
    lock = bench.write_lock()
    spoilt = lock.kernels["6.1"].model_copy(update={"vmlinuz": "0" * 64})
    bench.archive.publish("testy", [])
    lock_path(bench.lab).write_text(
        render_lock(lock.model_copy(update={"kernels": {"6.1": spoilt}}))
    )
    with pytest.raises(SourceError, match=r"kernel file of 6\.1\.0-9-amd64 is not the locked one"):
        bench.fetch()


def test_one_archive_of_two_that_lies_does_no_harm(bench: Bench) -> None:
    """As Debian's has: one for the release, one for its security updates."""
    bench.write_lock()
    bench.publish(NEW)
    with serve(Archive(bench.tools / "liar", KEY)) as liar:
        liar.archive.publish("testy", [])
        liar.archive.files[IMAGE_PLACE] = b"x" * len(bench.archive.files[IMAGE_PLACE])
        urls = (liar.url, bench.mirror.url)
        sources = "".join(f"deb [arch=amd64] {url} testy main\n" for url in urls)
        bench._pack("root", {"./etc/apt/sources.list": sources})
        kernel, _ = bench.fetch(cache=bench.cold())
    assert kernel.vmlinuz_path.read_text() == "the kernel 6.1.27-1"
    assert IMAGE_PLACE in liar.asked


# --- offline ---------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", [True, False])
def test_offline_with_a_cold_cache_says_so_and_asks_nobody(bench: Bench, locked: bool) -> None:
    if locked:
        bench.write_lock()
    asked = bench.requests()
    with pytest.raises(SourceError, match="--offline forbids the network") as caught:
        bench.fetch(cache=bench.cold(offline=True))
    assert "`lab import`" in caught.value.hint
    assert bench.requests() == asked


@pytest.mark.parametrize("missing", ["kernels", "images"])
def test_offline_with_half_a_cache_says_what_is_missing(bench: Bench, missing: str) -> None:
    bench.write_lock()
    shutil.rmtree(bench.cache.root / missing)
    asked = bench.requests()
    said = {"kernels": "linux-headers-6.1.0-9-amd64=6.1.27-1", "images": "the userland of testy"}
    with pytest.raises(SourceError, match=f"^{said[missing]} is not in the cache"):
        bench.fetch(cache=Cache(bench.cache.root, offline=True))
    assert bench.requests() == asked


@pytest.mark.parametrize("locked", [True, False])
def test_offline_with_a_warm_cache_works(bench: Bench, locked: bool) -> None:
    if locked:
        bench.write_lock()
    first = bench.fetch()
    asked = bench.requests()
    assert bench.fetch(cache=Cache(bench.cache.root, offline=True)) == first
    assert bench.requests() == asked


# --- the userland ----------------------------------------------------------------------------


def test_a_userland_that_changed_is_refused(bench: Bench) -> None:
    bench.userland(bash="5.2-1", strace="6.1-1", dash="1-1")
    bench.write_lock()
    bench.userland(bash="5.2-2", strace="6.1-1")
    with pytest.raises(SourceError) as caught:
        bench.fetch(cache=bench.cold())
    assert caught.value.message == (
        "the archive of testy no longer gives the locked userland: "
        "bash: locked 5.2-1, found 5.2-2; dash: locked 1-1, found none"
    )
    assert "`lab lock --update`" in caught.value.hint
    assert not list((bench.cold().root / "images").iterdir())


def test_a_userland_that_is_cached_otherwise_is_not_taken(bench: Bench) -> None:
    """The cache has an image of the recipe, but of other packages than the locked ones."""
    lock = bench.write_lock()
    bench.userland(bash="5.2-2")
    cold = bench.cold()
    plan = make_plan(bench.lab, cold, kernels=["6.1"], locked=False).kernels[0]
    fetch(bench.lab, plan, cold, bench.hear)
    with pytest.raises(SourceError, match=r"bash: locked 5\.2-1, found 5\.2-2"):
        bench.fetch(cache=cold)
    bench.userland(bash="5.2-1")
    assert bench.fetch(cache=cold)[1].packages == lock.images["testy"].packages
    # Both are kept, each for whom it is.
    assert len(list((cold.root / "images").iterdir())) == 2


def test_a_new_kernel_takes_the_userland_that_is_locked(bench: Bench) -> None:
    first = bench.write_lock("6.1")
    bench.userland(bash="5.2-2")
    shutil.rmtree(bench.cache.root / "images")
    with pytest.raises(SourceError, match=r"bash: locked 5\.2-1, found 5\.2-2"):
        bench.write_lock("6.5")
    bench.userland(bash="5.2-1")
    second = bench.write_lock("6.5")
    assert second.images == first.images
    assert list(second.kernels) == ["6.1", "6.5"]


def test_a_userland_of_no_locked_kernel_is_taken_as_it_is(bench: Bench) -> None:
    bench.write_lock("6.1")
    bench.userland(bash="5.2-2")
    shutil.rmtree(bench.cache.root / "images")
    bench.reload(bench.lab.path.read_text().replace('version: "6.1"', 'version: "6.1.0"'))
    assert bench.write_lock("6.1").images["testy"].packages[0].startswith("bash=5.2-2 ")


def test_an_updated_lock_has_the_userland_of_now(bench: Bench) -> None:
    old = bench.write_lock()
    bench.userland(bash="5.2-2")
    new = bench.write_lock(update=True)
    assert new.images["testy"].packages[0].startswith("bash=5.2-2 ")
    # The old one is kept, for labs that have locked it.
    recipe, tool = bench.plan().kernels[0].recipe, tool_dir()
    image = find_image(bench.cache, recipe, tool, old.images["testy"].packages)
    assert image is not None
    assert image.squashfs_path.exists()
    assert bench.fetch()[1].packages == new.images["testy"].packages


# --- optional --------------------------------------------------------------------------------

OPTIONAL = LAB.replace('"6.1"}', '"6.1", optional: true}').replace(
    "scenarios:", "images: images\nscenarios:"
)


def play(bench: Bench, tmp_path: Path, cache: Cache | None = None) -> KernelResult:
    """A worker that comes to an end before anything would boot."""
    plan = bench.plan("6.1").kernels[0]
    run_dir = RunDir(tmp_path / "run")
    return Worker(bench.lab, plan, cache or bench.cache, run_dir, bench.hear, Slots(1)).run()


@pytest.mark.parametrize("optional", [True, False])
def test_a_kernel_that_cannot_be_had(bench: Bench, tmp_path: Path, optional: bool) -> None:
    bench.publish(FIVE)
    if optional:
        bench.reload(OPTIONAL)
    result = play(bench, tmp_path)
    outcome = Outcome.SKIPPED if optional else Outcome.ERROR
    assert [cell.outcome for cell in result.cells] == [outcome]
    assert "testy offers no amd64 kernel 6.1" in result.cells[0].reason
    assert bool(result.error) is not optional


def test_an_optional_kernel_is_left_out_of_a_lock_that_still_works(
    bench: Bench, tmp_path: Path
) -> None:
    bench.reload(OPTIONAL)
    bench.publish(FIVE)
    lock = bench.write_lock("6.1", "6.5")
    assert list(lock.kernels) == ["6.5"]
    bench.publish(OLD, FIVE)
    asked = bench.requests()
    result = play(bench, tmp_path)
    assert [(cell.outcome, cell.reason) for cell in result.cells] == [
        (Outcome.SKIPPED, "it is optional, and not in lab.lock")
    ]
    assert bench.requests() == asked  # nor is anything put in its place
    with pytest.raises(SourceError, match=r"6\.1: it is optional, and not in lab\.lock"):
        bench.fetch("6.1")
    assert bench.fetch("6.5")[0].release == "6.5.0-1-amd64"
    assert [kind for kind, _ in bench.remarks("6.1", "6.5")] == ["absent", "same"]
    # Once it can be had, it is locked.
    assert list(bench.write_lock("6.1", "6.5").kernels) == ["6.1", "6.5"]


def test_a_locked_kernel_that_is_optional_stays_locked_while_the_archive_is_down(
    bench: Bench,
) -> None:
    bench.reload(OPTIONAL)
    first = bench.write_lock()
    shutil.rmtree(bench.cache.root / "kernels")
    bench.mirror.faults[""] = "gone"
    assert bench.write_lock() == first
    assert bench.write_lock(update=True).kernels == first.kernels


def test_a_kernel_that_must_be_had_stops_the_lock(bench: Bench) -> None:
    bench.publish(FIVE)
    with pytest.raises(SourceError, match=r"^6\.1: testy offers no amd64 kernel 6\.1"):
        bench.write_lock("6.1", "6.5")
    assert not lock_path(bench.lab).exists()


# --- what an older lock holds ----------------------------------------------------------------


def test_kernels_that_were_not_named_are_kept(bench: Bench) -> None:
    first = bench.write_lock("6.1", "6.5")
    bench.publish(NEW, FIVE)
    bench.plan(locked=False)
    assert bench.write_lock("6.5") == first


def test_a_kernel_that_left_the_lab_leaves_the_lock(bench: Bench) -> None:
    bench.write_lock("6.1", "6.5")
    text = bench.lab.path.read_text()
    bench.reload("".join(line for line in text.splitlines(True) if '"6.5"' not in line))
    assert list(bench.write_lock("6.1").kernels) == ["6.1"]


def test_a_lock_that_lost_an_image_is_mended(bench: Bench) -> None:
    first = bench.write_lock("6.1", "6.5")
    lock_path(bench.lab).write_text(render_lock(first.model_copy(update={"images": {}})))
    assert list(bench.write_lock("6.5").kernels) == ["6.5"]
    assert bench.write_lock("6.1", "6.5") == first


def test_a_kernel_that_asks_for_something_else_does_not_fit(bench: Bench) -> None:
    bench.write_lock("6.1", "6.5")
    bench.reload(bench.lab.path.read_text().replace('version: "6.1"', 'version: "6"'))
    with pytest.raises(
        ConfigError, match=r"kernel '6\.1' was locked as \{image: testy, version: 6\.1\}"
    ):
        bench.plan("6.1")
    assert bench.plan("6.5").kernels[0].pinned


# --- what upstream says ----------------------------------------------------------------------


def test_a_lock_that_is_up_to_date_says_so(bench: Bench) -> None:
    bench.write_lock("6.1", "6.5")
    assert bench.remarks("6.1", "6.5") == [("same", "6.1.0-9-amd64"), ("same", "6.5.0-1-amd64")]


def test_a_newer_kernel_is_remarked(bench: Bench) -> None:
    bench.write_lock()
    bench.publish(OLD, NEW)
    assert bench.remarks() == [("newer", "6.1.0-10-amd64 (6.1.38)")]


def test_packages_that_left_the_index_are_remarked(bench: Bench) -> None:
    bench.write_lock()
    bench.publish(NEW)
    assert bench.remarks() == [
        (
            "lost",
            "linux-headers-6.1.0-9-amd64=6.1.27-1, linux-image-6.1.0-9-amd64=6.1.27-1: "
            "not in the index any more",
        ),
        ("newer", "6.1.0-10-amd64 (6.1.38)"),
    ]


def test_a_kernel_without_any_successor_is_lost(bench: Bench) -> None:
    bench.write_lock()
    bench.publish(FIVE)
    assert [kind for kind, _ in bench.remarks()] == ["lost"]


def test_an_archive_out_of_reach_is_unknown_and_asked_once(bench: Bench) -> None:
    bench.write_lock("6.1", "6.5")
    bench.mirror.faults[""] = "gone"
    asked = (bench.tools / "asked").read_text().count("root")
    remarks = bench.remarks("6.1", "6.5")
    assert [kind for kind, _ in remarks] == ["unknown", "unknown"]
    assert all("cannot fetch the package indexes" in text for _, text in remarks)
    assert (bench.tools / "asked").read_text().count("root") == asked + 1
    # What was known before is known still.
    bench.mirror.faults.clear()
    assert bench.fetch()[0].release == "6.1.0-9-amd64"


# --- the command line ------------------------------------------------------------------------

Captured = pytest.CaptureFixture[str]


def narrow(text: str) -> str:
    assert all(len(line) <= 80 for line in text.splitlines()), text
    return text


def lab(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    capsys.readouterr()
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_lab_lock_writes_the_lock(bench: Bench, capsys: Captured) -> None:
    status, out, err = lab(capsys, "lock")
    assert status == 0
    assert narrow(out) == (
        "6.1          6.1.0-9-amd64\n"
        "6.5          6.5.0-1-amd64\n"
        "wrote lab.lock: 2 kernels, 1 image\n"
    )
    assert "getting kernel 6.1.0-9-amd64" in err
    bench.publish(NEW, FIVE)
    assert lab(capsys, "lock")[1] == out
    status, out, _ = lab(capsys, "lock", "--update", "-k", "6.1")
    assert (status, out.splitlines()[0]) == (0, "6.1          6.1.0-10-amd64, was 6.1.0-9-amd64")


def test_lab_lock_that_fails_leaves_the_old_one(bench: Bench, capsys: Captured) -> None:
    lab(capsys, "lock")
    before = lock_path(bench.lab).read_text()
    bench.mirror.faults[""] = "gone"
    status, out, err = lab(capsys, "lock", "--update")
    assert (status, out) == (3, "")
    assert "lab: cannot fetch the package indexes" in err
    assert lock_path(bench.lab).read_text() == before


def test_lab_lock_check(bench: Bench, capsys: Captured) -> None:
    assert lab(capsys, "lock", "--check")[::2] == (
        2,
        "lab: there is no lab.lock: there is nothing to check\n  hint: `lab lock` writes it\n",
    )
    lab(capsys, "lock")
    before = lock_path(bench.lab).read_text()
    assert lab(capsys, "lock", "--check")[:2] == (
        0,
        "6.1          same     6.1.0-9-amd64\n6.5          same     6.5.0-1-amd64\n",
    )
    bench.publish(OLD, NEW, FIVE)
    status, out, _ = lab(capsys, "lock", "--check", "-k", "6.1")
    assert (status, out) == (0, "6.1          newer    6.1.0-10-amd64 (6.1.38)\n")
    bench.publish(FIVE)
    status, out, _ = lab(capsys, "lock", "--check")
    assert status == 1
    assert [line.split()[:2] for line in out.splitlines()] == [["6.1", "lost"], ["6.5", "same"]]
    bench.mirror.faults[""] = "gone"
    status, out, _ = lab(capsys, "lock", "--check", "-k", "6.5")
    assert (status, out.split()[:2]) == (1, ["6.5", "unknown"])
    assert lock_path(bench.lab).read_text() == before


def test_lab_kernels(bench: Bench, capsys: Captured) -> None:
    head = "kernel       image     uname -r                    version    cached    locked\n"
    assert lab(capsys, "kernels", "-k", "6.1") == (
        0,
        head + "6.1          testy     (the newest 6.1 of testy)   -          no        no\n",
        "",
    )
    assert bench.requests() == 0
    lab(capsys, "lock")
    bench.publish(OLD, NEW, FIVE)
    asked = bench.requests()
    status, out, _ = lab(capsys, "kernels")
    assert bench.requests() == asked
    assert (status, out) == (
        0,
        head
        + "6.1          testy     6.1.0-9-amd64               6.1.27     0 MiB     yes\n"
        + "6.5          testy     6.5.0-1-amd64               6.5.6      0 MiB     yes\n",
    )
    narrow(out)
    main(["lock", "--check"])
    status, out, _ = lab(capsys, "kernels", "--offered", "--offline")
    assert status == 0
    assert narrow(out).split("\n\n")[1] == (
        "testy offers:\n"
        "  6.1.27       6.1.0-9-amd64\n"
        "  6.1.38       6.1.0-10-amd64\n"
        "  6.5.6        6.5.0-1-amd64\n"
    )


def test_lab_run_with_update_and_a_lock_is_usage(bench: Bench, capsys: Captured) -> None:
    lab(capsys, "lock", "-k", "6.1")
    asked = bench.requests()
    for arguments in (("run", "--update"), ("run", "--update", "--dry-run")):
        status, out, err = lab(capsys, *arguments)
        assert (status, out) == (2, "")
        assert err == (
            "lab: --update: this lab's kernels are those of lab.lock\n"
            "  hint: `lab lock --update` locks newer ones\n"
        )
    assert lab(capsys, "run", "--update", "--offline")[0] == 2
    assert bench.requests() == asked


@pytest.mark.parametrize(
    "command", [("run",), ("run", "-n"), ("list", "-k", "6.5"), ("kernels",), ("export", "x.tar")]
)
def test_a_lock_that_does_not_fit_is_told(
    bench: Bench, capsys: Captured, command: tuple[str, ...]
) -> None:
    lab(capsys, "lock", "-k", "6.1")
    status, out, err = lab(capsys, *command)
    assert (status, out) == (2, "")
    assert err == (
        "lab: kernel '6.5' of lab.yaml is not in lab.lock: nothing is put in its place\n"
        "  hint: `lab lock` brings lab.lock up to date, and keeps what fits\n"
    )
    lock_path(bench.lab).write_text("format: 1\nkernels: 5\nimages: {}\n")
    status, out, err = lab(capsys, *command)
    assert (status, out) == (2, "")
    assert err.startswith("lab: lab.lock:2:10: ")


def test_lab_export_and_lab_import(
    bench: Bench, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lab(capsys, "export", "bundle.tar")[::2] == (
        2,
        "lab: there is no lab.lock: what to export is not said\n  hint: `lab lock` writes it\n",
    )
    lab(capsys, "lock")
    status, out, _ = lab(capsys, "export", "bundle.tar")
    assert (status, out) == (0, "wrote bundle.tar: 2 kernels, 0 MiB\n")

    cold = bench.cold(offline=True)
    monkeypatch.setenv("LAB_CACHE", str(cold.root))
    status, out, _ = lab(capsys, "import", "bundle.tar")
    assert status == 0
    assert out.splitlines()[-1] == f"imported 3 entries into {cold.root}"
    asked = bench.requests()
    kernel, image = bench.fetch(cache=cold)
    assert kernel.vmlinuz_path.read_text() == "the kernel 6.1.27-1"
    assert image.packages == (f"bash=5.2-1 sha256:{'1' * 64}",)
    assert bench.requests() == asked
    # What came that way can go on.
    assert lab(capsys, "export", "-k", "6.5", "again.tar")[0] == 0


def test_a_userland_that_was_imported_is_found_beside_an_own_one(
    bench: Bench, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out that the error names, on a machine that has made one of the recipe itself."""
    lab(capsys, "lock", "-k", "6.1")
    lab(capsys, "export", "-k", "6.1", "bundle.tar")
    bench.userland(bash="5.2-2")
    cold = bench.cold()
    plan = make_plan(bench.lab, cold, kernels=["6.1"], locked=False).kernels[0]
    fetch(bench.lab, plan, cold, bench.hear)
    with pytest.raises(SourceError, match="no longer gives the locked userland"):
        bench.fetch(cache=cold)
    monkeypatch.setenv("LAB_CACHE", str(cold.root))
    assert lab(capsys, "import", "bundle.tar")[0] == 0
    assert bench.fetch(cache=cold)[1].packages[0].startswith("bash=5.2-1 ")


@pytest.mark.parametrize("missing", ["kernels", "images"])
def test_lab_export_of_what_is_not_cached_is_told(
    bench: Bench, capsys: Captured, missing: str
) -> None:
    lab(capsys, "lock")
    shutil.rmtree(bench.cache.root / missing)
    status, out, err = lab(capsys, "export", "bundle.tar")
    what = {"kernels": "kernel 6.1", "images": "userland of testy"}[missing]
    assert (status, out) == (2, "")
    assert err.startswith(f"lab: the locked {what} is not in the cache\n  hint: `lab lock`")
    assert not Path("bundle.tar").exists()


@pytest.mark.usefixtures("bench")
def test_lab_import_of_what_is_no_bundle_is_told(capsys: Captured) -> None:
    Path("x.tar").write_text("x" * 1000)
    assert lab(capsys, "import", "x.tar")[0] == 2
    assert lab(capsys, "import", "none.tar") == (
        2,
        "",
        "lab: none.tar: No such file or directory\n",
    )
