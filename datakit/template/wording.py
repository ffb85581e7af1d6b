"""template.wording: the question of every row in the words of a benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, messages, starts
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import MESSAGES, TURN, Column, Schema
from schemas.errors import ConfigError

_PLACE = re.compile(r"\{(question|choices)\}")
_LETTERS = pa.array([chr(number) for number in range(ord("A"), ord("Z") + 1)])


@dataclass(frozen=True, kw_only=True)
class Wording(Label):
    """The last turn of `messages` as `text`, in which `{question}` is what stood there and `{choices}` the choices
    under each other, as `A. first`. With `letters` the choices become their letters.

    A question of more than 26 choices has no letters for all of them, and is rejected as `too-many-choices`. Ids stay
    those of the questions as they came.
    """

    name: ClassVar[str] = "template.wording"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    text: str = "{question}"
    letters: bool = False

    def __post_init__(self) -> None:
        if "{question}" not in self.text:
            raise ConfigError("bad-setting", f"{self.name}: text does not say where the question stands",
                              expected="{question}", kept="nothing was started")  # fmt: skip

    @property
    def _offers(self) -> bool:
        return self.letters or "{choices}" in self.text

    @property
    def takes(self) -> Schema:
        offered = (Column("choices", pa.list_(pa.string()), "the answers on offer"),) if self._offers else ()
        return Schema("asked", 1, (Column("messages", MESSAGES, "the conversation"), *offered))

    @property
    def adds(self) -> tuple[Column, ...]:
        named = (Column("choices", pa.list_(pa.string()), "the letters of the answers on offer"),)
        return (Column("messages", MESSAGES, "the conversation, as it is asked"), *(named if self.letters else ()))

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        turns = flat(rows["messages"])
        offsets, inner = starts(turns), turns.flatten()
        some = np.flatnonzero(np.diff(offsets))
        last = np.zeros(len(inner), bool)
        last[offsets[1:][some] - 1] = True
        filled = {"question": inner.field("content").filter(pa.array(last))}
        added: dict[str, pa.Array] = {}
        if self._offers:
            listed, letters = _lettered(flat(rows["choices"]))
            filled["choices"] = listed.take(pa.array(some))
            added = {"choices": letters} if self.letters else {}
        parts = [filled[part] if at % 2 else part for at, part in enumerate(_PLACE.split(self.text))]
        texts = pc.binary_join_element_wise(*parts, "") if len(some) else filled["question"]
        contents = pc.replace_with_mask(inner.field("content"), pa.array(last), texts)
        fields = [contents if field.name == "content" else inner.field(field.name) for field in TURN]
        added["messages"] = messages(offsets, pa.StructArray.from_arrays(fields, fields=list(TURN)))
        return LabelResult(added, self._fit(rows))

    def _fit(self, rows: pa.Table) -> FilterDecision:
        """Rows whose choices all have letters."""
        if not self._offers:
            return FilterDecision(pa.repeat(True, rows.num_rows), "too-many-choices")
        count = pc.list_value_length(flat(rows["choices"]))
        most = len(_LETTERS)
        fits = pc.less_equal(count, most)
        return FilterDecision(fits, "too-many-choices", count.cast(pa.float64()), f"{most} letters")


def _lettered(choices: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The choices of each row as one text, a line each behind its letter; and their letters alone."""
    offsets = starts(choices)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    letters = _LETTERS.take(pa.array(place, mask=place >= len(_LETTERS)))
    lines = pc.binary_join_element_wise(pc.fill_null(letters, "-"), choices.flatten(), ". ")
    ends = pa.array(offsets, pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(ends, lines), "\n"), pa.ListArray.from_arrays(ends, letters)
