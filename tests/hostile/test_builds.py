"""A Makefile that means ill, where the host builds modules: in a box.

What a box shows, and that all but one folder is read-only, is in tests/contract/test_box.py and
test_hostbuild.py; here a build tries to get out, to stay, and to take more than it is given.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.adapters import box as box_module
from orchestrator.adapters import hostbuild
from orchestrator.adapters.box import Box
from orchestrator.adapters.cache import remove_tree
from orchestrator.adapters.hostbuild import HostBuilder, complete_tree
from orchestrator.adapters.kbuild import load_sources
from orchestrator.foundation.errors import BuildError, HostError, LabError
from tests.contract.test_hostbuild import KO, RELEASE, make_image_root, make_layer
from tests.hostile.conftest import BY_NIGHT, MIB, Peak

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap"),
]

SECRET = "hunter2-" + secrets.token_hex(8)
Build = Callable[..., str]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A root with a few programs, and a tree whose Makefile runs what stands beside the module."""
    folder = tmp_path_factory.mktemp("builds")
    root, tree = make_image_root(folder / "root"), make_layer(folder / "tree")
    complete_tree(tree, RELEASE)
    try:
        Box(root).check()
    except HostError as error:
        pytest.skip(f"no boxes here: {error.message}")
    yield root, tree
    remove_tree(root)


@pytest.fixture
def build(
    parts: tuple[Path, Path], open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Build]:
    """Builds a module whose Makefile runs a script of Perl; what it printed."""
    monkeypatch.setenv("HOSTILE_SECRET", SECRET)
    source, work = open_dir / "evil", open_dir / "work"
    source.mkdir()
    work.mkdir()
    (source / "evil.mod.in").write_bytes(KO)
    (source / "also").write_text("perl evil.pl")

    def run(script: str, seconds: float = 60) -> str:
        (source / "evil.pl").write_text(script)
        builder = HostBuilder(*parts, work, RELEASE, seconds)
        try:
            builder.build(load_sources("evil", source), open_dir / "out")
        finally:
            remove_tree(work)
            work.mkdir()
        return (open_dir / "out/build.log").read_text(errors="replace")

    yield run
    assert {path.name for path in open_dir.iterdir()} <= {"evil", "work", "out"}
    assert {path.name for path in open_dir.glob("out/*")} <= {
        "build.log",
        "evil.ko",
        "Module.symvers",
    }
    assert not any(path.is_symlink() for path in open_dir.rglob("*"))


# --- what it can learn -----------------------------------------------------------------------

LOOK = r"""
opendir(my $processes, "/proc");
my @of = map { ("/proc/$_/environ", "/proc/$_/cmdline", "/proc/$_/root/etc/shadow") }
    grep { /^\d+$/ } readdir $processes;
for my $path (@of, "/etc/shadow", "/proc/1/environ", "/proc/1/maps", "/proc/kcore",
    "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/proc/keys", "/proc/self/environ", @ARGV, {paths}) {
    open(my $file, "<", $path) or next;
    local $/;
    my $text = <$file> // "";
    print "READ $path ", length $text, "\n";
    print "SECRET in $path\n" if $text =~ /hunter2/;
    print "HASH in $path\n" if $text =~ /\$[0-9y]\$/;
}
print "SECRET in the environment\n" if grep { /hunter2/ } values %ENV;
for my $folder (qw(/root /home /run /var /srv /proc/1/root /proc/1/cwd /proc/self/fd)) {
    opendir(my $dir, $folder) or next;
    print "LISTED $folder: ", join(" ", grep { !/^\.\.?$/ } readdir $dir), "\n";
}
"""


def test_it_reads_no_secret_of_the_machine(build: Build, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    paths = [str(secret), str(Path.home() / ".ssh/id_rsa"), str(Path.home() / ".bash_history")]
    paths += [
        f"/proc/1/root{secret}",
        f"/proc/self/root/..{secret}",
        f"/proc/{os.getpid()}/environ",
    ]
    said = build(LOOK.replace("{paths}", ", ".join(f"'{path}'" for path in paths)))
    assert "READ /proc/self/environ" in said  # it did look
    assert "SECRET" not in said
    assert "HASH" not in said
    assert "LISTED /root" not in said.replace("LISTED /root: \n", "")
    assert "LISTED /home: \n" in said


KEYRING = r"""
my ($kind, $name) = ("user", "{name}");
my $key = syscall(250, 10, -3, $kind, $name, 0);  # KEYCTL_SEARCH in the session's keyring
my $own = syscall(250, 10, -4, $kind, $name, 0);  # and in the user's
my $text = "\0" x 100;
for my $found ($key, $own) {
    print "FOUND\n" if $found > 0;
    print "SECRET $text\n" if $found > 0 && syscall(250, 11, $found, $text, 100) > 0;
}
print "looked\n";
"""
_ADD_KEY, _KEYCTL, _REVOKE, _SESSION = 248, 250, 3, -3


def test_it_reads_no_key_of_the_session(build: Build) -> None:
    """The kernel keeps tickets and keys of file systems for a session, in no file at all."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = f"hostile-{secrets.token_hex(8)}".encode()
    key = libc.syscall(_ADD_KEY, b"user", name, SECRET.encode(), len(SECRET), _SESSION)
    if key < 0:
        pytest.skip("this machine has no keyrings")
    try:
        said = build(KEYRING.replace("{name}", name.decode()))
    finally:
        libc.syscall(_KEYCTL, _REVOKE, key)
    assert "looked" in said
    assert "FOUND" not in said
    assert SECRET not in said


# --- whom it can reach -----------------------------------------------------------------------

REACH = r"""
for my $host (split / /, "{hosts}") {
    for my $kind (1, 2) {  # TCP, UDP
        socket(my $sock, 2, $kind, 0) or print("no socket: $!\n"), next;
        my $to = pack("Snx0C4x8", 2, {port}, split /[.]/, $host);
        connect($sock, $to) and syswrite($sock, "evil\n") or next;
        print "CONNECTED to $host\n" if $kind == 1;  # a datagram says nothing of its end
    }
}
for my $path ("{unix}", "\0{abstract}", "/run/docker.sock", "/var/run/docker.sock",
    "/run/dbus/system_bus_socket", "/tmp/.X11-unix/X0", "\0/tmp/.X11-unix/X0") {
    socket(my $sock, 1, 1, 0) or next;
    connect($sock, pack("Sa*", 1, $path)) and print "CONNECTED to a socket\n";
}
socket(my $route, 16, 3, 0) and print "netlink is its own\n";
open(my $devices, "<", "/proc/net/dev");
print "DEVICE $_" for grep { /:/ && !/^\s*lo:/ } <$devices>;
socket(my $raw, 2, 3, 1) and print "RAW socket\n";
socket(my $packet, 17, 3, 0x300) and print "PACKET socket\n";
if (socket(my $vsock, 40, 1, 0)) {
    connect($vsock, pack("SSLLx4", 40, 0, {port}, $_)) and print "CONNECTED by vsock\n" for 1, 2;
}
print "tried\n";
"""


def test_it_reaches_nobody(build: Build, tmp_path: Path) -> None:
    """With a TCP server, a UDP one, and one on each kind of Unix socket of this machine."""
    abstract = f"hostile-{secrets.token_hex(8)}"
    heard: list[str] = []
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        port = tcp.getsockname()[1]
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", port))
        servers = [tcp, udp]
        for address in (str(tmp_path / "sock"), f"\0{abstract}"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen()
            servers.append(server)
        hosts = {"127.0.0.1", "169.254.169.254", "255.255.255.255"}
        with contextlib.suppress(OSError):
            hosts.add(socket.gethostbyname(socket.gethostname()))
        text = REACH.replace("{hosts}", " ".join(hosts)).replace("{port}", str(port))
        said = build(text.replace("{unix}", str(tmp_path / "sock")).replace("{abstract}", abstract))
        for server in servers:
            server.setblocking(False)
            with contextlib.suppress(OSError):
                heard.append(str(server.recv(10) if server is udp else server.accept()))
    assert "tried" in said
    assert "CONNECTED" not in said
    assert "DEVICE" not in said
    assert "RAW" not in said
    assert "PACKET" not in said
    assert heard == []


# --- what it can become ----------------------------------------------------------------------

RISE = r"""
my %calls = (
    mount => [165, "none", "/tmp", "tmpfs", 0, 0], umount => [166, "/proc", 2],
    chroot => [161, "/tmp"], pivot_root => [155, "/tmp", "/tmp"], setuid => [105, 0],
    setgroups => [116, 0, 0], ptrace => [101, 16, 1, 0, 0], kexec => [246, 0, 0, 0, 0],
    init_module => [175, "x", 1, ""], reboot => [169, 0xfee1dead, 672274793, 0, 0],
    swapon => [167, "/tmp/x", 0], sethostname => [170, "evil", 4], bpf => [321, 5, 0, 0],
    iopl => [172, 3], settimeofday => [164, "\0" x 16, 0], acct => [163, "/tmp/x"],
    mknod => [133, "/tmp/disk", 060666, 0x800], open_by_handle_at => [304, 5, "\0" x 64, 0],
    setns => [308, 0, 0], unshare_net => [272, 0x40000000], unshare_mount => [272, 0x20000],
);
for my $name (sort keys %calls) {
    my @call = @{$calls{$name}};
    print "$name ", (syscall(shift @call, @call) == -1 ? "refused: $!" : "DONE"), "\n";
}
"""


def test_it_becomes_nothing_more(build: Build) -> None:
    said = build(RISE)
    assert "DONE" not in said
    assert said.count("refused: ") == 21


# --- what it leaves --------------------------------------------------------------------------


def alive(word: str) -> bool:
    """Whether some process has the word in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                return True
    return False


def is_gone(word: str) -> bool:
    """Whether no such process is left. The kernel ends a namespace's processes one by one, after
    the first of them, which takes it a moment for 300 on a busy machine.
    """
    end = time.monotonic() + 10
    while alive(word) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(word)


def test_no_daemon_outlives_it(build: Build) -> None:
    word = secrets.token_hex(8)
    said = build(
        "if (!fork) { syscall(112); if (!fork) { $SIG{$_} = 'IGNORE' "
        "for qw(HUP TERM INT); close STDOUT; close STDERR; "
        f'exec "perl", "-e", "sleep 1000 while 1", "{word}" }} exit }} print "left\\n"'
    )
    assert "left" in said
    assert is_gone(word)


def test_it_ends_nobody_else(build: Build) -> None:
    """Its parent, its init, and everybody: what it sees of them is its own box."""
    with pytest.raises(LabError) as caught:
        build("kill 9, 1; kill 9, -1; kill 9, getppid; sleep 1; die")
    assert "does not build" in caught.value.message


def test_forks_without_end_are_bounded_in_number_and_time(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer of them than the lab allows: this machine is others', too."""
    word = secrets.token_hex(8)
    limits = box_module.Limits
    monkeypatch.setattr(hostbuild, "Limits", lambda **more: limits(processes=300, **more))
    with pytest.raises(BuildError, match="was not built within 4 s"):
        build(f"$0 = '{word}'; while (1) {{ fork // select undef, undef, undef, 0.2 }}", 4)
    assert is_gone(word)


def test_output_without_end_is_cut(
    build: Build, open_dir: Path, monkeypatch: pytest.MonkeyPatch, peak: Peak
) -> None:
    most = hostbuild.MAX_FILE_MIB if BY_NIGHT else 16
    monkeypatch.setattr(hostbuild, "MAX_FILE_MIB", most)
    with pytest.raises(LabError, match="evil"):
        build('$| = 1; print "x" x 65536 while 1', 120)
    assert (open_dir / "out/build.log").stat().st_size < 8 * MIB
    assert peak.grown < 64 * MIB


def test_it_fills_no_disk(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostbuild, "MAX_BUILD_BYTES", 16 * MIB)
    with pytest.raises(BuildError, match="makes more than 16 MiB"):
        build(
            "for my $n (1 .. 100000) { open(my $f, '>', \"fill$n\") or next; "
            "print $f 'x' x 1048576 } sleep 1000",
            60,
        )


ODD = r"""
mkdir "deep" for 1; my $path = ".";
for (1 .. 300) { $path .= "/" . "d" x 200; mkdir $path or last }
chdir "deep";
for my $name ("a\nb.ko", "\e[2J.ko", "<script>.ko", "-rf.ko", "\xff\xfe.ko", ".ko", "...ko", " .ko",
    "::error::owned.ko", "n" x 252 . ".ko") {
    open(my $file, ">", $name) and print $file "rubbish";
}
symlink "/etc/passwd", "link.ko"; symlink "/", "root"; symlink "link2.ko", "link2.ko";
system "mkfifo", "pipe.ko"; mkdir "folder.ko"; link "../evil.ko", "hard.ko";
syscall(133, "pipe2.ko", 010666, 0);
open(my $sparse, ">", "sparse.ko") and truncate $sparse, 1 << 28;
symlink "/etc/passwd", "../Module.symvers"; unlink "../Module.symvers";
symlink "/etc/passwd", "../Module.symvers";
"""


def test_odd_files_are_not_taken(build: Build) -> None:
    with pytest.raises(BuildError) as caught:
        build(ODD)
    assert caught.value.message.isprintable()


def test_a_closed_folder_is_told(build: Build) -> None:
    """Where the lab is not root, it cannot look into what the build's user closed."""
    if os.geteuid() == 0:
        pytest.skip("root looks into any folder")
    with pytest.raises(BuildError, match="closed a folder"):
        build('mkdir "closed"; chmod 0, "closed"; sleep 1000')
