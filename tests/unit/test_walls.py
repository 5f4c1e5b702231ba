"""What bubblewrap is told, as it is and stays until somebody means to change it."""

from __future__ import annotations

import pytest

from orchestrator.plan.walls import Shown, own_limits, render_walls, show

SHOWN = Shown(("/usr/bin/qemu", "/usr/lib/x86_64-linux-gnu"), (("/lib", "usr/lib"),))
GOLDEN = """\
/usr/bin/bwrap
--unshare-user
--uid 65534
--gid 65534
--disable-userns
--unshare-net
--unshare-pid
--unshare-ipc
--unshare-uts
--unshare-cgroup-try
--hostname guest
--as-pid-1
--die-with-parent
--info-fd 9
--ro-bind /usr/bin/qemu /usr/bin/qemu
--ro-bind /usr/lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu
--symlink usr/lib /lib
--proc /proc
--remount-ro /proc
--remount-ro /
--chdir /
--clearenv
--cap-drop ALL
--
"""


def shown(argv: tuple[str, ...]) -> str:
    text = argv[0]
    for part in argv[1:]:
        text += ("\n" if part.startswith("--") else " ") + part
    return text + "\n"


def test_the_walls_are_these() -> None:
    assert shown(render_walls("/usr/bin/bwrap", SHOWN, info=9)) == GOLDEN


def test_kvm_is_the_one_device_and_comes_before_all_is_read_only() -> None:
    kvm = shown(render_walls("/usr/bin/bwrap", SHOWN, info=9, kvm=True))
    bound = "--proc /proc\n--dev-bind /dev/kvm /dev/kvm\n"
    assert kvm == GOLDEN.replace("--proc /proc\n", bound)


def test_an_older_bubblewrap_gets_no_option_that_it_does_not_know() -> None:
    old = shown(render_walls("/usr/bin/bwrap", SHOWN, info=9, seals=False))
    assert old == GOLDEN.replace("--disable-userns\n", "")


def test_root_without_a_user_namespace_changes_its_user_within() -> None:
    identity = ("setpriv", "--reuid=65534", "--")
    argv = render_walls("bwrap", SHOWN, identity=identity, user=False)
    assert "--unshare-user" not in argv
    end = argv.index("--cap-drop")
    changes = tuple(f"CAP_{name}" for name in ("SETUID", "SETGID", "SETPCAP"))
    assert argv[end + 2 :] == (
        *(word for name in changes for word in ("--cap-add", name)),
        *("--", *identity),
    )
    for folder in ("/usr", "/usr/bin", "/usr/lib"):
        at = argv.index(folder)
        assert argv[at - 3 : at] == ("--perms", "0755", "--dir")
        assert at < argv.index("--ro-bind")
    # Root that stays root gets none of its privileges back.
    assert "--cap-add" not in render_walls("bwrap", SHOWN, user=False)
    assert render_walls("bwrap", SHOWN, identity=identity)[: len(identity)] == identity


def test_nothing_writable_is_ever_bound() -> None:
    for kvm in (False, True):
        argv = render_walls("bwrap", SHOWN, kvm=kvm)
        assert not {"--bind", "--tmpfs", "--dev", "--share-net"} & set(argv)


def test_libraries_are_shown_with_their_folder_and_programs_alone() -> None:
    files = ("/usr/bin/qemu", "/usr/lib/x/a.so", "/usr/lib/x/b.so", "/usr/lib/x/sub/c.so")
    links = {"/lib": "usr/lib", "/usr/lib/x/a.so.0": "a.so", "/lib64/ld.so": "/usr/lib/x/ld.so"}
    assert show(files, ("/usr/share/qemu",), links) == Shown(
        ("/usr/bin/qemu", "/usr/lib/x", "/usr/share/qemu"),
        (("/lib", "usr/lib"), ("/lib64/ld.so", "/usr/lib/x/ld.so")),
    )


@pytest.mark.parametrize("path", ["/home/me/qemu", "/opt/libre/qemu", "/root/lib.so"])
def test_no_other_folder_is_shown_whole(path: str) -> None:
    assert show((path,), (), {}).paths == (path,)


def test_limits_are_bytes() -> None:
    words = ("--as=2097152", "--core=0", "--fsize=3", "--nofile=4")
    assert own_limits(2, file_bytes=3, files=4, hard={}) == words


def test_no_limit_is_above_that_of_the_lab() -> None:
    words = own_limits(2, file_bytes=3, files=4, hard={"as": 1000, "nofile": 5, "core": 7})
    assert words == ("--as=1000", "--core=0", "--fsize=3", "--nofile=4")
