"""Which tokenizer's ids the columns of a table hold, column by column, from one manifest to the next.

Columns of token ids and of templated pieces belong to a tokenizer. Under the fact `tokenizer` a manifest has the
identity (`schemas.tokenizer.tokenizer_identity`) of the one that all such columns have or, where they differ, each
column's: a policy's `prompt_ids` and a reward model's `input_ids` may stand in one row. Whoever hands ids to a network
or to a decoder calls `check`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas.errors import DataError, printable
from schemas.rows.conversation import IDS, PIECES
from schemas.schema import Schema

FACT = "tokenizer"
"""The fact's name in a manifest."""

TokenizerByColumn = Mapping[str, tuple[str, ...]]
"""The identities by column: one, or several where rows of different tokenizers were mixed; absent if not known."""


def id_columns(schema: Schema) -> tuple[str, ...]:
    """The columns that hold ids: one per token, or several."""
    return tuple(column.name for column in schema.columns if column.type in (IDS, pa.list_(IDS)))


def token_columns(schema: Schema | None) -> tuple[str, ...]:
    """The columns that hold ids (one per token, or several) or templated pieces."""
    return () if schema is None else tuple(c.name for c in schema.columns if c.type in (IDS, PIECES, pa.list_(IDS)))


def tokenizers_of(schema: Schema | None, facts: Mapping[str, Any]) -> TokenizerByColumn:
    """What a dataset's manifest says of its columns."""
    recorded = facts.get(FACT)
    by_column = recorded if isinstance(recorded, dict) else dict.fromkeys(token_columns(schema), recorded)
    return {name: _several(value) for name, value in by_column.items() if _several(value)}


def passed_on(
    schema: Schema,
    inputs: Sequence[TokenizerByColumn],
    new: Collection[str],
    tokenizer: str,
    sources: Collection[str] = (),
) -> TokenizerByColumn:
    """The tokenizers of a result's columns: of the `new` ones `tokenizer`, where an operation has one, or else those of
    the `sources` that it makes them of; of the others those they had in the inputs, and of a column under a new name
    those of any column.
    """
    tokenizers: dict[str, tuple[str, ...]] = {}
    for name in token_columns(schema):
        made_of = sources if sources and name in new else (name,)
        before = [given[source] for given in inputs for source in made_of if source in given]
        if name in new and tokenizer:
            tokenizers[name] = (tokenizer,)
        else:
            before = before or [one for given in inputs for one in given.values()]
            tokenizers[name] = tuple(sorted({one for several in before for one in several}))
    return {name: several for name, several in tokenizers.items() if several}


def fact(tokenizers: TokenizerByColumn) -> dict[str, Any]:
    """`tokenizers` as an entry of a manifest's facts; empty where nothing is known."""
    plain = {name: several[0] if len(several) == 1 else list(several) for name, several in tokenizers.items()}
    one = next(iter(plain.values()), None)
    if one is None:
        return {}
    return {FACT: one if isinstance(one, str) and all(value == one for value in plain.values()) else plain}


def check(tokenizers: TokenizerByColumn, columns: Iterable[str], tokenizer: str, who: str, where: str) -> None:
    """`DataError` if one of `columns` holds ids of another tokenizer than `tokenizer`, as far as both are known."""
    for name in columns:
        if tokenizer and any(one != tokenizer for one in tokenizers.get(name, ())):
            raise wrong(who, name, tokenizer, tokenizers[name], where)


def wrong(who: str, column: str, tokenizer: str, actual: Sequence[str], where: str) -> DataError:
    """The fault of a column in ids of another tokenizer than that of `who`."""
    return DataError(
        "wrong-tokenizer",
        f"{printable(column)} holds ids of another tokenizer than {printable(who)} speaks",
        expected=f"tokenizer {printable(tokenizer, 20)}",
        found=", ".join(f"tokenizer {printable(one, 20)}" for one in actual),
        where=where,
        kept="nothing was started",
        next="tokenize the rows with the tokenizer of the checkpoint",
    )


def _several(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(sorted(str(one) for one in value)) if isinstance(value, list | tuple) else ()
