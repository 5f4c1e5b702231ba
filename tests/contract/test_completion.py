"""Completion: what is offered, by the real parser in a real lab, and in real shells."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from orchestrator.doors.cli import SHELLS, build_parser, main
from orchestrator.doors.completion import answer, script
from orchestrator.foundation.errors import EXIT_USAGE
from tests.unit.labs import write_lab

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab in the current folder; on the path a `lab` that completes or says its words."""
    path = write_lab(tmp_path / "lab")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/lab").write_text(
        "#!/bin/sh\n"
        f'[ "$1" != completion ] || PYTHONPATH={ROOT} exec {sys.executable} -m orchestrator "$@"\n'
        "printf called: && printf '<%s>' \"$@\" && echo\n"
    )
    (tmp_path / "bin/lab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(path.parent)
    return path


def offered(*words: str) -> list[str]:
    return [line.partition("\t")[0] for line in answer(build_parser(), words).splitlines()]


KERNELS = ["5.4", "6.1", "6.1-rt", "7.x", "quick", "all", "focal", "bookworm", "trixie", "latest"]


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ru"], ["run"]),
        (["lo"], ["lock"]),
        (["run", "-k", ""], KERNELS),
        (["run", "-k", "6"], ["6.1", "6.1-rt"]),
        (["run", "--kernel", "6.1", "--kernel", "l"], ["latest"]),
        (["run", "--kernel=b"], ["--kernel=bookworm"]),
        (["run", "--kernel", "=", "b"], ["bookworm"]),  # as bash cuts it
        (["run", "--kernel", "="], KERNELS),
        (["shell", "7"], ["7.x"]),
        (["bisect", ""], ["all/loading", "all/loading-twice", "all/uname"]),
        (["bisect", "all/u", "--between", "5"], ["5.4"]),
        (["bisect", "all/u", "--between", "5.4", "q"], ["quick"]),
        (["bisect", "--between", "5.4", "6.1", "all/l"], ["all/loading", "all/loading-twice"]),
        (["list", "-s", "all/u"], ["all/uname"]),
        (["run", "--lab", ""], [":files"]),
        (["run", "--lab=x"], [":files"]),
        (["run", "--results", "x"], [":folders"]),
        (["export", ""], [":files"]),
        (["run", "--of"], ["--offline"]),
        (["run", "--offline", "--of"], []),
        (["run", "-k", "6.1", "--ker"], ["--kernel"]),
        (["schema", "s"], ["scenario"]),
        (["completion", ""], list(SHELLS)),
        (["run", "-j", ""], []),
        (["nonsense", "x"], []),
        (["run", "-k", "--"], []),
    ],
)
def test_what_is_offered(words: list[str], wanted: list[str]) -> None:
    assert offered(*words) == wanted


def test_every_command_is_offered_with_what_it_does() -> None:
    lines = answer(build_parser(), [""]).splitlines()
    help_text = build_parser().format_help()
    assert len(lines) > 8
    for line in lines:
        name, about = line.split("\t")
        assert about
        assert f"    {name}" in help_text


@pytest.mark.parametrize("command", offered(""))
def test_every_option_of_a_command_is_offered(command: str) -> None:
    help_text = build_parser()._subparsers._group_actions[0].choices[command].format_help()  # type: ignore[union-attr,index]
    names = offered(command, "-")
    assert "--help" in names
    assert all(name in help_text for name in names)


def test_a_lab_elsewhere_is_read(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert offered("run", "-k", "6.1-") == []
    assert offered("run", "--lab", str(lab), "-k", "6.1-") == ["6.1-rt"]


@pytest.mark.parametrize("text", ["", "{", "kernels: 5", "kernels: [a]", "scenarios: a", "a: &a"])
def test_a_lab_that_is_none_gives_no_names(lab: Path, text: str) -> None:
    lab.write_text(text)
    assert offered("run", "-k", "") == ["latest"]
    assert offered("run", "-s", "") == []


def test_names_that_a_shell_could_obey_are_not_offered(lab: Path) -> None:
    (lab.parent / "scenarios/$(id).yaml").write_text("scenarios: {a: {}}\n")
    (lab.parent / "scenarios/b.yaml").write_text("scenarios: {'$(id)': {}, 'a b': {}, fine: {}}\n")
    lab.write_text(
        "kernels: {'`id`': {image: $(id)}, '$(id)': {}, \"a\\n:files\": {}, '-k': {}, ok: {}}\n"
        "scenarios: [scenarios/*.yaml, ../*, /etc/*]\n"
    )
    assert offered("run", "-k", "") == ["ok", "latest"]
    assert [name for name in offered("run", "-s", "") if not name.startswith("all/")] == ["b/fine"]


def test_scenarios_outside_of_the_lab_are_not_read(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "out.yaml").write_text("scenarios: {secret: {}}\n")
    (lab.parent / "scenarios/link.yaml").symlink_to(tmp_path / "out.yaml")
    assert not [name for name in offered("run", "-s", "") if "secret" in name]


def test_runs_are_offered_the_latest_first(lab: Path) -> None:
    for name in ("20260101-000000-aaaa", "20260201-000000-bbbb"):
        (lab.parent / "lab-results" / name).mkdir(parents=True)
        (lab.parent / "lab-results" / name / "results.json").touch()
    parser = build_parser()
    parser.add_argument("run")
    parser._actions = [action for action in parser._actions if action.dest == "run"]
    lines = answer(parser, [""]).splitlines()
    assert lines == ["20260201-000000-bbbb\trun", "20260101-000000-aaaa\trun", ":folders"]


def spent() -> float:
    """Seconds of a processor that this process's children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.usefixtures("lab")
def test_an_answer_comes_before_one_waits_for_it() -> None:
    """Processor time, and the best of five: the machine may be busy."""
    command = ["lab", "completion", "--words", ":run", ":-s", ":"]
    times = []
    for _ in range(5):
        began = spent()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times.append(spent() - began)
        assert "all/loading\t" in done.stdout
    assert min(times) < 0.3


def test_no_heavy_package_is_imported(lab: Path) -> None:
    code = (
        "import sys; from orchestrator.doors.cli import main;"
        "main(['completion', '--words', ':run', ':-s', ':']);"
        "main(['completion', '--words', ':run', ':-k', ':']);"
        "print([m for m in ('pydantic', 'rich', 'paramiko', 'requests') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=lab.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.endswith("\n[]\n")
    assert "6.1-rt" in done.stdout


def test_a_shell_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == EXIT_USAGE
    assert "bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == script(shell)


# --- real shells -------------------------------------------------------------------------------


def have(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed here")
    return found


def test_shellcheck_has_no_word_on_the_script_for_bash() -> None:
    checked = subprocess.run(
        [have("shellcheck"), "-"], input=script("bash"), capture_output=True, text=True, check=False
    )
    assert checked.stdout == ""
    assert checked.returncode == 0


TYPED = [
    ("lab lo", "<lock>"),
    ("lab run --kernel qu", "<run><--kernel><quick>"),
    ("lab run -s all/un", "<run><-s><all/uname>"),
    ("lab run --lab la", "<run><--lab><lab.yaml>"),
    ("lab run --results sc", "<run><--results><scenarios/>"),
    ("lab run --offl", "<run><--offline>"),
]


def play(shell: str, arguments: list[str], source: str, typed: str, becomes: str) -> None:
    """Type into an interactive shell, press Tab and Enter, and see how `lab` was called."""
    with pexpect.spawn(
        have(shell),
        arguments,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "PS1": "$ ", "TERM": "dumb", "INPUTRC": "/dev/null"},
        dimensions=(24, 200),
    ) as terminal:
        terminal.sendline(f"{source}; echo is-read$?")
        terminal.expect_exact("is-read0\r\n")
        terminal.send(f"{typed}\t\r")
        terminal.expect(r"called:(.*)\r\n")
        assert terminal.match[1] == becomes
        terminal.close(force=True)


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        *TYPED,
        ("lab run --kernel=qu", "<run><--kernel=quick>"),
        ("../bin/lab run -k qu", "<run><-k><quick>"),
        ("~/bin/lab run -k qu", "<run><-k><quick>"),
    ],
)
def test_bash_completes(typed: str, becomes: str) -> None:
    arguments = ["--norc", "--noprofile", "-i"]
    play("bash", arguments, "source <(lab completion bash)", typed, becomes)


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("typed", "becomes"), [*TYPED, ("lab run --kernel=qu", "<run><--kernel=quick>")]
)
def test_zsh_completes(typed: str, becomes: str) -> None:
    source = "autoload -U compinit && compinit -u -D && source <(lab completion zsh)"
    # zsh takes the slash after a folder away again when the line ends.
    play("zsh", ["-f", "-i"], source, typed, becomes.replace("/>", ">"))


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("lab lo", ["lock"]),
        ("lab run --kernel 6", ["6.1", "6.1-rt"]),
        ("lab run --kernel=qu", ["--kernel=quick"]),
        ("lab run -s all/un", ["all/uname"]),
        ("lab run --lab la", ["lab.yaml"]),
        ("lab run --results sc", ["scenarios/"]),
    ],
)
def test_fish_completes(typed: str, wanted: list[str]) -> None:
    command = f"lab completion fish | source; complete -C '{typed}'"
    done = subprocess.run(
        [have("fish"), "--no-config", "-c", command], capture_output=True, text=True, check=False
    )
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == wanted
    assert done.stderr == ""
