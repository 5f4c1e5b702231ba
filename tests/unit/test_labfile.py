"""lab.yaml and scenario files: what they become, and what is said of each mistake."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sources import entry_types
from orchestrator.adapters.sources.distribution import DistributionEntry
from orchestrator.foundation.errors import ConfigError, Position
from orchestrator.plan import labfile, model
from orchestrator.plan.labfile import load_lab, load_scenarios
from orchestrator.plan.model import (
    BackgroundStep,
    CollectEntry,
    Data,
    EndStep,
    ExecStep,
    Lab,
    LoadStep,
    LogLine,
    LogStep,
    Match,
    ReadStep,
    RebootStep,
    Repeat,
    RunStep,
    UnloadStep,
    WriteStep,
)
from orchestrator.plan.version import KernelVersion
from orchestrator.plan.yamlsource import parse_yaml

# No deadline: the machine may be busy with guests.
UNHURRIED = settings(deadline=None)

LAB = """\
lab: demo
modules: {hello: kmod/hello}
kernels:
  deb12: {image: debian-12, version: 6.1}
scenarios: [scenarios/*.yaml]
"""

EVERYTHING = """\
scenarios:
  greeting:
    about: The module says hello.
    modules: [hello, other-one]
    kernels: ">=5.6 <7.0"
    expect_kernel: [warning]
    leaves: [/proc/hello, "/proc/devices: char * hello"]
    collect: [/tmp/out, {path: '/var/log/*.bin', required: true}]
    fresh: true
    steps:
      - load: extra
        parameters: {count: 3, loud: true, mode: 0644, mask: 0x1F, ratio: 1.50, text: a b}
      - run: cat /proc/hello
        name: first
        timeout: 2.5
        expect: "Hello\\n"
      - run: "true"
        stdin: 42
        user: 1000
        expect:
          status: 0
          stdout: 6.10
          stderr: {lacks: [oops], matches: '^$'}
          within: 1
      - exec: tests/suite
        program: run.sh
        make: true
        arguments: [--count, 3, "", true]
        environment: {TARGET: /proc/hello, LEVEL: 0x10}
        user: 1000
        output: tap
        expect: {status: 1}
      - exec: tests/smoke.sh
        expect: "fine\\n"
      - read: /proc/hello
        size: 16
        offset: 0x10
        expect: {content: {hex: 00 ff, size: 2}}
      - read: /proc/hello
        expect: whole
      - write: /proc/hello
        data: {repeat: {text: ab, times: 3}}
        append: true
        expect: {errno: ENOSPC}
      - write: /proc/hello
        data: {hex: 0 0 ff}
        expect: {written: 2}
      - write: /proc/hello
        data: 5
      - background: sleep 100
        name: bg
        until: ready
      - end: bg
        signal: SIGTERM
        expect: {signal: SIGTERM}
      - log:
          since: first
          has: [hello, {regex: 'w.rld', count: 2}]
          in_any_order: true
          lacks: [BUG, {text: Oops}]
          ktap: true
      - unload: extra
        expect: {within: 5}
      - reboot: true
"""

GOOD = "scenarios:\n  one: {steps: [{run: a}]}\n"


def steps(text: str) -> str:
    """A scenario file of one scenario with these steps; they begin in line 4, column 7."""
    lines = "".join(f"      {line}\n" for line in text.split("\n"))
    return f"scenarios:\n  one:\n    steps:\n{lines}"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a lab in it, and with what bad labs name."""
    monkeypatch.chdir(tmp_path)
    for name in ("kmod/hello", "kmod/empty", "kmod/make", "scenarios", "more", "bad", "twin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "kmod/hello/Kbuild").touch()
    (tmp_path / "kmod/make/Makefile").touch()
    (tmp_path / "kmod/out").symlink_to("/etc")
    (tmp_path / "kmod/loop").symlink_to("loop")
    (tmp_path / "more/x.yaml").symlink_to("/etc/passwd")
    (tmp_path / "bad/a b.yaml").touch()
    (tmp_path / "twin/hello.yaml").touch()
    (tmp_path / "lab.yaml").write_text(LAB)
    (tmp_path / "scenarios/hello.yaml").write_text(GOOD)
    write_programs(tmp_path)
    return tmp_path


def write_programs(root: Path) -> None:
    """The test programs that labs here bring, good and bad."""
    (root / "tests/suite/sub").mkdir(parents=True)
    (root / "tests/bare").mkdir()
    (root / "tests/suite/Makefile").touch()
    (root / "tests/steps.c").touch()
    for name in ("smoke.sh", "suite/run.sh", "bare/run.sh"):
        (root / "tests" / name).touch()
        (root / "tests" / name).chmod(0o755)
    for name in ("plain.sh", "suite/plain.sh"):
        (root / "tests" / name).touch(mode=0o644)
    os.mkfifo(root / "tests/pipe")
    (root / "tests/out").symlink_to("/etc")
    (root / "tests/suite/up.sh").symlink_to("../smoke.sh")


def refusal(path: Path = Path("lab.yaml")) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_lab(path, entry_types())
    return caught.value


def check(error: ConfigError, rendered: str) -> None:
    """That the error reads exactly so, and that its parts agree with what it reads."""
    assert error.render() == rendered
    assert error.where is not None
    assert error.message.startswith(f"{error.where}: ")
    assert error.message.endswith(f" (at {error.dotted})" if error.dotted else "")


def mistakes(name: str) -> list[tuple[str, str]]:
    """The cases of a table: what is written, and what is said of it.

    In the file, ``>>>`` is between the two and ``---`` between cases.
    """
    text = (Path(__file__).parent / "data" / name).read_text(encoding="utf-8")
    cases = (case.split("\n>>>\n") for case in text.split("\n---\n"))
    return [(written, said.rstrip("\n")) for written, said in cases]


LAB_KEYS = (
    "allowed here: lab, modules, kernels, groups, scenarios, leaves, allow, images, guest, build, "
    "timeouts, settle"
)


# --- what is said of mistakes -----------------------------------------------------------------


@pytest.mark.parametrize(("text", "said"), mistakes("step_mistakes.txt"))
def test_mistakes_in_steps(root: Path, text: str, said: str) -> None:
    (root / "scenarios/hello.yaml").write_text(steps(text))
    check(refusal(), said)


@pytest.mark.parametrize(("text", "said"), mistakes("scenario_mistakes.txt"))
def test_mistakes_in_scenario_files(root: Path, text: str, said: str) -> None:
    (root / "scenarios/hello.yaml").write_text(text + "\n")
    check(refusal(), said)


@pytest.mark.parametrize(("text", "said"), mistakes("lab_mistakes.txt"))
def test_mistakes_in_lab_files(root: Path, text: str, said: str) -> None:
    (root / "lab.yaml").write_text(text + "\n")
    check(refusal(), said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "\n".join(["- run: a"] * 501),
            ":7: the list has more than 500 items (at scenarios.one.steps)",
        ),
        (
            f"- run: {'a' * 65537}",
            ":14: the text is longer than 65536 characters (at scenarios.one.steps[0].run)",
        ),
        (
            "- log: {has: [{regex: '" + "a" * 501 + "'}]}",
            ":29: the text is longer than 500 characters"
            " (at scenarios.one.steps[0].log.has[0].regex)",
        ),
        (
            "- log: {has: [{regex: 'a{99999999999}'}]}",
            ":29: not a regular expression: the repetition number is too large"
            " (at scenarios.one.steps[0].log.has[0].regex)",
        ),
        (
            "- write: /x\n  data: {hex: '" + "0" * 5000 + "g'}",
            None,
        ),
    ],
    ids=["steps", "command", "regex", "repetition", "hex"],
)
def test_limits(root: Path, text: str, said: str | None) -> None:
    (root / "scenarios/hello.yaml").write_text(steps(text))
    error = refusal()
    assert len(error.message) < 300
    if said is not None:
        check(error, f"scenarios/hello.yaml:4{said}")


def test_a_regex_nested_to_the_limit_is_judged_not_crashed_on(root: Path) -> None:
    regex = "(" * 250 + ")" * 250
    (root / "scenarios/hello.yaml").write_text(steps(f"- log: {{has: [{{regex: '{regex}'}}]}}"))
    said = _said_of(root / "lab.yaml")
    assert said == "" or "not a regular expression" in said


def test_python_warnings_are_no_errors(root: Path) -> None:
    (root / "scenarios/hello.yaml").write_text(steps("- log: {has: [{regex: '[[a]'}]}"))
    load_lab(Path("lab.yaml"), entry_types())


def test_many_mistakes_do_not_take_long(root: Path) -> None:
    many = ", ".join(f"kernel{number}" for number in range(3000))
    (root / "lab.yaml").write_text(f"{LAB}groups: {{quick: [{many}]}}\n")
    started = time.process_time()
    assert refusal().hint == "kernels here: deb12; and 2999 more in this file"
    unknown = "".join(f"k{number}: 1\n" for number in range(3000))
    (root / "lab.yaml").write_text(LAB + unknown)
    assert refusal().hint == f"{LAB_KEYS}; and 2999 more in this file"
    # About half a second; it only has to be told from looking for similar names each time.
    assert time.process_time() - started < 5


def test_rendered_message() -> None:
    error = ConfigError("x", where=Position(Path("a.yaml"), 1, 2), dotted="b.c", hint="d")
    assert error.render() == "a.yaml:1:2: x (at b.c)\n  hint: d"


def test_all_mistakes_are_counted_and_the_first_is_told(root: Path) -> None:
    text = (
        "lab: de mo\nextra: 1\nkernels:\n  a: {image: 5, versoin: 6}\n"
        "scenarios: x\ntimeouts: {boot: -1}\n"
    )
    (root / "lab.yaml").write_text(text)
    check(
        refusal(),
        "lab.yaml:1:6: the text 'de mo' is not a name: up to 80 letters, digits and '.', '_', '+',"
        " '-', the first a letter or digit (at lab)\n  hint: and 4 more in this file",
    )


def test_nothing_is_told_that_may_only_follow_from_what_is_absent(root: Path) -> None:
    (root / "lab.yaml").write_text("lab: de mo\nkernels:\nimages: ~\nextra: 1\n")
    check(
        refusal(),
        "lab.yaml:2:1: nothing is given for 'kernels'\n  hint: leave out a key that is not needed;"
        ' empty text is written ""; and 2 more in this file',
    )


# --- files that cannot be had -----------------------------------------------------------------


def test_lab_file_that_is_none(root: Path) -> None:
    assert refusal(Path("none.yaml")).message == "cannot read none.yaml: No such file or directory"
    assert refusal(root / "none.yaml").message == "cannot read none.yaml: No such file or directory"
    assert refusal(Path("scenarios")).message == "cannot read scenarios: it is a folder"


def test_scenario_file_that_is_a_fifo(root: Path) -> None:
    os.mkfifo(root / "scenarios/a.yaml")
    assert refusal().message == "cannot read scenarios/a.yaml: it is not a regular file"


def test_scenario_file_that_is_empty(root: Path) -> None:
    (root / "scenarios/a.yaml").touch()
    assert refusal().message == "scenarios/a.yaml:1:1: the file is empty"


def test_scenario_file_that_points_nowhere(root: Path) -> None:
    (root / "scenarios/a.yaml").symlink_to("b")
    assert refusal().message == "cannot read scenarios/a.yaml: No such file or directory"


def test_path_longer_than_the_system_takes(root: Path) -> None:
    (root / "lab.yaml").write_text(LAB.replace("kmod/hello", "x" * 300))
    assert re.fullmatch(
        r"lab\.yaml:2:18: 'x{59}…' does not exist \(at modules\.hello\)", refusal().message
    )


def test_too_many_scenario_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labfile, "MAX_SCENARIO_FILES", 1)
    (root / "scenarios/b.yaml").write_text(GOOD)
    check(refusal(), "lab.yaml:5:12: more than 1 scenario files (at scenarios)")


def test_messages_name_files_from_where_one_stands(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "scenarios/hello.yaml").write_text("scenarios: []\n")
    monkeypatch.chdir(root / "scenarios")
    assert refusal(root / "lab.yaml").message.startswith("hello.yaml:1:12: ")
    assert refusal(Path("../lab.yaml")).message.startswith("hello.yaml:1:12: ")
    monkeypatch.chdir(root / "kmod")
    assert refusal(Path("../lab.yaml")).message.startswith(f"{root}/scenarios/hello.yaml:1:12: ")


# --- what files become ------------------------------------------------------------------------


def test_defaults(root: Path) -> None:
    lab = load_lab(Path("lab.yaml"), entry_types())
    assert isinstance(lab, Lab)
    assert lab.path == root / "lab.yaml"
    assert lab.file.kernels == {"deb12": DistributionEntry(image="debian-12", version="6.1")}
    assert lab.module_dirs == {"hello": root / "kmod/hello"}
    assert lab.images_dir is None
    assert lab.file.groups == {}
    assert (lab.file.guest.memory_mib, lab.file.guest.cpus) == (512, 2)
    assert (lab.file.timeouts.boot, lab.file.timeouts.step) == (30.0, 10.0)
    assert lab.file.build == "auto"
    (scenario,) = lab.scenarios
    assert scenario.name == "hello/one"
    assert (scenario.path, scenario.line) == (root / "scenarios/hello.yaml", 2)
    assert scenario.kernels.contains(KernelVersion.parse("2.6.32"))
    assert scenario.scenario.steps == (RunStep(run="a"),)


def test_everything(root: Path) -> None:
    (root / "scenarios/hello.yaml").write_text(EVERYTHING)
    (named,) = load_scenarios(root / "scenarios/hello.yaml", root)
    scenario = named.scenario
    assert named.name == "hello/greeting"
    assert named.modules == ("hello", "other-one", "extra")
    assert named.kernels.text == ">=5.6 <7.0"
    assert (scenario.expect_kernel, scenario.fresh) == (("warning",), True)
    assert scenario.leaves == ("/proc/hello", "/proc/devices: char * hello")
    assert scenario.collect == (
        "/tmp/out",
        CollectEntry(path="/var/log/*.bin", required=True),
    )
    (load, first, true, made, smoke, *rest) = scenario.steps
    (pread, read, repeat, digits, text, back, end, log, unload, reboot) = rest
    assert isinstance(made, ExecStep)
    assert made.arguments == ("--count", "3", "", "true")
    assert made.environment == {"TARGET": "/proc/hello", "LEVEL": "0x10"}
    assert (made.program, made.make, made.user, made.output) == ("run.sh", True, 1000, "tap")
    assert (made.expect.status, made.title) == (1, "exec tests/suite/run.sh --count 3  true")
    assert isinstance(smoke, ExecStep)
    assert (smoke.output, smoke.expect.stdout, smoke.make) == ("auto", "fine\n", False)
    assert named.programs == (made, smoke)
    assert isinstance(load, LoadStep)
    assert load.parameters == {
        "count": 3,
        "loud": True,
        "mode": "0644",
        "mask": "0x1F",
        "ratio": "1.50",
        "text": "a b",
    }
    assert [type(value) for value in load.parameters.values()] == [int, bool, str, str, str, str]
    assert isinstance(first, RunStep)
    assert (first.name, first.timeout, first.expect.stdout) == ("first", 2.5, "Hello\n")
    assert isinstance(true, RunStep)
    assert (true.run, true.stdin, true.user, true.expect.stdout) == ("true", "42", 1000, "6.10")
    assert true.expect.stderr == Match(lacks=("oops",), matches="^$")
    assert isinstance(pread, ReadStep)
    assert (pread.size, pread.offset) == (16, 16)
    assert pread.expect.content == Match(hex="00 ff", size=2)
    assert isinstance(read, ReadStep)
    assert read.expect.content == "whole"
    assert isinstance(repeat, WriteStep)
    assert repeat.data == Data(repeat=Repeat(text="ab", times=3))
    assert repeat.data_bytes == b"ababab"
    assert repeat.expect.errno == "ENOSPC"
    assert isinstance(digits, WriteStep)
    assert digits.data_bytes == b"\x00\xff"
    assert isinstance(text, WriteStep)
    assert text.data_bytes == b"5"
    assert isinstance(back, BackgroundStep)
    assert (back.name, back.until) == ("bg", "ready")
    assert isinstance(end, EndStep)
    assert (end.end, end.signal, end.expect.signal) == ("bg", "SIGTERM", "SIGTERM")
    assert isinstance(log, LogStep)
    assert log.log.has == ("hello", LogLine(regex="w.rld", count=2))
    assert log.log.lacks == ("BUG", LogLine(text="Oops"))
    assert log.log.ktap
    assert isinstance(unload, UnloadStep)
    assert isinstance(reboot, RebootStep)


def test_versions_are_read_as_written(root: Path) -> None:
    (root / "lab.yaml").write_text(
        LAB.replace(
            "deb12: {image: debian-12, version: 6.1}", "6.10: {image: 22.04, version: 6.10}"
        )
    )
    (root / "scenarios/hello.yaml").write_text(
        "scenarios:\n  5.10: {kernels: 5.10, steps: [{run: 1e3}]}\n"
    )
    lab = load_lab(Path("lab.yaml"), entry_types())
    assert lab.file.kernels == {"6.10": DistributionEntry(image="22.04", version="6.10")}
    (scenario,) = lab.scenarios
    assert (scenario.name, scenario.kernels.text) == ("hello/5.10", "5.10")
    assert scenario.scenario.steps == (RunStep(run="1e3"),)


def test_modules_images_and_groups(root: Path) -> None:
    (root / "images").mkdir()
    (root / "Makefile").touch()
    (root / "kmod/alias").symlink_to("make")
    (root / "lab.yaml").write_text(
        LAB.replace("{hello: kmod/hello}", "{a: kmod/make, b: ./kmod/alias/, c: .}")
        + "images: images\ngroups: {quick: [deb12]}\n"
    )
    lab = load_lab(root / "lab.yaml", entry_types())
    assert lab.module_dirs == {"a": root / "kmod/make", "b": root / "kmod/make", "c": root}
    assert lab.images_dir == root / "images"
    assert lab.file.groups == {"quick": ("deb12",)}


def test_programs_are_found_below_the_lab(root: Path) -> None:
    (root / "tests/alias.sh").symlink_to("smoke.sh")
    (root / "scenarios/hello.yaml").write_text(
        steps(
            "- exec: tests/smoke.sh\n- exec: ./tests/alias.sh\n- exec: tests/steps.c\n"
            "- exec: tests/suite/\n  program: made-by-make\n  make: true\n"
            "- exec: tests/bare\n  program: ./run.sh"
        )
    )
    assert load_lab(Path("lab.yaml"), entry_types()).program_paths == {
        "tests/smoke.sh": root / "tests/smoke.sh",
        "./tests/alias.sh": root / "tests/smoke.sh",
        "tests/steps.c": root / "tests/steps.c",
        "tests/suite/": root / "tests/suite",
        "tests/bare": root / "tests/bare",
    }


def test_arguments_are_bounded_in_all(root: Path) -> None:
    many = ", ".join(["x" * 4096] * 4)
    (root / "scenarios/hello.yaml").write_text(
        steps(f"- exec: tests/smoke.sh\n  arguments: [{many}]\n  environment: {{A: b}}")
    )
    assert "`arguments` and `environment` have more than 16384 bytes" in refusal().message


def test_scenarios_come_in_order_and_once(root: Path) -> None:
    for name in ("b", "a", "c"):
        (root / f"scenarios/{name}.yaml").write_text(GOOD)
    (root / "scenarios/.hidden.yaml").write_text("{")
    (root / "scenarios/dir.yaml").mkdir()
    (root / "top.yaml").write_text("scenarios: {z: {steps: [run: a]}, y: {steps: [run: a]}}")
    (root / "lab.yaml").write_text(
        LAB.replace("[scenarios/*", "[scenarios/c.yaml, '*.yaml', ./scenarios/*")
    )
    assert [scenario.name for scenario in load_lab(Path("lab.yaml"), entry_types()).scenarios] == [
        "c/one",
        "top/z",
        "top/y",
        "a/one",
        "b/one",
        "hello/one",
    ]


def test_lab_file_by_a_symbolic_link_to_its_folder(root: Path) -> None:
    (root / "link").symlink_to(root, target_is_directory=True)
    assert load_lab(Path("link/lab.yaml"), entry_types()).path == root / "lab.yaml"


# --- every field, every pattern ---------------------------------------------------------------


RESULTS = (model.Lab, model.NamedScenario)
DESCRIBED = [
    cls
    for cls in (*model.Value.__subclasses__(), *model.STEP_CLASSES)
    # Recipes are Values too, once some other test has imported them.
    if cls.__module__ == model.__name__ and cls not in (model.Step, *RESULTS)
]


def test_every_field_is_described() -> None:
    lacking = [
        f"{cls.__name__}.{name}"
        for cls in DESCRIBED
        for name, info in cls.model_fields.items()
        if info.description is None and name not in ("expect", "log", "guest", "timeouts")
    ]
    assert lacking == []


def test_every_pattern_has_words() -> None:
    schemas = [model.LabFile.model_json_schema(), model.ScenarioFile.model_json_schema()]
    patterns = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(schemas)))
    assert {json.loads(pattern) for pattern in patterns} <= model.PATTERN_WORDS.keys()


# --- the reference ----------------------------------------------------------------------------

LANGUAGE = (Path(__file__).parents[2] / "docs/language.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", LANGUAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_reference_are_taken(root: Path, text: str) -> None:
    if text.startswith("lab:"):
        (root / "src").mkdir()
        (root / "src/Kbuild").touch()
        (root / "lab.yaml").write_text(text)
    else:
        scenarios = text if text.startswith("scenarios:") else steps(text.rstrip("\n"))
        (root / "scenarios/hello.yaml").write_text(scenarios)
    assert load_lab(Path("lab.yaml"), entry_types()).scenarios


def test_the_reference_names_every_key_and_class() -> None:
    keys = {key for cls in DESCRIBED for key in cls.model_fields}
    words = {*keys, *model.STEP_VERBS, *get_args(model.FindingClass)}
    assert {word for word in words if f"`{word}`" not in LANGUAGE} == set()


def test_the_error_that_the_reference_shows(root: Path) -> None:
    shown = re.search(r"^    (scenarios/hello\.yaml:9:18: .*)\n    (.*)$", LANGUAGE, re.MULTILINE)
    assert shown is not None
    example = next(text for text in EXAMPLES if text.startswith("scenarios:\n  greeting:"))
    assert example.splitlines()[7] == '        expect: "Hello, world\\n"'
    broken = example.replace(
        'expect: "Hello, world\\n"', "timeout: 5\n        expect: {stduot: x}", 1
    )
    (root / "scenarios/hello.yaml").write_text(broken)
    check(refusal(), "\n".join(shown.groups()))


# --- any file ---------------------------------------------------------------------------------

JARGON = re.compile(
    r"pydantic|validation|Input should|https?:|Expect\b|[a-z]Step\b|_type\b|\[key\]|Annotated"
    r"|typing|NoneType|Written(?:Int|Float)|Traceback|tuple|dict|Error\b"
)
WORDS: list[Any] = [
    None, True, 0, -1, 5.5, 10**30, "", "x", "yes", "a b", "\x1b[31m", "*", ">=5.6", [], ["x"],
    [[]], {}, {"x": 1}, {"run": "a"}, {"text": "a"}, {"hex": "0"}, {"[key]": 1}, "/proc/x", "EIO",
]  # fmt: skip
KEYS = [
    "x",
    "run",
    "expect",
    "stdout",
    "text",
    "hex",
    "name",
    "[key]",
    "mapping",
    "steps",
    "<<",
    "",
]


@pytest.fixture(scope="module")
def fuzz_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "kmod/hello").mkdir(parents=True)
    (root / "kmod/hello/Kbuild").touch()
    (root / "scenarios").mkdir()
    write_programs(root)
    return root


def _judge(root: Path, lab: str, scenarios: str) -> None:
    """Load it; the only thing that may come is an error in plain words."""
    (root / "lab.yaml").write_text(lab)
    (root / "scenarios/hello.yaml").write_text(scenarios)
    said = _said_of(root / "lab.yaml").replace(str(root), "")
    assert said == "" or said.replace("\n", "", 1).isprintable()
    assert not JARGON.search(re.sub(r"'[^']*'|\(at .*\)", "", said)), said


def _said_of(path: Path) -> str:
    try:
        load_lab(path, entry_types())
    except ConfigError as error:
        return error.render()
    return ""


def _garble(text: str, chance: random.Random) -> str:
    fragments = [*"\"'[]{}:,-?*&!|>%@#~\t\n 0ax", ": ", "- ", "\n  ", "{}", "[]", "null", "- - "]
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(fragments) + text[at + chance.choice([0, 0, 1, 5]) :]
    return text


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key of a tree."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    here = [(value, key) for key, _ in items]
    return here + [p for _, item in items if isinstance(item, dict | list) for p in _places(item)]


def _reshape(tree: Any, chance: random.Random) -> None:
    """Replace, remove or add something somewhere in the tree."""
    for _ in range(chance.randint(1, 3)):
        places = _places(tree)
        if not places:
            return
        container, key = chance.choice(places)
        # A copy: what is put in twice must not become one thing in two places.
        word = copy.deepcopy(chance.choice(WORDS))
        action = chance.choice(["replace", "remove", "add"])
        if action == "replace":
            container[key] = word
        elif action == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[chance.choice(KEYS)] = word
        else:
            container.append(word)


@given(st.randoms(use_true_random=False))
@UNHURRIED
def test_garbled_text_is_a_lab_or_a_config_error(fuzz_root: Path, chance: random.Random) -> None:
    if chance.random() < 0.3:
        _judge(fuzz_root, _garble(LAB, chance), GOOD)
    else:
        _judge(fuzz_root, LAB, _garble(EVERYTHING, chance))


LAB_TREE = {
    "lab": "demo",
    "modules": {"hello": "kmod/hello"},
    "kernels": {"deb12": {"image": "debian-12", "version": "6.1", "flavour": "cloud"}},
    "groups": {"quick": ["deb12"]},
    "scenarios": ["scenarios/*.yaml"],
    "guest": {"memory_mib": 512, "cpus": 2, "arguments": ["quiet"]},
    "timeouts": {"boot": 60, "step": 10},
}


@given(st.randoms(use_true_random=False))
@UNHURRIED
def test_reshaped_trees_are_a_lab_or_a_config_error(fuzz_root: Path, chance: random.Random) -> None:
    # JSON is YAML, and is quick to write.
    lab = json.loads(json.dumps(LAB_TREE))
    scenarios = json.loads(json.dumps(parse_yaml(EVERYTHING.encode(), Path("x")).value))
    _reshape(lab if chance.random() < 0.3 else scenarios, chance)
    _judge(fuzz_root, json.dumps(lab), json.dumps(scenarios))
