"""Dataclasses as plain JSON, its one text and its digest: what manifests hold and keys are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

DEFAULT_UNNAMED = {"default_unnamed": True}
"""Metadata of a field that `identity_fields` leaves out at its default: added later, it leaves older digests alone."""

_LEAVES = frozenset({str, int, float, bool, type(None)})
"""What nearly all of a value is made of, asked for first: `is_dataclass` and `Mapping` cost more than all the rest."""


def identity_fields(value: Any) -> dict[str, Any]:
    """The dataclass `value` as plain JSON for a digest."""
    unnamed = {one.name: _default(one) for one in dataclasses.fields(value) if "default_unnamed" in one.metadata}
    return {
        name: item
        for name, item in plain(value).items()
        if name not in unnamed or getattr(value, name) != unnamed[name]
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def plain(value: object) -> Any:
    """`value` as plain JSON: dataclasses become objects, tuples become lists."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return {str(key): plain(item) for key, item in value.items()}  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return [plain(item) for item in value]  # type: ignore[attr-defined]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            inner = plain(getattr(value, field.name))
            result |= inner if "flattened" in field.metadata else {field.name: inner}
        return result
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def canonical(value: object) -> str:
    """The one JSON text of `value`: sorted keys, no blanks, no NaN; what digests are taken of."""
    return canonical_of_plain(plain(value))


_TEXT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_of_plain(value: Any) -> str:
    """`canonical` of what is plain JSON already, with texts as keys: looked through once."""
    return _TEXT.encode(value)


def json_digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
