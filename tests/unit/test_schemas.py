"""The JSON Schemas: what the models make is what is published, and they know right from wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.doors import schema
from orchestrator.doors.cli import SCHEMAS, main
from orchestrator.foundation.errors import ConfigError
from orchestrator.plan.yamlsource import PlainValue, load_yaml, parse_yaml
from tests.unit.test_labfile import EVERYTHING, EXAMPLES, LAB, mistakes, steps

ROOT = Path(__file__).parents[2]
LABS = sorted(
    path
    for path in (*ROOT.glob("*.yaml"), *ROOT.glob("kmod/**/*.yaml"), *ROOT.glob("tests/**/*.yaml"))
    if "lab-results" not in path.parts
)


def checker(name: str) -> jsonschema.Draft7Validator:
    made = json.loads(schema.render(name))
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


CHECKERS = {name: checker(name) for name in ("lab", "scenario")}


def as_json(value: PlainValue) -> Any:
    """A document as an editor's reader has it: lists for tuples."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, tuple) else value


def complaints(text: str) -> list[str]:
    """What the schema says of a lab, or of a scenario file; it must be YAML that is taken."""
    value = as_json(parse_yaml(text.encode(), Path("x.yaml")).value)
    kind = "scenario" if isinstance(value, dict) and set(value) == {"scenarios"} else "lab"
    return [error.message for error in CHECKERS[kind].iter_errors(value)]


# --- published ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lab", "scenario"])
def test_the_published_file_is_what_the_models_make(name: str) -> None:
    path = schema.path_of(name)
    remake = f"python -m orchestrator schema {name} > {path.relative_to(ROOT)}"
    assert path.read_text("utf-8") == schema.render(name), (
        f"the models have changed: {remake} (make generated)"
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_printed_and_where_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", name]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["schema", name, "--path"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert json.loads(path.read_text("utf-8")) == printed


def test_every_key_is_described() -> None:
    """An editor shows it beside the cursor; whole mappings say what they are themselves."""

    def lacking(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        here = [
            f"{path}.{key}"
            for key, value in node.get("properties", {}).items()
            if "description" not in value and "$ref" not in value
        ]
        return here + [
            each for key, item in node.items() for each in lacking(item, f"{path}/{key}")
        ]

    for name in CHECKERS:
        assert lacking(json.loads(schema.render(name)), name) == []


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LAB, EVERYTHING, *EXAMPLES])
def test_examples_are_taken(text: str) -> None:
    whole = text if re.match("(lab|scenarios):", text) else steps(text.rstrip("\n"))
    assert complaints(whole) == []


@pytest.mark.parametrize("path", LABS, ids=lambda path: str(path.relative_to(ROOT)))
def test_labs_of_this_repository_are_taken(path: Path) -> None:
    load_yaml(path)
    assert complaints(path.read_text("utf-8")) == []


def test_labs_were_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in LABS}
    assert {"lab.yaml", "tests/faulty/lab.yaml", "kmod/scenarios/iter.yaml"} <= names


@pytest.mark.parametrize(
    "path", [ROOT / "lab.yaml", *(ROOT / "kmod").glob("**/*.yaml")], ids=lambda path: path.name
)
def test_an_editors_line_leads_to_the_schema_of_that_kind(path: Path) -> None:
    named = re.search(r"^# yaml-language-server: \$schema=(.+)$", path.read_text(), re.MULTILINE)
    assert named
    kind = "lab" if path.name == "lab.yaml" else "scenario"
    assert (path.parent / named[1]).resolve() == schema.path_of(kind)


# --- what is wrong ------------------------------------------------------------------------------

SHAPE = re.compile(
    r":\d+: (unknown key|key '\w+' is missing|found (?!the text)|nothing is given for"
    r"|a step needs one of|a list item with nothing|.*(must be (more|less|at)|is not allowed here))"
)
"""What is said of mistakes of shape: those a schema must know."""


def cases() -> list[tuple[str, str]]:
    """Every mistake that is YAML that is taken, as a whole file, with what the lab says of it."""
    written = [(steps(text), said) for text, said in mistakes("step_mistakes.txt")]
    for name in ("scenario_mistakes.txt", "lab_mistakes.txt"):
        written += [(text + "\n", said) for text, said in mistakes(name)]
    return [(text, said) for text, said in written if is_taken(text)]


def is_taken(text: str) -> bool:
    try:
        value = parse_yaml(text.encode(), Path("x.yaml")).value
    except ConfigError:
        return False
    return isinstance(value, dict)


@pytest.mark.parametrize(("text", "said"), [case for case in cases() if SHAPE.search(case[1])])
def test_mistakes_of_shape_are_refused(text: str, said: str) -> None:
    assert complaints(text) != [], said


def test_most_mistakes_are_refused() -> None:
    """The rest is beyond a schema: names, files, the order of steps, what a pattern means."""
    found = [(said, bool(complaints(text))) for text, said in cases()]
    missed = [said.partition("\n")[0] for said, refused in found if not refused]
    assert len(missed) <= 0.4 * len(found), "\n".join(missed)
    assert found
