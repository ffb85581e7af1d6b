"""What a format is: the keys of its records, the row kind they become, and a function over whole columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import Faults
from datakit.formats.keys import TEXT, TOOL_LIST, Key
from schemas import Schema


@dataclass(frozen=True)
class Built:
    """The columns of a row kind (ids and source come later), and the rows that cannot stay, with reasons.

    With `pairs`, two neighbouring records make one row: columns have half the length.
    """

    columns: dict[str, pa.Array]
    faults: Faults = field(default_factory=list)


def _any(value: Any) -> bool:
    return True


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


ASKED: Mapping[str, Callable[[Any], bool]] = dict.fromkeys(
    ("functions", "history", "image", "images", "video", "videos", "audio", "audios"), _any
)
"""Names that change what a conversation is: a value under one of them is refused by formats that do not read it."""

LEARNT: Mapping[str, Callable[[Any], bool]] = {
    **ASKED,
    **dict.fromkeys(("weight", "loss_weight", "train", "mask", "loss_mask", "tool_calls", "function_call"), _any),
    **dict.fromkeys(("label", "desirable"), _truth),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking"), _text),
}
"""Those, and the names that change which answer is learnt, or how."""

SYSTEM = Key("system", TEXT, required=False, aliases=("system_prompt",))
TOOLS = Key("tools", TOOL_LIST, required=False)


@dataclass(frozen=True)
class Form:
    """A format. `build` gets the records' columns and the name of the dialogue format (`plain` where a text
    is one turn). `usual` is the one that stands for `plain` where texts are never one turn.

    `refused` and `bare` are as in `datakit.formats.parse.Parser`; `records` makes flat records of one that is not flat.
    `draws` adds columns of chance to the records', out of one generator for the whole import.
    """

    name: str
    meaning: str
    keys: tuple[Key, ...]
    schema: Schema
    build: Callable[[pa.Table, str], Built]
    dialogues: tuple[str, ...] = ("plain",)
    usual: str = "plain"
    pairs: bool = False
    refused: Mapping[str, Callable[[Any], bool]] = field(default_factory=lambda: LEARNT)
    bare: str = ""
    records: Callable[[Any], Iterator[dict[str, Any]]] | None = None
    roots: tuple[str, ...] = ()
    """What `records` reads of a record."""
    draws: Callable[[pa.Table, np.random.RandomState], pa.Table] | None = None
