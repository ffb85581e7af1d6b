"""Stable ids: a row's id is a function of its content, so joins and resumes never depend on order or on file
names.

Equal content gives equal ids. Where a column must be unique, the second occurrence of the same content in one
import gets `-1`, the third `-2`, and so on in reading order.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PARTS: Mapping[str, tuple[str, ...]] = {
    "prompt_id": ("messages", "tools"),
    "chat_id": ("messages", "tools"),
    "sample_id": ("prompt_id", "response"),
    "pair_id": ("prompt_id", "chosen", "rejected"),
}
"""Which columns an id is a function of, `tools` where there are any; rows of tokens alone go by their `input_ids`."""

_TURN_PARTS = {"tool_calls": "c", "tool_call_id": "t", "reasoning": "r"}
"""Fields of a turn that enter its id where they are not null, each behind its letter."""


_DIGITS = 32
"""Hexadecimal digits of an id."""


def content_ids(*parts: pa.Array) -> pa.Array:
    """128-bit hexadecimal ids of rows; each part is a column of strings, MESSAGES or token ids.

    A null part leaves no trace, so rows that have no tools (or turns without calls) keep the ids they had before there
    was a place for them.
    """
    texts = _joined(*[_text(part) for part in parts])
    view = memoryview(texts.buffers()[2] or b"")
    ends = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8).tolist() if len(texts) else [0]
    # Hashing is the one step without a column kernel: about a microsecond a row.
    digests = b"".join([sha256(view[a:b]).digest() for a, b in pairwise(ends)])
    halves = np.frombuffer(digests, np.uint8).reshape(-1, sha256().digest_size)[:, : _DIGITS // 2].tobytes().hex()
    places = np.arange(len(texts) + 1, dtype=np.int32) * _DIGITS
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(places), pa.py_buffer(halves.encode()))


def _text(part: pa.Array) -> pa.Array:
    """An unambiguous text of each row: every string preceded by its length in bytes."""
    if isinstance(part, pa.ChunkedArray):
        part = part.combine_chunks()
    if not pa.types.is_list(part.type):
        return _measured(part)
    if pa.types.is_integer(part.type.value_type):
        return _measured(pc.binary_join(part.cast(pa.list_(pa.string())), ","))
    turns = part.flatten()
    lines = _joined(_measured(turns.field("role")), _measured(turns.field("content")))
    for name, letter in _TURN_PARTS.items():
        more = turns.field(name)
        if more.null_count < len(more):
            lines = _joined(lines, _measured(more, letter))
    starts = pc.cumulative_sum(pa.concat_arrays([pa.array([0], pa.int32()), pc.list_value_length(part)]))
    rows = pa.LargeListArray.from_arrays(starts.cast(pa.int64()), lines)
    return _joined(pc.binary_join(rows, pa.scalar("", pa.large_string())), pa.scalar(";", pa.large_string()))


def _measured(strings: pa.Array, letter: str = "") -> pa.Array:
    """Each string behind its length in bytes, and that behind `letter`; nothing for a null."""
    lengths = _joined(pa.scalar(letter, pa.large_string()), pc.binary_length(strings).cast(pa.large_string()))
    colon = pa.scalar(":", pa.large_string())
    return pc.fill_null(pc.binary_join_element_wise(lengths, strings.cast(pa.large_string()), colon), "")


def _joined(*texts: pa.Array | pa.Scalar) -> pa.Array:
    """Row by row, nothing in between."""
    return pc.binary_join_element_wise(*texts, pa.scalar("", pa.large_string()))


def _first_half(ids: pa.Array) -> np.ndarray:
    """The first 64 bits of each id."""
    digits = pc.binary_join(pa.array([pc.utf8_slice_codeunits(ids, 0, 16)], pa.list_(pa.string())), "")[0].as_py()
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)


class Occurrences:
    """Counts how often an id was met before, in eight bytes a row, whatever the length of the import."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []
        self._counts: dict[int, int] = {}

    def unique(self, ids: pa.Array) -> pa.Array:
        """`ids` (hexadecimal) with `-<n>` appended to the n-th repetition of one that was met before."""
        keys = _first_half(ids)
        repeated = self.again(keys)
        if not repeated.any():
            return ids
        result = ids.to_pylist()
        for row in np.flatnonzero(repeated).tolist():
            key = int(keys[row])
            self._counts[key] = self._counts.get(key, 0) + 1
            result[row] = f"{result[row]}-{self._counts[key]}"
        return pa.array(result, pa.string())

    def numbers(self, ids: pa.Array) -> pa.Array:
        """How often each of `ids` (hexadecimal) was met before, in this call or an earlier one."""
        keys = _first_half(ids)
        result = np.zeros(len(keys), np.int32)
        for row in np.flatnonzero(self.again(keys)).tolist():
            key = int(keys[row])
            result[row] = self._counts[key] = self._counts.get(key, 0) + 1
        return pa.array(result)

    def again(self, keys: np.ndarray) -> np.ndarray:
        """Which of `keys` (64-bit hashes) were met before, in this call or an earlier one."""
        distinct, first = np.unique(keys, return_index=True)
        seen = np.zeros(len(distinct), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, distinct), len(run) - 1)
            seen |= run[at] == distinct
        repeated = np.ones(len(keys), bool)
        repeated[first[~seen]] = False
        self._remember(distinct[~seen])
        return repeated

    def _remember(self, keys: np.ndarray) -> None:
        """Keep sorted runs of falling size, so that there are only ever logarithmically many."""
        if len(keys):
            self._runs.append(keys)
        while len(self._runs) > 1 and len(self._runs[-1]) * 2 > len(self._runs[-2]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))
