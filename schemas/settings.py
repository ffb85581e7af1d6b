"""Frozen dataclasses from plain JSON, strictly: unknown keys, missing keys and wrong types are all listed.

An operation and a training run are configured by the dataclass they are. `parse` is the one door by which outside
settings come in, also under names that they had before (`older_names` of their dataclass); the way back is
`schemas.canonical`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import json
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from schemas.canonical import plain
from schemas.errors import printable
from schemas.nearest import nearest
from schemas.setting_faults import Faults
from schemas.untrusted import exact_json

T = TypeVar("T")
_LISTED = 8

FLATTENED = {"flattened": True}
"""Metadata of a field that is a dataclass: its fields stand in the JSON of the outer one as if they were its own."""


_MAPPINGS = (dict, Mapping, collections.abc.Mapping)
_WORDS = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false", type(None): "null"}


def at_least(number: float) -> dict[str, float]:
    """Metadata of a field whose number may not be smaller (`bound_faults`)."""
    return {"least": number}


def bound_faults(value: Any, path: str = "") -> list[str]:
    """Numbers of the dataclass `value`, which stands below `path`, that are smaller than fields say (`at_least`)."""
    bounds = {field.name: field.metadata["least"] for field in dataclasses.fields(value) if "least" in field.metadata}
    given = {name: number for name in bounds if (number := getattr(value, name)) is not None}
    return [f"{path}{name} {number} is below {bounds[name]}" for name, number in given.items() if number < bounds[name]]


def _unknown(faults: Faults, kind: type, path: str, key: str) -> None:
    """Add a `key` below `path` that the dataclass `kind` there does not have."""
    faults.unknown_key(path, key, _nearest(kind, key, path), _listed(kind, path, key))


def _listed(kind: type, path: str, key: str) -> str:
    """The settings at a level with their defaults: those nearest to `key` first, and no more than a person reads."""
    known = defaults(kind)
    names = list(dict.fromkeys([*difflib.get_close_matches(key, known, _LISTED, 0.4), *known]))
    shown = names if len(names) <= _LISTED + 1 else names[:_LISTED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    text = ", ".join(f"{name} ({known[name]})" for name in shown)
    return f"settings of {path.rstrip('.')}: {text}{more}" if path else f"{text}{more}"


def parse(
    kind: type[T],
    data: Mapping[str, Any],
    where: str = "",
    next: str = "",
    elsewhere: Mapping[str, str] = types.MappingProxyType({}),
) -> T:
    """An instance of the dataclass `kind` from plain JSON; `ConfigError` (exit 2, with `next`) lists every fault.
    `elsewhere`: paths of settings that an unknown key may be, by their names.
    """
    faults = Faults(elsewhere=elsewhere)
    value = _object(kind, data, "", faults)
    faults.raise_any(where, next)
    return cast(T, value)


def choice_faults(kind: type, given: Mapping[str, Any], path: str = "") -> Faults:
    """Which of the settings that Python gives the dataclass `kind`, or one among them, are none of their `Literal`."""
    faults = Faults()
    for field, hint in _own_fields(kind):
        value = given.get(field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            faults.add(choice_faults(type(value), vars(value), f"{path}{field.name}."))
        elif field.name in given and "Literal[" in str(hint):
            _value(hint, value, path + field.name, faults)
    return faults


def assigned(
    kind: type,
    assignments: Sequence[str],
    where: str = "",
    values: Mapping[str, Any] = types.MappingProxyType({}),
    elsewhere: Mapping[str, str] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """The plain JSON that texts like `optim.lr=1e-4` give, each value read as `kind` types its field, and that `values`
    by their paths give, which are values already; `ConfigError` lists every fault. `elsewhere` as for `parse`.

    A value is JSON, or the bare text; a list may be written with commas alone. A path that is given twice is a fault.
    """
    faults = Faults(elsewhere=elsewhere)
    result: dict[str, Any] = {}
    given: set[str] = set()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip("."):
            faults.append(f"{printable(assignment)} is not of the form key=value")
        elif path in given:
            faults.append(f"{printable(path)} is given twice")
        else:
            given.add(path)
            _assign(kind, path, text, result, faults, _read)
    for path, value in values.items():
        _assign(kind, path, value, result, faults, _value)
    faults += [f"{printable(path)} is given twice" for path in values if path in given]
    faults.raise_any(where)
    return result


def _assign(kind: Any, path: str, value: Any, result: dict[str, Any], faults: Faults, read: Callable[..., Any]) -> None:
    """Put what `read` makes of `value` at the dotted `path` of `result`."""
    *above, last = path.split(".")
    hint: Any = kind
    for depth, part in enumerate([*above, last]):
        outer = _dataclass_in(hint)
        if outer is not None:
            if part not in _fields(outer):
                _unknown(faults, outer, "".join(f"{name}." for name in above[:depth]), part)
                return
            hint = _hints(outer)[part]
        elif hint is Any or get_origin(hint) in _MAPPINGS:
            hint = Any
        else:
            faults.append(f"{printable('.'.join(above[:depth]))} has no keys: it is {_words(hint)}")
            return
    for depth, part in enumerate(above):
        within = result.setdefault(part, {})
        if not isinstance(within, dict):
            faults.append(f"{printable('.'.join(above[: depth + 1]))} is given as {printable(within)} and by its keys")
            return
        result = within
    result[last] = read(hint, value, path, faults)


def _read(hint: Any, text: str, path: str, faults: Faults) -> Any:
    """The first reading of `text` that is of the type `hint`; the faults of its nearest reading where there is none."""
    readings = [value for one in (text, text.lower(), f"[{text}]") for value in _json(one)]
    first = Faults()
    for value in (*readings[:1], text, *readings[1:], text.split(",")):
        own = Faults()
        _value(hint, value, path, own)
        if not own:
            return value
        first = first or own
    faults.add(first)
    return None


def _json(text: str) -> Iterator[Any]:
    try:
        yield exact_json(text)
    except (ValueError, RecursionError):
        return


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that `hint` is, or is besides null."""
    several = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((one for one in several if isinstance(one, type) and dataclasses.is_dataclass(one)), None)


def setting_of(kind: type, name: str) -> str:
    """The dotted path of the setting of `kind` that is called `name`, here or in other programs; empty if none is."""
    return _paths(kind).get(name, "")


def _paths(kind: type) -> dict[str, str]:
    paths = {field: field for field in _fields(kind)}
    for field, hint in _hints(kind).items():
        inner = _dataclass_in(hint)
        if inner is not None:
            below = {**_aliases(inner, "other_names"), **{leaf: leaf for leaf in _fields(inner)}}
            paths = {**{name: f"{field}.{leaf}" for name, leaf in below.items()}, **paths}
    return {**_aliases(kind, "other_names"), **paths}


def _nearest(kind: type, name: str, path: str) -> str:
    """As `nearest`, over the fields of `kind`, which stands below `path`, those of the dataclasses inside it, and
    the names that other programs give them (`other_names` of `kind`).
    """
    paths = _paths(kind)
    near = name if name in paths else nearest(name, _fields(kind)) or nearest(name, paths)
    return near and f"{path}{paths[near]}"


def every_setting(kind: type, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and default of every setting that may be given for the dataclass `kind` and those inside it."""
    for name, default in defaults(kind).items():
        inner = _dataclass_in(_hints(kind)[name])
        yield from [(path + name, default)] if inner is None else every_setting(inner, f"{path}{name}.")


def defaults(kind: type) -> dict[str, str]:
    """The default of each setting of the dataclass `kind` (or `needed`), without what is `given_apart`."""
    listed = {}
    for name, field in _fields(kind).items():
        if name in getattr(kind, "given_apart", ()):
            continue
        if field.default_factory is not dataclasses.MISSING:
            default = json.dumps(plain(field.default_factory()), default=str)
        else:
            needed = field.default is dataclasses.MISSING
            default = "needed" if needed else json.dumps(plain(field.default), default=str)
        listed[name] = printable(default, 40)
    return listed


def apart_from_defaults(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings`, plain JSON of the dataclass `kind`, that are not its defaults."""
    usual: dict[str, Any] = {}
    for name, field in _fields(kind).items():
        if field.default_factory is not dataclasses.MISSING:
            usual[name] = plain(field.default_factory())
        elif field.default is not dataclasses.MISSING:
            usual[name] = plain(field.default)
    return {name: value for name, value in settings.items() if name not in usual or usual[name] != value}


def _fields(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """The settings of `kind` by name, those of its flattened fields among them."""
    fields: dict[str, dataclasses.Field[Any]] = {}
    for field, hint in _own_fields(kind):
        fields |= _fields(hint) if "flattened" in field.metadata else {field.name: field}
    return fields


def _hints(kind: type) -> dict[str, Any]:
    """The type of each of `_fields`."""
    hints: dict[str, Any] = {}
    for field, hint in _own_fields(kind):
        hints |= _hints(hint) if "flattened" in field.metadata else {field.name: hint}
    return hints


@functools.cache
def _own_fields(kind: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind) if field.init]


def _aliases(kind: type, which: Literal["older_names", "other_names"]) -> dict[str, str]:
    """Other words for the settings of `kind`, each with its setting: names that it had, or has in other programs."""
    names = dict(getattr(kind, which, {}))
    for field, hint in _own_fields(kind):
        names |= _aliases(hint, which) if "flattened" in field.metadata else {}
    return names


def _made(kind: type, values: Mapping[str, Any]) -> Any:
    """An instance of `kind`, each flattened field out of its share of the `values`."""
    own = {}
    for field, hint in _own_fields(kind):
        if "flattened" in field.metadata:
            own[field.name] = _made(hint, values)
        elif field.name in values:
            own[field.name] = values[field.name]
    return kind(**own)


def _object(kind: type, data: Any, path: str, faults: Faults) -> Any:
    if not isinstance(data, Mapping):
        faults.append(f"{path.rstrip('.') or kind.__name__}: {printable(data)} is not an object")
        return None
    hints, fields = _hints(kind), _fields(kind)
    before = len(faults)
    older = _aliases(kind, "older_names")
    for key in data:
        if key not in fields and key not in older:
            _unknown(faults, kind, path, key)
        elif older.get(key) in data:
            faults.append(f"{path}{key} is the older name of {older[key]}, which is given too")
    data = {older.get(key, key): value for key, value in data.items()}
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], path + name, faults)
        elif field.default is field.default_factory is dataclasses.MISSING and path + name not in faults.near.values():
            faults.append(f"{path}{name} is missing")
    return _made(kind, values) if len(faults) == before else None


def _value(hint: Any, value: Any, path: str, faults: Faults) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(args, value, path, faults)
    if origin is Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
        expected = ", ".join(map(str, args))
        near = nearest(str(value), map(str, args))
        faults.misnamed(f"{path}: {printable(value)} is not one of {expected}", near, str(value))
        return None
    if origin is tuple and isinstance(value, list | tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            args = args[:1] * len(value)
        if len(args) == len(value):
            pairs = enumerate(zip(args, value, strict=True))
            return tuple(_value(arg, item, f"{path}[{i}]", faults) for i, (arg, item) in pairs)
    if origin is list and isinstance(value, list | tuple):
        return [_value(args[0], item, f"{path}[{i}]", faults) for i, item in enumerate(value)]
    if origin in _MAPPINGS and isinstance(value, Mapping):
        return {key: _value(args[1], item, f"{path}.{printable(key)}", faults) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, cast(type, hint)) else _object(cast(type, hint), value, path + ".", faults)
    if isinstance(value, str) and not _is_text(value):
        faults.append(f"{path}: {printable(value)} holds half a pair of surrogates")
        return None
    if hint is Any or (origin is None and _is(hint, value)):
        return float(value) if hint is float else value
    faults.append(f"{path}: {printable(json.dumps(plain(value), default=str))} is not {_words(hint)}")
    return None


def _is_text(value: str) -> bool:
    """Whether a file or a file's name can be `value`; a byte of a name that is no UTF-8 (`surrogateescape`) can."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _union(args: tuple[Any, ...], value: Any, path: str, faults: Faults) -> Any:
    if value is None and type(None) in args:
        return None
    tries = []
    for arg in (one for one in args if one is not type(None)):
        own = Faults()
        result = _value(arg, value, path, own)
        if not own:
            return result
        tries.append((_is(arg, value), own))
    # The alternative whose outer type fits says best what is wrong inside; where none fits, all of them are named.
    fitting = [own for fits, own in tries if fits]
    expected = " or ".join(dict.fromkeys(map(_words, args)))
    message = f"{path}: {printable(json.dumps(plain(value), default=str))} is not {expected}"
    faults.add(fitting[0] if fitting else tries[0][1] if len(tries) == 1 else Faults([message]))
    return None


def _words(hint: Any) -> str:
    """A type in the words of a person who writes JSON."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(arg) for arg in args))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple and len(args) == 2 and args[1] is not Ellipsis:
        return f"a pair of {_words(args[0])} and {_words(args[1])}"
    if origin in (tuple, list):
        return f"a list of {_words(args[0])}"
    if origin in _MAPPINGS:
        return f"an object of {_words(args[1])}"
    return _WORDS.get(hint) or str(getattr(hint, "__name__", hint))


def _is(hint: Any, value: Any) -> bool:
    """Whether the outer type fits; what is inside a list or an object is looked at by `_value`."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin = get_origin(hint) or hint
    if origin in _MAPPINGS:
        return isinstance(value, Mapping)
    if origin in (tuple, list):
        return isinstance(value, list | tuple)
    return isinstance(origin, type) and isinstance(value, origin)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond a float's range
        return False
