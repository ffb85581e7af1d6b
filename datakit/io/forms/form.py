"""What a format is: the keys of its records, the row kind they become, and a function over whole columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from datakit.io.conversations import Faults
from datakit.io.parse import Key
from schemas import Schema


@dataclass(frozen=True)
class Built:
    """The columns of a row kind (ids and source come later), and the rows that cannot stay, with reasons.

    With `pairs`, two neighbouring records make one row: columns have half the length.
    """

    columns: dict[str, pa.Array]
    faults: Faults = field(default_factory=list)


@dataclass(frozen=True)
class Form:
    """A format. `build` gets the records' columns and the name of the dialogue format (`plain` where a text
    is one turn).
    """

    name: str
    meaning: str
    keys: tuple[Key, ...]
    schema: Schema
    build: Callable[[pa.Table, str], Built]
    dialogues: tuple[str, ...] = ("plain",)
    pairs: bool = False
