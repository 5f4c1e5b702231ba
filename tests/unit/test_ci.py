"""What CI systems run: the scripts do what they say, and the files that call them fit together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doors.cli import build_parser
from orchestrator.doors.completion import answer
from orchestrator.plan.yamlsource import load_yaml, parse_yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "ci").iterdir() if path.suffix == "")
ACTION = ROOT / "action.yml"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
GITLAB = ROOT / "ci/gitlab.yml"
PAGE = (ROOT / "docs/ci.md").read_text()

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not ACTION.exists(), reason="no checkout"),
]


def load(path: Path) -> Any:
    return parse_yaml(path.read_bytes(), path).value


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step of the action and of the workflows, and where it is."""
    for step in load(ACTION)["runs"]["steps"]:
        yield "action.yml", step
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            for step in job["steps"]:
                yield f"{path.name}: {name}", step


def embedded() -> Iterator[tuple[str, str]]:
    """Each script that stands within another file, as bash or sh has it."""
    for where, step in steps():
        if "run" in step:
            yield where, step["run"]
    for name, job in load(GITLAB).items():
        if "script" in job:
            yield f"gitlab.yml: {name}", "\n".join(job["script"])
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    for number, line in enumerate(re.findall(r"^RUN (.*)$", text, re.MULTILINE)):
        yield f"Containerfile: {number}", line


# --- the files -----------------------------------------------------------------------------------


def check_shell(text: str) -> str:
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed here")
    done = subprocess.run(
        [tool, "-s", "bash", "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path: Path) -> None:
    text = path.read_text()
    assert check_shell(text) == ""
    assert text.startswith("#!/bin/bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize(("where", "text"), list(embedded()))
def test_scripts_in_other_files_are_clean(where: str, text: str) -> None:
    assert check_shell(text) == "", where
    # What a user wrote comes through the environment: within a script it would be run.
    assert "${{" not in text, where


def test_other_actions_are_pinned_to_a_version() -> None:
    used = [step["uses"] for _, step in steps() if "uses" in step]
    assert used
    for name in used:
        assert name == "./" or re.fullmatch(r"actions/[a-z-]+(/[a-z]+)?@v\d+(\.\d+)*", name), name


def test_a_step_either_runs_or_uses() -> None:
    for where, step in steps():
        assert ("run" in step) != ("uses" in step), where
        if where == "action.yml" and "run" in step:
            assert step["shell"] == "bash"  # a composite action has no default


def test_names_between_steps_jobs_and_inputs_exist() -> None:
    action = load(ACTION)
    text = ACTION.read_text()
    ids = {step["id"] for step in action["runs"]["steps"] if "id" in step}
    assert set(re.findall(r"steps\.([\w-]+)\.", text)) == ids
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    assert used == action["inputs"].keys()
    for path in WORKFLOWS:
        jobs = load(path)["jobs"]
        for job in jobs.values():
            assert job.get("needs") is None or job["needs"] in jobs
            assert "timeout-minutes" in job
            for step in job["steps"]:
                if step.get("uses") == "./":
                    assert step["with"].keys() <= action["inputs"].keys()
        for needed, output in re.findall(r"needs\.(\w+)\.outputs\.(\w+)", path.read_text()):
            assert output in jobs[needed]["outputs"]
        assert load(path)["permissions"] == {"contents": "read"}


def test_scripts_that_are_called_exist() -> None:
    called = {name for _, text in embedded() for name in re.findall(r"\bci/([\w-]+)", text)}
    assert called <= {path.name for path in SCRIPTS}
    assert called == {path.name for path in SCRIPTS}  # and all are of use
    container = (ROOT / "Containerfile").read_text()
    for name in re.findall(r"- kmod-lab-(\w+)", GITLAB.read_text(), re.MULTILINE):
        assert f"COPY ci/{name} /usr/local/bin/kmod-lab-{name}\n" in container


def test_the_container_gets_all_that_the_package_is_made_of() -> None:
    text = (ROOT / "Containerfile").read_text()
    lines = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    copied = {word for line in lines for word in line.split()}
    for name in copied:
        assert (ROOT / name).exists(), name
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".containerignore").read_text(), re.MULTILINE))
    assert {name.partition("/")[0] for name in copied} == kept
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*wheel["packages"], *wheel["force-include"], *wheel.get("shared-data", {})}
    assert {name.partition("/")[0] for name in wanted} <= copied
    assert "\nUSER lab\n" in text


def test_the_page_tells_every_input_and_variable() -> None:
    texts = [path.read_text() for path in (*SCRIPTS, GITLAB)]
    variables = {name for text in texts for name in re.findall(r"\bKMOD_LAB[A-Z_]*", text)}
    words = {*load(ACTION)["inputs"], *load(ACTION)["outputs"], *variables}
    assert {word for word in words if f"`{word}`" not in PAGE} == set()


def test_no_address_of_a_mirror_is_written_down() -> None:
    for path in (*SCRIPTS, ACTION, *WORKFLOWS, GITLAB, ROOT / "Containerfile"):
        assert "://" not in path.read_text(), path


# --- the scripts --------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the real `lab` on the path, and nothing of a CI set."""
    (tmp_path / "bin").mkdir()
    stand_in(tmp_path, f'PYTHONPATH={ROOT} exec {sys.executable} -m orchestrator "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in list(os.environ):
        if name.startswith(("KMOD_", "GITHUB_", "RUNNER_", "CI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stand_in(folder: Path, script: str) -> None:
    """A `lab` that does this."""
    (folder / "bin/lab").write_text(f"#!/bin/bash\n{script}\n")
    (folder / "bin/lab").chmod(0o755)


def run(name: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "ci" / name, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )


def test_play_hands_each_line_on_as_one_word(work: Path) -> None:
    stand_in(work, "printf '<%s>' \"$@\"")
    done = run(
        "play",
        KMOD_LAB="my lab.yaml",
        KMOD_LAB_KERNELS=">=5.6 <5.10\n\n  6.1 \n$(id)",
        KMOD_LAB_SCENARIOS="iter/*\r\n",
        KMOD_LAB_ARGUMENTS="-j\n2",
    )
    assert done.stdout == (
        "<run><--lab><my lab.yaml><--results><lab-results>"
        "<--kernel><>=5.6 <5.10><--kernel><6.1><--kernel><$(id)><--scenario><iter/*><-j><2>"
    )
    assert (done.returncode, done.stderr) == (0, "")


RUN = """
mkdir -p lab-results/run-1 && ln -sfn run-1 lab-results/latest
printf 'FAILED  x\\n```\\n# y\\n' > lab-results/run-1/report.txt
"""


def test_play_tells_the_runs_folder_and_keeps_the_status(work: Path) -> None:
    stand_in(work, f"{RUN}exit 1")
    done = run("play", GITHUB_OUTPUT="output", GITHUB_STEP_SUMMARY="summary")
    assert done.returncode == 1
    assert (work / "output").read_text() == f"run={work}/lab-results/run-1\n"
    summary = (work / "summary").read_text()
    assert summary == "## kmod-lab\n\n    FAILED  x\n    ```\n    # y\n"


def test_play_leaves_a_summary_to_the_lab_that_writes_one(work: Path) -> None:
    stand_in(work, f'{RUN}echo mine >> "$GITHUB_STEP_SUMMARY"')
    assert run("play", GITHUB_STEP_SUMMARY="summary").returncode == 0
    assert (work / "summary").read_text() == "mine\n"


def test_play_takes_no_earlier_run_for_one_that_did_not_come_to_be(work: Path) -> None:
    (work / "lab-results/old").mkdir(parents=True)
    (work / "lab-results/latest").symlink_to("old")
    stand_in(work, "exit 3")
    assert run("play", GITHUB_OUTPUT="output").returncode == 3
    assert not (work / "output").exists()


def test_play_in_the_real_lab(work: Path) -> None:
    lab = ROOT / "lab.yaml"
    done = run("play", KMOD_LAB=str(lab), KMOD_LAB_KERNELS="6.1", KMOD_LAB_ARGUMENTS="--dry-run")
    assert done.returncode == 0, done.stderr
    assert "kernel 6.1" in done.stdout
    assert not (work / "lab-results/latest").exists()


@pytest.mark.usefixtures("work")
def test_the_matrix_is_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    value = load_yaml(ROOT / "lab.yaml").value
    assert isinstance(value, dict)
    groups = value["groups"]
    assert isinstance(groups, dict)
    for group, kernels in groups.items():
        done = run("kernels", group)
        assert sorted(json.loads(done.stdout)) == sorted(str(name) for name in kernels)  # type: ignore[union-attr]
    assert run("kernels", "nonsense").returncode != 0


def test_the_key_of_a_cache(work: Path) -> None:
    def key(**env: str) -> dict[str, str]:
        done = run("cache-key", **env)
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    (work / "lab.yaml").write_text("one")
    by_lab = key()
    assert by_lab == key()
    assert by_lab["key"].startswith(by_lab["prefix"])
    assert re.fullmatch(r"[\w-]+", by_lab["key"])
    (work / "lab.lock").write_text("two")
    by_lock = key()
    assert by_lock["key"] != by_lab["key"]
    (work / "lab.yaml").write_text("a comment more")
    assert key() == by_lock
    assert key(KMOD_LAB_KERNELS="6.1,\n5.4")["prefix"] != by_lock["prefix"]
    (work / "lab.lock").unlink()
    (work / "lab.yaml").unlink()
    assert run("cache-key").returncode != 0


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("env", [{}, {"RUNNER_ENVIRONMENT": "self-hosted"}])
def test_a_machine_that_somebody_owns_is_left_as_it_is(env: dict[str, str]) -> None:
    done = run("prepare-runner", **env)
    assert done.returncode == 0
    assert done.stdout.startswith("This is no GitHub-hosted runner: nothing is changed.")


def test_nothing_to_merge_is_an_error(work: Path) -> None:
    (work / "runs").mkdir()
    done = run("merge", "runs", "merged")
    assert done.returncode == 3
    assert "No job left a run" in done.stderr


def test_runs_are_merged_by_the_lab(work: Path) -> None:
    """With a stand-in: what `lab report` does is tested where it is written."""
    for name in ("one", "two"):
        (work / "runs" / name).mkdir(parents=True)
        (work / "runs" / name / "results.json").touch()
    stand_in(work, "printf '<%s>' \"$@\"; echo")
    done = run("merge", "runs", "merged", GITHUB_STEP_SUMMARY="summary")
    begin = "<report><--lab><lab.yaml><--merge><runs/one><runs/two><--format>"
    assert done.stdout.splitlines() == [
        f"{begin}<html><--output><merged/report.html>",
        f"{begin}<json><--output><merged/results.json>",
        f"{begin}<junit><--output><merged/junit.xml>",
        f"{begin}<text>",
    ]
    assert (work / "summary").read_text() == f"{begin}<markdown>\n"


def test_the_lab_takes_the_words_with_which_runs_are_merged() -> None:
    if "report\t" not in answer(build_parser(), [""]):
        pytest.skip("this lab has no `lab report`")
    for form in ("html", "json", "junit", "markdown", "text"):
        words = ["report", "--lab", "x", "--merge", "a", "b", "--format", form, "--output", "c"]
        parsed = build_parser().parse_args(words)
        assert parsed.run == ["a", "b"]
