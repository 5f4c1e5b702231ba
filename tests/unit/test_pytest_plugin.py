"""The pytest plugin as far as it needs no guest: what is collected, selected, skipped, refused."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.doors.pytest_cells import SESSION, CellError, CellItem, CellRepr
from orchestrator.plan.outcome import CellResult, Mismatch, Outcome, StepResult

from .labs import LAB, write_lab

pytest_plugins = ["pytester"]

REPOSITORY = Path(__file__).parents[2]
MODULE = "orchestrator.doors.pytest_plugin"
IS_INSTALLED = any(entry.value == MODULE for entry in entry_points(group="pytest11"))
# A checkout that was installed before there was a plugin has no entry point for it.
PLUGIN = () if IS_INSTALLED else ("-p", MODULE)
PAGE = (REPOSITORY / "docs/pytest.md").read_text(encoding="utf-8")
TEST = """
def test_it(lab_guest):
    pass
"""
QUICK = [
    "lab.yaml::all/loading[5.4]",
    "lab.yaml::all/loading-twice[5.4]",
    "lab.yaml::all/uname[5.4]",
    "lab.yaml::all/loading[6.1]",
    "lab.yaml::all/loading-twice[6.1]",
    "lab.yaml::all/uname[6.1]",
]

Play = Callable[..., pytest.RunResult]


@pytest.fixture
def play(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Calls pytest in a folder with a lab of which nothing is known yet."""
    monkeypatch.setenv("LAB_CACHE", str(pytester.path / "cache"))
    write_lab(pytester.path)
    return lambda *arguments: pytester.runpytest_inprocess(*PLUGIN, *arguments)


def ids(result: pytest.RunResult) -> list[str]:
    """What `--collect-only -q` prints."""
    return [line for line in result.outlines if "::" in line]


def collected(play: Play, *arguments: str) -> list[str]:
    result = play("--collect-only", "-q", *arguments)
    assert result.ret == 0, result.outlines
    return ids(result)


# --- what is collected ------------------------------------------------------------------------


def test_every_cell_of_the_quick_kernels_is_an_item(play: Play) -> None:
    assert collected(play, "--lab", "lab.yaml") == QUICK


def test_the_ini_file_names_labs_and_the_option_others(
    play: Play, pytester: pytest.Pytester
) -> None:
    pytester.makeini("[pytest]\nlab = lab.yaml\ntestpaths = src\n")
    assert collected(play) == QUICK
    write_lab(pytester.mkdir("other"))
    assert collected(play, "--lab", "other/lab.yaml") == [f"other/{each}" for each in QUICK]


def test_two_labs(play: Play, pytester: pytest.Pytester) -> None:
    write_lab(pytester.mkdir("other"))
    found = collected(
        play, "--lab", "lab.yaml", "--lab", "other/lab.yaml", "--lab-kernel", "6.1-rt"
    )
    assert found == [
        f"{lab}::all/{name}[6.1-rt]"
        for lab in ("lab.yaml", "other/lab.yaml")
        for name in ("loading", "loading-twice", "uname")
    ]


def test_a_lab_elsewhere_is_collected_beside_the_tests(
    play: Play, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_a="def test_one(): pass")
    lab = write_lab(pytester.path.parent / f"{pytester.path.name}-elsewhere")
    found = collected(play, "--rootdir", str(pytester.path), "--lab", str(lab))
    assert found[0] == "test_a.py::test_one"
    assert len(found) == 1 + len(QUICK)


def test_a_lab_that_pytest_leaves_out_is_an_error(play: Play, pytester: pytest.Pytester) -> None:
    write_lab(pytester.mkdir("build"))
    result = play("--lab", "build/lab.yaml", "--collect-only", "-q")
    told = "build/lab.yaml was not collected" in str(result.stderr)
    # Which of the two, depends on whether pytest drops an argument below another.
    assert (len(ids(result)), told) in [(len(QUICK), False), (0, True)]
    assert result.ret == (pytest.ExitCode.USAGE_ERROR if told else 0)
    named = collected(play, "--lab", "build/lab.yaml", "build/lab.yaml")
    assert named == [f"build/{each}" for each in QUICK]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["lab.yaml::all/uname[6.1]"], ["uname[6.1]"]),
        (["lab.yaml::all/uname"], ["uname[5.4]", "uname[6.1]"]),
        (["-k", "uname and bookworm"], ["uname[6.1]"]),
        (["-m", 'kernel(name="5.4")', "-k", "twice"], ["loading-twice[5.4]"]),
        (["-m", "not lab"], []),
        (["--deselect", "lab.yaml::all/loading", "-k", "5.4 and not twice"], ["uname[5.4]"]),
        (["--lab-kernel", ">=7", "-k", "uname"], ["uname[7.x]"]),
        (["--lab-kernel", "6.1-rt", "--lab-kernel", "5.4", "-k", "uname"],
         ["uname[5.4]", "uname[6.1-rt]"]),
    ],
)  # fmt: skip
def test_selection(play: Play, arguments: list[str], found: list[str]) -> None:
    result = play("--lab", "lab.yaml", "--collect-only", "-q", "--strict-markers", *arguments)
    assert [each.partition("::all/")[2] for each in ids(result)] == found


class Items:
    """A plugin that keeps the items."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = session.items


@pytest.mark.usefixtures("play")
def test_an_item_knows_its_scenario_and_kernel(pytester: pytest.Pytester) -> None:
    kept = Items()
    pytester.inline_run(*PLUGIN, "--lab", "lab.yaml", "--collect-only", plugins=[kept])
    item = kept.items[1]
    assert type(item).__name__ == CellItem.__name__  # pytester imports anew what it forgot
    scenarios = (pytester.path / "scenarios/all.yaml").read_text().splitlines()
    line = scenarios.index("  loading-twice:")
    assert item.location == ("scenarios/all.yaml", line, "all/loading-twice on 5.4")
    mark = item.get_closest_marker("kernel")
    assert mark is not None
    assert mark.kwargs == {"name": "5.4", "version": "5.4"}
    assert item.get_closest_marker("lab") is not None


# --- mistakes ---------------------------------------------------------------------------------


def test_a_mistake_in_a_scenario_is_told_with_its_place(
    play: Play, pytester: pytest.Pytester
) -> None:
    path = pytester.path / "scenarios/all.yaml"
    path.write_text(path.read_text().replace("    about:", "    abuot:", 1))
    result = play("--lab", "lab.yaml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*scenarios/all.yaml:3:5: unknown key 'abuot'*", "*hint: *"])
    assert "Traceback" not in str(result.stdout)


def test_a_kernel_that_there_is_not(play: Play) -> None:
    result = play("--lab", "lab.yaml", "--lab-kernel", "9.9")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["--lab-kernel 9.9: no kernel of this lab is that", "  hint: kernels: 5.4, 6.1, *"]
    )


def test_a_lab_that_there_is_not(play: Play) -> None:
    result = play("--lab", "nowhere.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*nowhere.yaml*"])


@pytest.mark.parametrize("mark", ["'six'", "", "'>=5.6', '<6'"])
def test_a_mark_that_says_no_range(play: Play, pytester: pytest.Pytester, mark: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.kernels({mark}){TEST}")
    result = play("--lab", "lab.yaml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*::test_it: @pytest.mark.kernels: *"])


# --- without a guest --------------------------------------------------------------------------


def test_scenarios_for_other_kernels_are_skipped_and_nothing_is_run(
    play: Play, pytester: pytest.Pytester
) -> None:
    result = play("--lab", "lab.yaml", "lab.yaml::all/loading-twice[5.4]", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * it is for kernels >=5.6, this is 5.4"])
    assert not (pytester.path / "lab-results").exists()


def test_a_host_that_lacks_something_is_an_error_of_every_setup(
    play: Play, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    empty = pytester.mkdir("empty")
    monkeypatch.setenv("PATH", str(empty))
    result = play("--lab", "lab.yaml", "lab.yaml", "-k", "uname")
    result.assert_outcomes(errors=2, deselected=4)
    result.stdout.fnmatch_lines(["*ERROR at setup of all/uname on 5.4*", "*hint: *"])


def test_a_kernel_that_cannot_be_had_is_an_error_with_its_hint(
    play: Play, pytester: pytest.Pytester
) -> None:
    result = play("--lab", "lab.yaml", "lab.yaml::all/uname[5.4]", "--lab-offline")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of all/uname on 5.4*", "*offline*"])
    result.stdout.fnmatch_lines(["report: lab-results/*/report.txt"])
    (run,) = (path for path in pytester.path.glob("lab-results/*/") if not path.is_symlink())
    assert (run / "results.json").exists()
    assert (pytester.path / "lab-results/latest").resolve() == run


def test_what_failed_last_is_played_alone(play: Play) -> None:
    lab = ("--lab", "lab.yaml", "--lab-offline", "--lab-kernel", "5.4", "--lab-kernel", "6.1")
    play(*lab, "-k", "uname and focal").assert_outcomes(errors=1, deselected=5)
    assert collected(play, *lab, "--lf") == ["lab.yaml::all/uname[5.4]"]
    first, *rest = collected(play, *lab, "--ff")
    assert (first, len(rest)) == ("lab.yaml::all/uname[5.4]", 5)


def test_a_guest_that_cannot_be_had_is_an_error_with_its_hint(
    play: Play, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_a=TEST)
    result = play("--lab", "lab.yaml", "test_a.py", "--lab-offline", "--lab-kernel", "5.4")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_it[[]5.4]*", "*offline*"])


def test_a_test_with_a_guest_is_played_on_every_kernel(
    play: Play, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_a=TEST)
    found = collected(play, "--lab", "lab.yaml", "test_a.py")
    assert found == ["test_a.py::test_it[5.4]", "test_a.py::test_it[6.1]"]


# --- where no lab is named --------------------------------------------------------------------


def test_a_guest_of_no_lab(play: Play, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST)
    result = play()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*lab_guest: no lab is named; --lab FILE does*"])


def test_without_a_lab_nothing_of_the_lab_is_there(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"""
        import sys

        def test_nothing_was_imported(pytestconfig):
            loaded = {{name for name in sys.modules if name.startswith("orchestrator")}}
            assert loaded <= {{"orchestrator", "orchestrator.doors", {MODULE!r}}}
            assert "pydantic" not in sys.modules
            assert not pytestconfig.pluginmanager.has_plugin({SESSION!r})
    """)
    pytester.runpytest_subprocess(*PLUGIN, "-W", "error").assert_outcomes(passed=1)


# --- what a failure looks like ----------------------------------------------------------------


def hostile() -> CellError:
    mismatch = Mismatch("stdout", "it is \x1b[31mred", ("-one", "+\x1b[2Jtwo"))
    step = StepResult(1, "run x", Outcome.FAILED, mismatches=(mismatch,))
    cell = CellResult("6.1", "all/x", Outcome.FAILED, "it is \x1b[31mred", (step,))
    return CellError(cell, Path("run"), Path("scenarios/all.yaml"), 7)


def test_nothing_from_a_guest_is_obeyed_and_the_short_summary_has_the_reason() -> None:
    shown = CellRepr.of(hostile())
    assert "\x1b" not in str(shown)
    assert "       +\\x1b[2Jtwo" in shown.lines
    assert str(shown.reprcrash) == "scenarios/all.yaml:7: it is \\x1b[31mred"


class Terminal:
    """Notes with what each line is printed."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, bool]]] = []

    def line(self, text: str, **markup: bool) -> None:
        self.lines.append((text, markup))


def test_differences_are_coloured() -> None:
    terminal = Terminal()
    CellRepr.of(hostile()).toterminal(terminal)  # type: ignore[arg-type]
    colours = {text.strip(): markup for text, markup in terminal.lines}
    assert colours["-one"] == {"red": True}
    assert colours["+\\x1b[2Jtwo"] == {"green": True}


def test_a_failure_that_came_from_another_process_is_the_same() -> None:
    shown = CellRepr.of(hostile())
    place = shown.reprcrash
    report = pytest.TestReport(
        *("lab.yaml::x", ("", 0, ""), {}, "failed", str(shown), "call"),
        lab_crash=(place.path, place.lineno, place.message),
    )
    again = CellRepr.restored(report).longrepr
    assert (again.lines, again.reprcrash) == (shown.lines, place)


# --- the page about it ------------------------------------------------------------------------

COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def page_lab(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """This repository's lab, with the page's tests beside it."""
    monkeypatch.setenv("LAB_CACHE", str(pytester.path / "cache"))
    shutil.copy(REPOSITORY / "lab.yaml", pytester.path)
    shutil.copytree(REPOSITORY / "kmod", pytester.path / "kmod")
    write_page_tests(pytester.mkdir("tests"))


def write_page_tests(folder: Path) -> Path:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = folder / "test_page.py"
    path.write_text(block)
    return path


@pytest.mark.usefixtures("page_lab")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page(pytester: pytest.Pytester, command: str) -> None:
    if " -n " in command and find_spec("xdist") is None:
        pytest.skip("pytest-xdist is not installed")
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    result = pytester.runpytest_inprocess(*PLUGIN, "--collect-only", "-q", *arguments)
    assert result.ret == 0
    assert ids(result)


@pytest.mark.usefixtures("page_lab")
def test_the_ini_file_of_the_page(pytester: pytest.Pytester) -> None:
    (text,) = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    pytester.makeini(text)
    found = ids(pytester.runpytest_inprocess(*PLUGIN, "--collect-only", "-q"))
    (name,) = set(re.findall(r"`(lab\.yaml::\S+\[6\.1\])`", PAGE))
    assert name in found
    assert "tests/test_page.py::test_it_is_there_once[6.1]" in found


def test_the_page_names_every_option_and_all_that_a_guest_has() -> None:
    from orchestrator.doors.pytest_guest import LabGuest

    source = (REPOSITORY / "orchestrator/doors/pytest_plugin.py").read_text()
    options = set(re.findall(r'"(--lab[a-z-]*)"', source))
    assert options >= {"--lab", "--lab-kernel"}
    members = {name for name in vars(LabGuest) if not name.startswith("_")} - {"close"}
    assert {each for each in options | members if f"`{each}" not in PAGE} == set()


def test_two_labs_may_share_a_folder_of_results(play: Play, pytester: pytest.Pytester) -> None:
    text = LAB.replace("lab: demo", "lab: other")
    write_lab(pytester.mkdir("other"), lab=text)
    labs = ("--lab", "lab.yaml", "--lab", "other/lab.yaml")
    chosen = ("--lab-offline", "--lab-kernel", "5.4", "-k", "uname", "--lab-results", "results")
    result = play(*labs, *chosen)
    result.assert_outcomes(errors=2, deselected=4)
    runs = [path for path in pytester.path.glob("results/*/") if not path.is_symlink()]
    assert sorted((run / "results.json").exists() for run in runs) == [True, True]
