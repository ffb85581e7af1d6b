"""Which tokens and texts end an answer: the one place that decides.

    TurnEnd     how a chat template ends an assistant's turn; a fact of the rows it wrote, and of a checkpoint that
                learnt from them
    EndTokens   what ends an answer of one model: the tokenizer's `eos_token`, `eos_token_id` of config.json and of
                generation_config.json (a number or a list), and the turn end that was taught; all of them together

A token that only one of them names ends an answer all the same; where they differ, `differences` says who names what.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import DataError, printable
from schemas.store.storage import shown

FACT = "turn_end"
"""The fact's name in a manifest."""

KEY = "eos_token_id"
"""The key of config.json and generation_config.json."""

TAUGHT = "the chat template"
CONFIGS = ("config.json", "generation_config.json")
_SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class TurnEnd:
    """How an assistant's turn ends: with one of `tokens`, or (where the template has none) at one of `texts`."""

    tokens: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @staticmethod
    def of(facts: Mapping[str, Any]) -> TurnEnd:
        """What a manifest's facts say; the turn ends of rows that were mixed count together."""
        value = facts.get(FACT)
        parts = [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, dict)]
        return TurnEnd(*(_texts(one for part in parts for one in _listed(part.get(name))) for name in _NAMES))

    @property
    def facts(self) -> dict[str, Any]:
        """As an entry of a manifest's facts."""
        return {FACT: {name: list(getattr(self, name)) for name in _NAMES}}

    @property
    def stop(self) -> tuple[str, ...]:
        """All of it as stop texts."""
        return _texts((*self.tokens, *self.texts))

    def after(self, earlier: TurnEnd) -> TurnEnd:
        """What ends a turn of a model that was taught `earlier` first: tokens of both, and the texts of the last."""
        return TurnEnd(_texts((*self.tokens, *earlier.tokens)), self.texts if self.stop else earlier.texts)


_NAMES = ("tokens", "texts")


@dataclass(frozen=True)
class EndTokens:
    """`named`: the ids that each source names, in its order; `texts` end an answer too; `unknown`: ids of no token."""

    named: Mapping[str, tuple[int, ...]]
    texts: tuple[str, ...] = ()
    unknown: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: generation_config.json's first, in its order, then the rest in theirs."""
        order = sorted(self.named, key=lambda source: source != CONFIGS[1])
        return tuple(dict.fromkeys(number for source in order for number in self.named[source]))

    @property
    def value(self) -> int | list[int] | None:
        """As `eos_token_id` is written: a number, a list of several, None for none."""
        return list(self.ids) if len(self.ids) > 1 else next(iter(self.ids), None)

    def only(self, *sources: str) -> EndTokens:
        """Those that `sources` name; the others are left out."""
        return EndTokens({source: ids for source, ids in self.named.items() if source in sources})

    def differences(self, text_of: Callable[[int], str | None]) -> str:
        """One line where the sources do not name the same tokens, or name ids of no token; empty where they agree."""
        parts = []
        if len({frozenset(ids) for ids in self.named.values()}) > 1:
            sources = [f"{source} names {_spelt(ids, text_of)}" for source, ids in self.named.items()]
            parts.append(f"end tokens: {'; '.join(sources)}; each of them ends an answer")
        parts += [
            f"{source} names {', '.join(map(str, ids))}, which is no token" for source, ids in self.unknown.items()
        ]
        return "; ".join(parts)


def end_tokens(
    files: Mapping[str, str | None],
    number_of: Callable[[str], int | None],
    size: int,
    taught: TurnEnd | None = None,
    where: str = "",
) -> EndTokens:
    """What ends an answer of a model with these `files` (by name, as in a Hugging Face folder or a checkpoint).

    number_of: the id of a token's text, None for none. size: ids from 0 to below it have a row in the network. taught:
    the turn end that its chat template writes. `DataError` for an `eos_token_id` that is neither a number nor numbers.
    """
    taught = taught or TurnEnd()
    end = _object(files.get(_SETTINGS), _SETTINGS, where).get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    named = {_SETTINGS: _numbers([end], number_of)}
    for name in CONFIGS:
        named[name] = _ids(_object(files.get(name), name, where).get(KEY), name, where)
    named[TAUGHT] = _numbers(taught.tokens, number_of)
    known = {source: tuple(one for one in ids if 0 <= one < size) for source, ids in named.items()}
    unknown = {source: tuple(one for one in ids if not 0 <= one < size) for source, ids in named.items()}
    lost = tuple(text for text in taught.tokens if number_of(text) is None)
    return EndTokens(
        {source: ids for source, ids in known.items() if ids},
        _texts((*lost, *taught.texts)),
        {source: ids for source, ids in unknown.items() if ids},
    )


def _numbers(texts: Iterable[Any], number_of: Callable[[str], int | None]) -> tuple[int, ...]:
    numbers = [number_of(text) for text in texts if isinstance(text, str)]
    return tuple(number for number in numbers if number is not None)


def _ids(value: Any, name: str, where: str) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        return tuple(dict.fromkeys(ids))
    raise DataError(
        "bad-end-token",
        f"{KEY} of {name} is not a token id",
        expected="a whole number, or a list of them",
        found=printable(value, 80),
        where=shown(where),
        kept="nothing was written",
        next=f"mend {KEY} in {name}",
    )


def _object(text: str | None, name: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        return data
    raise DataError("broken-json", f"{name} is not a JSON object", where=shown(where), kept="nothing was written")


def _spelt(ids: Iterable[int], text_of: Callable[[int], str | None]) -> str:
    return ", ".join(printable(text_of(one) or one, 40) for one in ids)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for one in values if isinstance(one, str) and one))
