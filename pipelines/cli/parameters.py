"""Parameters that refuse what cannot be, in our words: numbers, objects, lists, and flags that were renamed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar

import luigi
from luigi.parameter import _no_value

from schemas.untrusted import exact_json


class Whole(luigi.IntParameter):
    """A whole number from `least` on."""

    def __init__(self, *, least: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.least = least

    def parse(self, x: str) -> int:
        """The number; `ValueError` says what is wrong with it."""
        try:
            value = int(x)
        except ValueError:
            raise ValueError(f"{x!r} is not a whole number") from None
        if value < self.least:
            raise ValueError(f"{value} is below {self.least}, the least there can be")
        return value


class Number(luigi.FloatParameter):
    """A number from `least` to `most`."""

    def __init__(self, *, least: float = float("-inf"), most: float = float("inf"), **options: Any) -> None:
        super().__init__(**options)
        self.least, self.most = least, most

    def parse(self, x: str) -> float:
        """The number; `ValueError` says what is wrong with it."""
        try:
            value = float(x)
        except ValueError:
            raise ValueError(f"{x!r} is not a number") from None
        if not self.least <= value <= self.most:
            raise ValueError(f"{x} is not between {self.least:g} and {self.most:g}")
        return value


class _OrNothing(luigi.Parameter[Any]):
    """What a number's parameter also takes: an empty text, for nothing, which is the default."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"default": None, **options})

    def parse(self, x: str) -> Any:
        """The number; None for an empty text."""
        return super().parse(x) if x else None

    def serialize(self, x: float | None) -> str:
        """The number's text, or an empty one."""
        return "" if x is None else str(x)


class OptionalWhole(_OrNothing, Whole):
    """A whole number from `least` on, or nothing."""


class PreviewRows(OptionalWhole):
    """Such a number, or nothing; the flag alone stands for `usual`."""

    usual: ClassVar[int] = 10

    @classmethod
    def _parser_kwargs(cls, param_name: str, task_name: str | None = None) -> dict[str, Any]:
        return {**super()._parser_kwargs(param_name, task_name), "nargs": "?", "const": str(cls.usual)}


class OptionalNumber(_OrNothing, Number):
    """A number from `least` to `most`, or nothing."""


class ObjectParameter(luigi.DictParameter):
    """A JSON object; a key that it gives twice, and any other JSON, is refused; `bare` is the key of which a bare word
    is taken to be the value in what is said then.
    """

    def __init__(self, *, bare: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.bare = bare

    def parse(self, x: str) -> Any:
        """The object; `ValueError` for any other JSON."""
        meant = self.of_bare(x) or '{"key": value}'
        return _of_kind(super().parse, x, Mapping, f"an object: '{meant}'")

    def of_bare(self, text: Any) -> str:
        """The JSON that was meant by a bare word, or by an object that lost its quotes (a shell takes them where they
        stand in others of their kind); empty for what is none.
        """
        if not isinstance(text, str):
            return ""
        if text.isidentifier():
            return json.dumps({self.bare: text}) if self.bare else ""
        try:
            meant = json.loads(_WORD.sub(lambda match: _quoted(match[0]), text))
        except (ValueError, RecursionError):
            return ""
        return json.dumps(meant, ensure_ascii=False) if isinstance(meant, Mapping) and text.startswith("{") else ""


_WORD = re.compile(r""""[^"]*"|'[^']*'|(?<![\w.])[A-Za-z_][\w.-]*""")
"""A text in quotes of either kind, or a bare word."""


def _quoted(word: str) -> str:
    """`word` as JSON has it."""
    if word.startswith('"') or word in ("true", "false", "null"):
        return word
    return json.dumps(word.strip("'"), ensure_ascii=False)


class ListParameter(luigi.ListParameter):
    """A JSON list; a bare value is refused with the list that was meant."""

    def parse(self, x: str) -> Any:
        """The list; `ValueError` for any other JSON."""
        return _of_kind(super().parse, x, list | tuple, f"a list: {shlex.quote(as_list(x))}")


class RenamedParameter(luigi.Parameter[Any]):
    """A text whose flag and configuration key were called `older` once, which still works."""

    def __init__(self, *, older: str, **options: Any) -> None:
        super().__init__(**options)
        self.older = older

    def __set_name__(self, owner: Any, name: str) -> None:
        super().__set_name__(owner, name)
        owner.ignore_unconsumed = {*getattr(owner, "ignore_unconsumed", ()), self.older}

    def _get_value_from_config(self, section: str, name: str) -> Any:
        value = super()._get_value_from_config(section, name)
        return super()._get_value_from_config(section, self.older) if value is _no_value else value


def older_names(kind: type[luigi.Task]) -> dict[str, str]:
    """Names that parameters of `kind` had once, each with today's."""
    return {parameter.older: name for name, parameter in kind.get_params() if isinstance(parameter, RenamedParameter)}


def _of_kind(parse: Any, text: Any, kind: Any, words: str) -> Any:
    try:
        value = parse(text)
        if isinstance(text, str):
            exact_json(text)
    except (json.JSONDecodeError, TypeError, RecursionError):
        value = None
    except ValueError as fault:
        raise ValueError(f"{text}: {fault}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{text} is not JSON of {words}")
    return value


def as_list(text: str) -> str:
    """`text` as the JSON of a list of one."""
    try:
        return json.dumps([json.loads(text)])
    except (ValueError, TypeError, RecursionError):
        return json.dumps([text])
