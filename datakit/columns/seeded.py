"""Random numbers that are functions of a row's place or of its text, and of a seed: what shuffles, choices
and splits sort by.

Sorting by independent uniform 64-bit keys gives every order the same chance, needs no state, and is the same
whatever the cut into shards or batches. SplitMix64 (Steele, Lea, Flood 2014) numbers places; MD5, as a mixer,
numbers texts: both are fixed for good, unlike the hash functions of the engines.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.measurement import groups
from datakit.duck.session import Session

Keys = npt.NDArray[np.uint64]
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""The step of SplitMix64's counter."""


def row_keys(start: int, count: int, *seed: object) -> Keys:
    """Keys of the rows `start` .. `start + count` - 1: element `start` onwards of the SplitMix64 stream of
    `seed`.
    """
    text = "\x1f".join(map(str, seed))
    origin = np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
    return mixed(np.arange(start + 1, start + count + 1, dtype=np.uint64) * GOLDEN_GAMMA + origin)


def mixed(state: Keys) -> Keys:
    """SplitMix64's output function: a bijection of 64 bits in which every bit of `state` moves half of the result's."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def text_keys(texts: pa.ChunkedArray, *seed: object) -> Keys:
    """A key for each text, equal for equal texts: the first half of the MD5 of seed and text. Null is a text
    of its own; a nested value (a conversation, token ids) goes by its JSON.
    """
    if pa.types.is_nested(texts.type):
        texts = _json(texts)
    distinct = pa.chunked_array([pc.unique(texts)])
    with Session(memory="1GB") as session:
        session.add("texts", pa.table({"text": distinct}))
        prefix = "\x1f".join(map(str, seed)).replace("'", "''")
        hashed = f"md5('{prefix}' || chr(31) || CASE WHEN text IS NULL THEN chr(30) ELSE chr(31) || text END)"
        half = session.table(f"SELECT CAST('0x' || left({hashed}, 16) AS UBIGINT) AS key FROM texts")["key"]
    keys: Keys = np.asarray(half, dtype=np.uint64)
    return keys[groups(texts)]


def _json(values: pa.ChunkedArray) -> pa.ChunkedArray:
    with Session(memory="1GB") as session:
        session.add("nested", pa.table({"value": values}))
        return session.table("SELECT CAST(to_json(value) AS VARCHAR) AS text FROM nested")["text"]


def smallest(keys: Keys, count: int) -> npt.NDArray[np.bool_]:
    """Which rows hold the `count` smallest keys: a choice without replacement; a larger count adds rows."""
    chosen = np.zeros(len(keys), bool)
    if count:
        chosen[np.argpartition(keys, min(count, len(keys)) - 1)[:count]] = True
    return chosen


def distinct(lots: Keys, sizes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """For each lot `count` different numbers below its size, which is no less, in an order by lot: [rows, count].

    Floyd's algorithm (Bentley, Floyd 1987): every set has the same chance, and no list of all numbers is made; of
    64 bits the bias of a remainder is below 1e-9 up to sizes of 10 thousand million.
    """
    steps = np.arange(1, 2 * count + 1, dtype=np.uint64) * GOLDEN_GAMMA
    chosen = np.empty((len(lots), count), np.int64)
    for number in range(count):
        largest = (sizes - count + number).astype(np.uint64)
        drawn = (mixed(lots + steps[number]) % (largest + np.uint64(1))).astype(np.int64)
        again = (chosen[:, :number] == drawn[:, None]).any(axis=1)
        chosen[:, number] = np.where(again, largest.astype(np.int64), drawn)
    order = np.argsort(mixed(lots[:, None] + steps[count:]), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)
