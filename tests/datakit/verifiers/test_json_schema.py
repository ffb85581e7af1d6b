"""JSON against schemas, by hand; schemas and responses that are hostile."""

from __future__ import annotations

import json
import sys
import time

import pytest

from datakit.label import Verify
from datakit.verifiers import json_schema
from schemas.errors import ConfigError
from tests.datakit.verifiers.rows import verdicts

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


@pytest.mark.parametrize(
    ("response", "right", "why"),
    [
        ('{"name": "Ada", "age": 36}', 1, None),
        ('```json\n{"name": "Ada"}\n```', 1, None),
        ('```\n{"name": "Ada"}\n```\n', 1, None),
        ('```JSON {"name": "Ada"}```', 1, None),
        ('```python\n{"name": "Ada"}\n```', 0, "no JSON"),
        ('{"name": "ada"}', 0, "$.name: does not match"),
        ('{"name": "Ada", "age": -1}', 0, "$.age"),
        ('{"name": "Ada", "age": 1.5}', 0, "$.age"),
        ('{"age": 1}', 0, "required"),
        ('{"name": "Ada", "x": 1}', 0, "Additional"),
        ("Ada", 0, "no JSON"),
        ("", 0, "no JSON"),
        ('{"name": "Ada", "name": "Bob"}', 0, "given twice"),
        ('{"name": "Ada", "age": NaN}', 0, "NaN"),
        ("[" * 100_000, 0, "no JSON"),
    ],
)
def test_a_response_fits_or_it_is_told_why_not(response, right, why):
    for made in (verdicts("json_schema", [(response, None)], schema=PERSON),
                 verdicts("json_schema", [(response, json.dumps(PERSON))])):  # fmt: skip
        ((value, read),) = made
        assert value == right and (read is None if why is None else why in read), read


LOOP = {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}
BOMB = {"$defs": {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(40)} | {"d40": {}},
        "$ref": "#/$defs/d0"}  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        LOOP, BOMB, {"$ref": "https://example.com/schema"}, {"$ref": "#/$defs/none"}, {"$ref": 3}, {"$ref": "#"},
        {"type": "strange"}, {"type": "string", "pattern": "(?=a)"}, {"patternProperties": {"(a+)+$": {}}},
        {"minimum": "a"}, {"pattern": "(a{900}){900}"}, {"$dynamicRef": "#a"}, {"enum": list(range(9000))},
    ],
    ids=lambda one: json.dumps(one)[:30],
)  # fmt: skip
def test_schemas_that_cannot_be_used_are_set_aside_and_refused(schema):
    begun = time.process_time()
    assert verdicts("json_schema", [("1", json.dumps(schema))]) == [(-1, None)]
    with pytest.raises(ConfigError, match="bad-setting"):
        Verify(kind="json_schema", settings={"schema": schema})
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("gold", [None, "", "{", "3", '"a"', "[" * 10_000])
def test_gold_answers_that_are_no_schema_are_set_aside(gold):
    assert verdicts("json_schema", [("1", gold)])[0][0] == -1


def test_a_property_may_be_called_as_a_keyword_is():
    schema = {"properties": {"pattern": {"type": "integer"}}}
    assert [right for right, _ in verdicts("json_schema", [('{"pattern": 1}', None), ('{"pattern": "a"}', None)],
                                           schema=schema)] == [1, 0]  # fmt: skip


def test_hostile_patterns_and_long_answers_take_bounded_time():
    begun = time.process_time()
    schema = {"type": "array", "items": {"anyOf": [{"type": "string", "pattern": "(a+)+$"}] * 50}}
    long = json.dumps(["a" * 20_000 + "!"])
    assert verdicts("json_schema", [(long, None)], schema=schema)[0][0] == 0
    many = json.dumps(["b"] * 100_000)
    assert verdicts("json_schema", [(many, None)], schema=schema) == [(0, "too long to be checked")]
    assert time.process_time() - begun < 10


def test_the_library_is_asked_for_where_it_is_not(monkeypatch):
    json_schema._checker.cache_clear()
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ConfigError, match="jsonschema, which is not installed"):
        verdicts("json_schema", [("1", "{}")])
    json_schema._checker.cache_clear()
