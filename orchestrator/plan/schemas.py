"""JSON Schema of ``lab.yaml`` and of scenario files, made from the models.

For editors: completion, the descriptions of the reference beside the cursor, and a red line
under most mistakes before the lab is asked. What it cannot say (names that another place
defines, files, the order of steps, whether a regular expression compiles) is told by ``labfile``
alone, which has the last word.

Draft 7, because every editor's YAML support reads it. There, what stands beside a ``$ref`` does
not count, so a description there comes with ``allOf``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from orchestrator.plan.model import (
    Data,
    KernelEntry,
    LogExpect,
    LogLine,
    Match,
    ReadExpect,
    RunExpect,
    ScenarioFile,
    WriteExpect,
    as_written,
    lab_file_model,
)
from orchestrator.plan.yamlsource import WrittenFloat

DIALECT = "http://json-schema.org/draft-07/schema#"
_REF = "#/definitions/{model}"

Rule = Callable[[Iterable[str]], JsonSchemaValue]
"""From a class's keys to what must hold of them together."""


def _never_both(*keys: str) -> Rule:
    return lambda _: {"not": {"required": list(keys)}}


def _one_beside(*keys: str) -> Rule:
    """At least one key that is none of these, which say nothing alone."""
    return lambda known: {"anyOf": [{"required": [key]} for key in known if key not in keys]}


# What the validators of these classes say of several keys, as far as a schema can say it.
RULES: Mapping[type[BaseModel], tuple[Rule, ...]] = {
    Match: (_one_beside(), _never_both("equals", "hex")),
    RunExpect: (_never_both("status", "signal"),),
    ReadExpect: (_never_both("content", "errno"),),
    WriteExpect: (_never_both("written", "errno"),),
    Data: (_one_beside(), _never_both("hex", "repeat")),
    LogLine: (_one_beside("count"), _never_both("text", "regex")),
    LogExpect: (_one_beside("since", "in_any_order"),),
}


def make_lab_schema(entries: tuple[type[KernelEntry], ...]) -> JsonSchemaValue:
    """The schema of a ``lab.yaml`` that may name these kinds of kernels."""
    return _make(lab_file_model(entries), "kmod-lab: lab.yaml")


def make_scenario_schema() -> JsonSchemaValue:
    """The schema of a scenario file."""
    return _make(ScenarioFile, "kmod-lab: a scenario file")


def _make(model: type[BaseModel], title: str) -> JsonSchemaValue:
    made = model.model_json_schema(ref_template=_REF, schema_generator=_Generator)
    defs = made.pop("$defs", {})
    return {
        "$schema": DIALECT,
        **_tidy(made),
        "title": title,
        "definitions": {name: _tidy(defs[name]) for name in sorted(defs)},
    }


class _Generator(GenerateJsonSchema):
    """pydantic's, with what validators in Python make of a value before it is looked at."""

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        """Text that may be written as a number or a truth value: ``version: 6.10``."""
        inner = super().function_before_schema(schema)
        if schema["function"]["function"] is as_written and inner.get("type") == "string":
            return {**inner, "type": _written_types(inner)}
        return inner

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """A key may be absent, but not there with nothing after it."""
        return self.generate_inner(schema["schema"])

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """A mapping, with its rules, or the text that may stand for it."""
        cls: type[BaseModel] = schema["cls"]
        made = super().model_schema(schema)
        rules = [rule(made.get("properties", {})) for rule in RULES.get(cls, ())]
        if rules:
            made = {**made, "allOf": rules}
        plain = made.get("properties", {}).get(getattr(cls, "plain_key", ""))
        return made if plain is None else _or_plain(cls, made, plain)


def _written_types(text: JsonSchemaValue) -> str | list[str]:
    """Which plain values can stand for such a text: those that it could be when written."""
    types = ["string"]
    if _fits(text, ("5", "6.1")):
        types.append("number")
    if _fits(text, ("true", "false")):
        types.append("boolean")
    return types if len(types) > 1 else types[0]


def _fits(text: JsonSchemaValue, samples: Iterable[str]) -> bool:
    return any(re.search(text.get("pattern", ""), sample) for sample in samples)


def _or_plain(
    cls: type[BaseModel], mapping: JsonSchemaValue, plain: JsonSchemaValue
) -> JsonSchemaValue:
    """The mapping, or plain text in its place, which means its ``plain_key``."""
    kinds = ["string"]
    try:
        cls.model_validate(WrittenFloat(6.1, "6.1"))
        kinds.append("number")
    except ValidationError:
        pass  # in quotes only
    text = {
        key: value for key, value in plain.items() if key in ("pattern", "minLength", "maxLength")
    }
    arm: JsonSchemaValue = {"type": kinds if len(kinds) > 1 else kinds[0], **text}
    about: JsonSchemaValue = {
        key: mapping[key] for key in ("title", "description") if key in mapping
    }
    rest = {key: value for key, value in mapping.items() if key not in about}
    return {**about, "anyOf": [arm, rest]}


def _tidy(node: Any, *, names: bool = False) -> Any:
    """A schema as this lab publishes it; ``names``: the keys are the user's, not the schema's."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: _tidy(value) for key, value in node.items()}
    kept = {
        key: _tidy(value, names=key in ("properties", "patternProperties"))
        for key, value in node.items()
        if not _is_noise(key, value)
    }
    if "oneOf" in kept:
        # A number fits text and number alike, and one that fits is enough.
        kept["anyOf"] = kept.pop("oneOf")
    kept.pop("discriminator", None)
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].replace("``", "`").split())
    if "$ref" in kept and len(kept) > 1:
        kept["allOf"] = [{"$ref": kept.pop("$ref")}, *kept.get("allOf", ())]
    return kept


def _is_noise(key: str, value: Any) -> bool:
    """Titles that repeat a key's name, and defaults that are nothing or a whole mapping."""
    return key == "title" or (key == "default" and (value is None or isinstance(value, dict)))
