"""JSON that fits a schema (draft 2020-12): that of the settings for all rows, or each row's gold answer.

A schema from outside may be hostile. References are put in place before anything is checked (none that leads outside or
into itself), patterns go through the linear engine of `regex`, and what would ask for too many steps is refused by its
size: parts of the schema times characters of the response.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from datakit.verifiers.regex import usable
from datakit.verifiers.verifier import Verifier
from schemas.canonical import canonical
from schemas.errors import ConfigError, printable
from schemas.installed import missing_library
from schemas.untrusted import strict_json, unfenced

if TYPE_CHECKING:
    import polars as pl

_MOST_PARTS = 5000
_MOST_STEPS = 1 << 23
_REFUSED = ("patternProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems")
_SELF = ("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$vocabulary")
_NO_PARTS = ("$defs", "definitions", "$id")


@dataclass(frozen=True, kw_only=True)
class JsonSchema(Verifier):
    """Whether a response is JSON, in a code fence or not, that fits `schema` (empty: the gold answer of the row).

    Keywords by which a schema refers to itself, or matches names of keys by patterns, are not taken.
    """

    kind: ClassVar[str] = "json_schema"

    schema: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schema and _checker(canonical(self.schema)) is None:
            raise ConfigError(
                "bad-setting", f"schema {printable(canonical(self.schema), 200)} cannot be used",
                expected="a JSON schema whose references are its own and do not lead into themselves, without "
                f"{', '.join(_REFUSED)}",
            )  # fmt: skip

    @property
    def gold(self) -> str:
        return "" if self.schema else "a JSON schema"

    @property
    def reading(self) -> str:
        return "why it does not fit"

    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        texts = [unfenced(text or "") for text in rows["response"]]
        own = canonical(self.schema) if self.schema else None
        checkers = [None if gold is None else _checker(gold) for gold in ([own] * len(rows) if own else rows["gold"])]
        faults = [None if check is None else check(text) for check, text in zip(checkers, texts, strict=True)]
        kinds = {"right": pl.Float64, "read": pl.String, "known": pl.Boolean}
        columns = {
            "right": [float(fault == "") for fault in faults],
            "read": [fault or None for fault in faults],
            "known": [check is not None for check in checkers],
        }
        return pl.DataFrame(columns, schema=kinds)


@functools.lru_cache(maxsize=256)
def _checker(text: str) -> Callable[[str], str] | None:
    """A function that says what is wrong with a response (nothing: an empty text); None for a schema that cannot be
    used; `ConfigError` where the library is not there.
    """
    try:
        from jsonschema import Draft202012Validator, ValidationError, validators
        from jsonschema.exceptions import SchemaError
    except ImportError as fault:
        raise missing_library("label.verify of kind json_schema", "jsonschema", "verifiers") from fault
    try:
        parts: list[None] = []
        schema = _in_place(strict_json(text), parts)
        Draft202012Validator.check_schema(schema)
    except (ValueError, SchemaError, RecursionError, KeyError, TypeError):
        return None

    def pattern(_: Any, rule: str, value: Any, __: Any) -> Any:
        import polars as pl

        if isinstance(value, str) and not pl.Series([value]).str.contains(rule).item():
            yield ValidationError(f"does not match {rule}")

    validator = validators.extend(Draft202012Validator, {"pattern": pattern})(schema)

    def check(response: str) -> str:
        if len(response) * len(parts) > _MOST_STEPS:
            return "too long to be checked"
        try:
            fault = next(iter(validator.iter_errors(strict_json(response))), None)
        except (ValueError, RecursionError) as unread:
            return f"no JSON: {printable(unread, 100)}"
        return "" if fault is None else f"{printable(fault.json_path, 60)}: {printable(fault.message, 100)}"

    return check


def _in_place(schema: Any, parts: list[None]) -> Any:
    """The schema with what its references name in their places; `ValueError` for one that cannot be used."""
    whole = schema

    def walk(part: Any, within: tuple[str, ...]) -> Any:
        parts.append(None)
        if len(parts) > _MOST_PARTS:
            raise ValueError("too large")
        if isinstance(part, list):
            return [walk(one, within) for one in part]
        if not isinstance(part, dict):
            return part
        if any(name in part for name in (*_REFUSED, *_SELF)) or (
            "pattern" in part and not _is_pattern(part["pattern"])
        ):
            raise ValueError("not taken")
        reference = part.get("$ref")
        if reference is None:
            return {name: walk(one, within) for name, one in part.items() if name not in _NO_PARTS}
        if not isinstance(reference, str) or not reference.startswith("#/") or reference in within:
            raise ValueError("a reference outside, or into itself")
        target = whole
        for name in reference[2:].split("/"):
            target = target[name.replace("~1", "/").replace("~0", "~")]
        rest = {name: one for name, one in part.items() if name != "$ref"}
        there = walk(target, (*within, reference))
        return {"allOf": [there, walk(rest, within)]} if rest else there

    return walk(schema, ())


def _is_pattern(text: Any) -> bool:
    """Whether a pattern goes through the linear engine; under a property that is called so stands a schema."""
    import polars as pl

    return isinstance(text, dict) or (isinstance(text, str) and bool(pl.select(usable(pl.lit(text))).item()))
