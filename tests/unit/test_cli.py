"""The command line: what it says, and with which status."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.adapters.cache import Cache, default_cache_dir, write_json
from orchestrator.adapters.kernels import _resolution_path
from orchestrator.adapters.sources import SourceContext, entry_types
from orchestrator.doors import doctor
from orchestrator.doors.cli import main
from orchestrator.foundation import process
from orchestrator.plan.labfile import load_lab
from orchestrator.plan.recipes import load_recipe
from tests.unit.labs import LAB, write_lab

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab in the current folder, and an empty cache."""
    path = write_lab(tmp_path / "lab")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    return path


def usage(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the parser says of arguments that it does not take."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


COMMANDS = (
    "init",
    "run",
    "report",
    "history",
    "list",
    "shell",
    "kernels",
    "lock",
    "export",
    "import",
    "cache",
    "schema",
    "completion",
    "doctor",
)

# --- the parser ------------------------------------------------------------------------------


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for word in (*COMMANDS, "Exit status: 0 all passed"):
        assert word in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: lab {command}" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"lab {__version__}")
    assert said.count("\n") == 1
    for word in (platform.python_version(), os.uname().release, "QEMU"):
        assert word in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("run", "--nope"),
        ("run", "extra"),
        ("shell",),
        ("list", "--jobs", "1"),
        ("export",),
        ("import",),
        ("lock", "extra"),
        ("kernels", "--update"),
        ("lock", "-s", "x"),
    ],
)
def test_what_the_parser_does_not_take_is_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "usage: lab" in usage(capsys, *arguments)


@pytest.mark.parametrize("number", ["0", "-1", "many", "", "1.5", "²"])
def test_a_number_of_jobs_is_a_number(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage(capsys, "run", f"--jobs={number}")
    assert f"argument -j/--jobs: {number!r} is no number above 0" in said


# --- the lab ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [
        ("run",), ("run", "-n"), ("list",), ("shell", "6.1"), ("kernels",), ("lock",),
        ("lock", "--check"), ("export", "x.tar"),
    ],
)  # fmt: skip
def test_a_folder_without_a_lab_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "lab: there is no lab.yaml in this folder\n"
        "  hint: go to the lab's folder, or name the file: --lab FILE\n"
    )


def test_a_lab_that_was_named_and_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--lab", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_a_mistake_in_the_lab_is_told_with_its_place(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write_text(LAB.replace("focal", "[focal]"))
    assert main(["run", "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lab: lab.yaml:4:")
    assert "kernels" in err


def test_a_recipe_that_is_not_there_is_told(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write_text(LAB.replace("focal", "sarge"))
    assert main(["list"]) == 2
    assert "no recipe 'sarge'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-k", "4.19"), "--kernel 4.19: no kernel of this lab is that"),
        (("-k", "nope"), "--kernel nope: "),
        (("-s", "nope"), "--scenario nope: no scenario of this lab is called so"),
    ],
)
@pytest.mark.usefixtures("lab")
def test_a_selection_of_nothing_is_usage(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--dry-run", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"lab: {said}")
    assert "\n  hint: " in err


@pytest.mark.usefixtures("lab")
def test_a_shell_is_on_one_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shell", "bookworm"]) == 2
    assert "more than one kernel: 6.1, 6.1-rt" in capsys.readouterr().err


@pytest.mark.usefixtures("lab")
def test_a_shell_needs_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shell", "6.1"]) == 2
    assert "needs a terminal" in capsys.readouterr().err


def test_a_run_on_a_host_that_lacks_something_breaks(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["run"]) == 3
    assert "qemu-system-x86_64: not installed" in capsys.readouterr().err
    assert not (lab.parent / "lab-results").exists()


def test_results_that_cannot_be_written_break_the_run(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "check_host", lambda: ())
    (lab.parent / "results").touch()
    assert main(["run", "--results", "results"]) == 3
    assert "lab: results" in capsys.readouterr().err


# --- plans and lists -------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dry-run", "-j", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("lab demo: 5 cells, 3 at a time\n")
    assert f"  modules hello: {lab.parent}/src\n" in captured.out
    assert "kernel 5.4: the newest 5.4 of focal, not looked up yet" in captured.out


def test_a_dry_run_knows_what_was_looked_up(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_lab(lab, entry_types())
    entry = loaded.file.kernels["6.1"]
    context = SourceContext(Cache(default_cache_dir()), load_recipe(loaded, "bookworm"), lab.parent)
    known = {"release": "6.1.0-99-amd64", "version": "6.1.200", "origin": "here", "parts": []}
    write_json(_resolution_path(context, entry), known)
    assert main(["run", "--dry-run", "-k", "6.1"]) == 0
    out = capsys.readouterr().out
    assert "kernel 6.1: 6.1.0-99-amd64 (version 6.1.200), in bookworm" in out
    assert "all/uname  (skipped: it is for kernels <6.1.100, this is 6.1.200)" in out


WATCHED = """
import os, sys

def watch(event, arguments):
    if event.startswith(("subprocess.", "socket.", "os.exec", "os.fork", "os.posix_spawn")):
        sys.stderr.write(f"{event} {arguments}\\n")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        sys.stderr.write(f"{event} {arguments}\\n")
    if event in ("os.mkdir", "os.rename", "os.remove", "os.symlink"):
        sys.stderr.write(f"{event} {arguments}\\n")

from orchestrator.doors.cli import main
import orchestrator.adapters.kernels, orchestrator.policy.capacity  # their imports may do more
sys.dont_write_bytecode = True
sys.addaudithook(watch)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments", [("run", "-n"), ("run", "-n", "--update"), ("list",), ("kernels",)]
)
def test_looking_touches_nothing(lab: Path, arguments: tuple[str, ...]) -> None:
    """No process, no network, no file."""
    before = sorted(lab.parent.parent.rglob("*"))
    argv = (sys.executable, "-B", "-c", WATCHED, *arguments)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6.1" in done.stdout
    assert sorted(lab.parent.parent.rglob("*")) == before


@pytest.mark.usefixtures("lab")
def test_a_dry_run_needs_no_child() -> None:
    process.stop_all()
    assert main(["run", "--dry-run"]) == 0


@pytest.mark.usefixtures("lab")
def test_a_list_shows_kernels_and_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "-k", "all", "-s", "loading"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "kernels:"
    assert [line.split()[0] for line in lines[1:5]] == ["5.4", "6.1", "6.1-rt", "7.x"]
    assert lines[1].endswith("quick, all")
    assert lines[5:] == [
        "scenarios:",
        "  all/loading",
        "      It loads.",
        "  all/loading-twice  [>=5.6]",
    ]


# --- readers that go away --------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("list",), ("run", "-n"), ("kernels",), ("doctor",)])
def test_a_reader_that_has_gone_is_no_error(lab: Path, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = (sys.executable, "-m", "orchestrator", *arguments)
    repository = Path(__file__).parents[2]
    # Buffered, as for most users: then the end of the process is where it would show.
    env = {**os.environ, "PYTHONPATH": str(repository), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        argv, stdout=write, stderr=subprocess.PIPE, cwd=lab.parent, env=env, check=False
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 0


def test_a_disk_that_is_full_where_the_output_goes_is_told(lab: Path) -> None:
    argv = (sys.executable, "-m", "orchestrator", "list", "--lab", str(lab))
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("lab: this machine: No space left on device\n  hint: make room")


def test_the_package_is_a_command(lab: Path) -> None:
    argv = (sys.executable, "-m", "orchestrator", "list", "--lab", str(lab))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "scenarios:" in done.stdout


def test_help_needs_none_of_the_heavy_parts() -> None:
    script = (
        "import sys, json\nfrom orchestrator.doors.cli import build_parser\nbuild_parser()\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", script), capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"paramiko", "pydantic", "rich", "yaml", "pexpect", "elftools"}


@pytest.mark.parametrize("words", [["--keep"], ["--offline"], ["-j", "2"]])
def test_what_is_for_guests_here_is_not_for_a_cluster(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    lab = write_lab(tmp_path)
    cluster = ["--cluster", "tls://scheduler:8786"]
    assert main(["run", "--lab", str(lab), *cluster, *words]) == 2
    assert f"{words[0]} is for guests of this machine" in capsys.readouterr().err


def test_certificates_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed")
    words = ["run", "--lab", str(write_lab(tmp_path)), "--cluster", "tls://scheduler:8786"]
    assert main(words) == 2
    assert "asks for certificates, and none are named" in capsys.readouterr().err
    assert main([*words, "--cluster-ca", str(tmp_path / "none.pem")]) == 2
    assert "none.pem: there is no such file" in capsys.readouterr().err
