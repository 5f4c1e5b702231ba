"""Boxes made by the real bubblewrap, as root and as an ordinary user, with prying inmates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import box as box_module
from orchestrator.adapters.box import NOBODY, Box, Limits, opener_hint
from orchestrator.adapters.cache import remove_tree
from orchestrator.foundation import process
from orchestrator.foundation.deadline import Deadline
from orchestrator.foundation.errors import HostError, RunInterruptedError
from tests.root import make_root

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap"),
]

REPO = Path(__file__).resolve().parents[2]


def soon(seconds: float = 30) -> Deadline:
    return Deadline.after(seconds, "a test's box")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = make_root(tmp_path_factory.mktemp("box") / "root")
    try:
        Box(path).check()
    except HostError as error:
        pytest.skip(f"no boxes here: {error.message}")
    yield path
    remove_tree(path)


@pytest.fixture
def box(root: Path) -> Box:
    return Box(root)


def said(box: Box, script: str, **options: object) -> str:
    done = box.run(("sh", "-c", script), deadline=soon(), **options)  # type: ignore[arg-type]
    return (done.stdout + done.stderr).decode()


# --- what is inside ----------------------------------------------------------------------


def test_a_command_gives_what_it_printed_and_its_status(box: Box) -> None:
    done = box.run(("sh", "-c", "echo out; echo err >&2; exit 7"), deadline=soon())
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert done.argv == ("sh", "-c", "echo out; echo err >&2; exit 7")


def test_output_goes_to_a_file_in_order(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "log"
    box.run(("sh", "-c", "echo 1; echo 2 >&2; echo 3"), deadline=soon(), stdout_path=path)
    assert path.read_text() == "1\n2\n3\n"


def test_what_is_bound_is_there_and_only_one_folder_can_be_written(
    box: Box, tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    source.chmod(0o755)
    (source / "a").write_text("hello")
    out.mkdir()
    text = said(
        box,
        "cat /mnt/source/a; cp /mnt/source/a /mnt/out/b; "
        "for d in /mnt/source /mnt / /usr/bin /etc; do touch $d/x 2>&1 || true; done; ls -A /mnt",
        read_only={"/mnt/source": source},
        writable={"/mnt/out": out},
    )
    assert text.startswith("hello")
    assert text.count("ead-only file system") == 5
    assert text.endswith("out\nsource\n")
    assert (out / "b").read_text() == "hello"
    assert [path.name for path in source.iterdir()] == ["a"]


def test_a_covered_folder_shows_nothing_else_of_the_image(box: Box, root: Path) -> None:
    (root / "usr/src/secret").write_text("x")
    assert said(box, "ls /usr/src") == "secret\n"
    assert said(box, "ls /usr/src", read_only={"/usr/src/linux": root / "etc"}) == "linux\n"


def test_nothing_of_the_host_is_visible(
    box: Box, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    (tmp_path / "secret").write_text("x")
    text = said(
        box,
        "env; ls -A / /home /root /sys /run 2>/dev/null; cat /proc/[0-9]*/environ; "
        "cat /proc/1/environ /proc/net/dev; id; cat /proc/sys/kernel/hostname; ls /proc/self/fd",
    )
    assert "SECRET" not in text
    assert "hunter2" not in text
    assert "eth0" not in text
    assert "uid=65534" in text
    assert f"uid={os.getuid()}(" not in text or os.getuid() == NOBODY
    assert "\nbox\n" in text
    assert os.uname().nodename not in text or os.uname().nodename == "box"
    assert "secret" not in said(box, f"ls {tmp_path} 2>/dev/null")


def test_only_its_own_processes_are_there(box: Box) -> None:
    pids = [name for name in said(box, "ls /proc").split() if name.isdigit()]
    assert len(pids) <= 4


def test_the_environment_is_what_was_given(box: Box) -> None:
    lines = set(said(box, "env", env={"V": "1 2"}).splitlines())
    assert {"V=1 2", "HOME=/tmp", "LC_ALL=C"} <= lines
    assert not any(line.startswith(("USER=", "LOGNAME=", "SSH_", "XDG_")) for line in lines)


def test_it_has_no_capability_and_gets_none(box: Box) -> None:
    text = said(box, "grep -E '^(CapEff|CapPrm|CapAmb|NoNewPrivs)' /proc/self/status")
    assert text.split() == [
        *("CapPrm:", "0000000000000000", "CapEff:", "0000000000000000"),
        *("CapAmb:", "0000000000000000", "NoNewPrivs:", "1"),
    ]


def test_it_is_nobody_by_every_measure(box: Box) -> None:
    text = said(box, "grep -E '^(Uid|Gid|Groups)' /proc/self/status")
    ids = [word for word in text.split() if word.isdigit()]
    assert set(ids) == {str(NOBODY)}
    assert len(ids) >= 8


def test_a_device_cannot_be_made_or_opened(box: Box, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text = said(box, "mknod /mnt/out/sda b 8 0 2>&1; ls /dev", writable={"/mnt/out": out})
    assert "not permitted" in text
    assert not {"sda", "vda", "kvm", "mem", "kmsg"} & set(text.split())


def test_kernel_settings_cannot_be_changed(box: Box) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    text = said(
        box, "echo '|/mnt/out/x' > /proc/sys/kernel/core_pattern; echo c > /proc/sysrq-trigger"
    )
    assert "core_pattern" in text
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_what_is_bound_cannot_be_left_by_a_link(box: Box, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "secret").write_text("hunter2")
    (out / "link").symlink_to(tmp_path / "secret")
    text = said(box, "cat /mnt/out/link /mnt/out/../secret 2>&1", writable={"/mnt/out": out})
    assert "hunter2" not in text


# --- a layer over the root ---------------------------------------------------------------


@pytest.fixture
def layer(root: Path, tmp_path: Path) -> Path:
    """A layer with a new folder at the top, one among the root's, and files in place of others."""
    for name in ("usr/lib/below/old", "usr/lib/both/old", "usr/lib/replaced"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"root's {name}\n")
    path = tmp_path / "layer"
    for name in ("usr/lib/above/new", "usr/lib/both/new", "usr/lib/replaced", "lab/src/x"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"layer's {name}\n")
    (path / "usr/lib/link").symlink_to("above")
    (path / "bin/hidden").mkdir(parents=True)  # the root has a link there
    (path / "usr/share").mkdir()
    for folder in (path, *path.rglob("*"), *(root / "usr/lib").rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)
    return path


def test_a_layer_is_seen_with_the_root_below_it(root: Path, layer: Path) -> None:
    text = said(
        Box(root, layer=layer),
        "cd /usr/lib; cat below/old both/old above/new both/new replaced link/new /lab/src/x; "
        "ls -A both; ls -d /bin/hidden; test -L /bin && echo a link; grep nobody /etc/passwd",
    )
    assert text.startswith(
        "root's usr/lib/below/old\nroot's usr/lib/both/old\nlayer's usr/lib/above/new\n"
        "layer's usr/lib/both/new\nlayer's usr/lib/replaced\nlayer's usr/lib/above/new\n"
        "layer's lab/src/x\nnew\nold\n"
    )
    assert "/bin/hidden'" in text  # in the words of ls, which did not find it
    assert "a link\nnobody:x:65534" in text


def test_with_a_layer_nothing_more_can_be_written(root: Path, layer: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text = said(
        Box(root, layer=layer),
        "for d in / /usr /usr/lib /usr/lib/both /usr/lib/above /lab /etc; do touch $d/x 2>&1; "
        "done; touch /lab/src/y && ls /lab/src; ls -A /tmp; touch /tmp/z && ls /tmp; "
        "cat /proc/self/comm; ls /dev/null",
        writable={"/lab/src": out},
    )
    assert text.count("ead-only file system") == 7
    assert text.endswith("y\nz\ncat\n/dev/null\n")
    assert [path.name for path in out.iterdir()] == ["y"]


def test_a_layers_links_do_not_lead_out_of_the_box(root: Path, layer: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (layer / "usr/lib/out").symlink_to(tmp_path)
    (layer / "usr/lib/both/secret").symlink_to(tmp_path / "secret")
    os.mkfifo(layer / "usr/lib/pipe")
    text = said(Box(root, layer=layer), "cat /usr/lib/out/secret /usr/lib/both/secret; ls /usr/lib")
    assert "hunter2" not in text
    assert "pipe" not in text.split()


# --- ends --------------------------------------------------------------------------------


def running(word: str) -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and word.encode() in _cmdline(pid)]


def _cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def gone(word: str) -> bool:
    end = time.monotonic() + 5
    while running(word) and time.monotonic() < end:
        time.sleep(0.05)
    return not running(word)


@pytest.mark.usefixtures("no_leaks")
def test_what_it_leaves_running_ends_with_it(box: Box) -> None:
    done = box.run(("sh", "-c", "sleep 987.1 >/dev/null 2>&1 & true"), deadline=soon())
    assert done.status == 0
    assert gone("987.1")


@pytest.mark.usefixtures("no_leaks")
def test_the_deadline_ends_all_of_it(box: Box) -> None:
    with pytest.raises(HostError, match="did not end by its deadline"):
        box.run(("sh", "-c", "sleep 987.2 & sleep 987.2"), deadline=soon(1.5))
    assert gone("987.2")


def test_a_watch_ends_it(box: Box) -> None:
    def look() -> None:
        raise HostError("full")

    with pytest.raises(HostError, match="full"):
        box.run(("sleep", "987.3"), deadline=soon(), watch=look)
    assert gone("987.3")


def test_nothing_starts_once_the_run_is_ended(box: Box) -> None:
    process.stop_all()
    with pytest.raises(RunInterruptedError):
        box.run(("true",), deadline=soon())


def test_limits_hold(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    small = Box(root, limits=Limits(file_mib=1))
    done = small.run(
        ("sh", "-c", "cat /dev/zero > /mnt/out/big"), deadline=soon(), writable={"/mnt/out": out}
    )
    assert done.status != 0
    assert (out / "big").stat().st_size == 1 << 20


def test_tmp_is_in_memory_and_bounded(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_module, "TMP_BYTES", 1 << 20)
    assert "No space left" in said(box, "cat /dev/zero > /tmp/big")


# --- what cannot be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/x",
        "/",
        "mnt/x",
        "/mnt/../x",
        "/mnt//x",
        "/mnt/x/",
        "/proc/x",
        "/dev/x",
        "/none/x",
        "/bin/x",
    ],
)
def test_nothing_is_bound_where_it_would_break_the_walls(
    box: Box, tmp_path: Path, target: str
) -> None:
    with pytest.raises(ValueError, match="nothing can be bound"):
        box.run(("true",), deadline=soon(), read_only={target: tmp_path})


def test_a_source_that_is_gone(box: Box, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="not there"):
        box.run(("true",), deadline=soon(), read_only={"/mnt/x": tmp_path / "gone"})


def test_a_root_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no root file system"):
        Box(tmp_path).run(("true",), deadline=soon())


def test_a_command_that_is_not_there(box: Box) -> None:
    done = box.run(("sh", "-c", "no-such-command"), deadline=soon())
    assert done.status == 127


def test_a_command_that_speaks_as_bubblewrap(box: Box) -> None:
    done = box.run(("sh", "-c", "echo bwrap: denied >&2; exit 1"), deadline=soon())
    assert (done.status, done.stderr) == (1, b"bwrap: denied\n")


def test_no_bubblewrap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_module, "TOOL", "bwrap-that-nobody-has")
    with pytest.raises(HostError, match="bwrap-that-nobody-has") as caught:
        Box(root).run(("true",), deadline=soon())
    assert "bubblewrap" in caught.value.hint


@pytest.mark.parametrize(
    ("message", "denied"),
    [
        ("bwrap: setting up uid map: Permission denied", True),
        ("bwrap: No permissions to create new namespace, likely because …", True),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", True),
        ("bwrap: Can't mount proc on /newroot/proc: Permission denied", False),
    ],
)
def test_a_refusal_is_told_from_a_failure(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, denied: bool
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(f'#!/bin/sh\necho "{message}" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(box_module, "TOOL", str(fake))
    with pytest.raises(HostError) as caught:
        Box(root).run(("true",), deadline=soon())
    assert message in caught.value.message
    assert ("refuses" in caught.value.message) is denied
    assert bool(caught.value.hint) is denied


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
        ("user/max_user_namespaces", "0", "max_user_namespaces=10000"),
        ("user/max_user_namespaces", "100", "container"),
    ],
)
def test_the_switch_that_is_closed_is_named(
    tmp_path: Path, name: str, value: str, hint: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(f"{value}\n")
    assert hint in opener_hint(tmp_path)


# --- the other kind of user --------------------------------------------------------------

AS_USER = """
import sys
from pathlib import Path
from orchestrator.adapters.box import Box
from orchestrator.foundation.deadline import Deadline
out = Path(sys.argv[2])
layer = Path(sys.argv[3]) if len(sys.argv) > 3 else None
done = Box(Path(sys.argv[1]), layer=layer).run(
    ("sh", "-c", "id -u; touch /mnt/out/x; unshare -U true 2>&1; grep CapEff /proc/self/status"),
    deadline=Deadline.after(30, "x"), writable={"/mnt/out": out})
print(done.stdout.decode(), done.stderr.decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are this one for a user")
@pytest.mark.parametrize("layered", [False, True])
def test_an_ordinary_user_has_the_same_walls(root: Path, open_dir: Path, layered: bool) -> None:
    copied = open_dir / "root"
    shutil.copytree(root, copied, symlinks=True)
    shutil.copytree(REPO / "orchestrator", open_dir / "orchestrator")
    (open_dir / "orchestrator").chmod(0o755)
    out = open_dir / "out"
    out.mkdir()
    os.chown(out, 12345, 12345)
    layer = open_dir / "layer"
    (layer / "usr/lib/more").mkdir(parents=True)
    (layer / "lab").mkdir()
    argv = (
        *("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--"),
        *(_open_python(), "-c", AS_USER, str(copied), str(out)),
        *((str(layer),) if layered else ()),
    )
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        cwd=open_dir,
        check=False,
        timeout=50,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(open_dir), "HOME": "/nonexistent"},
    )
    if "refuses bubblewrap" in done.stderr:
        pytest.skip("this machine gives an ordinary user no namespaces")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("65534\n")
    assert "unshare: " in done.stdout  # no user namespace inside the box's
    assert "CapEff:\t0000000000000000" in done.stdout
    assert (out / "x").stat().st_uid == 12345


def _open_python() -> str:
    """A Python that an ordinary user can run: root's virtual environment may be closed."""
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    return found or sys.executable
