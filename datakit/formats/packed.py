"""NeMo's packed sequences, and NeMo-Aligner's packed pairs, as packs: columns of number lists to row kinds, every
number checked before anything is built of it. `IntegrityError` for items of another shape.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import starts
from datakit.formats.ids import Occurrences, content_ids
from datakit.tokenize.pack import pack_ids
from schemas import IDS
from schemas.errors import IntegrityError
from schemas.store.storage import shown

KEYS = {
    "packed_sft": ("input_ids", "loss_mask", "seq_start_id"),
    "packed_dpo": ("input_ids", "labels", "lengths", "reward", "seq_boundaries"),
}
"""The keys of an item, by format."""

_NOT_LEARNT = -100


def sequences_of(packs: dict[str, pa.Array], met: Occurrences, url: str) -> pa.Table:
    """PACKS of packed answers: NeMo pairs mask[i] with the token behind it, ours stands on that token."""
    ids, offsets = _whole(packs["input_ids"], url), starts(packs["input_ids"])
    bounds, counts = _bounds(packs["seq_start_id"], offsets, url)
    mask = _whole(packs["loss_mask"], url)
    _check(url, np.array_equal(starts(packs["loss_mask"]), offsets) and mask.max(initial=0) <= 1, "a mask of 0 and 1")
    predicted = np.roll(mask, 1)
    predicted[bounds[:-1]] = 0
    names = met.unique(content_ids(_lists(ids, bounds)))
    columns = {
        "pack_id": pack_ids(names, counts),
        "input_ids": _lists(ids, offsets),
        "loss_mask": _lists(predicted.astype(np.int8), offsets),
        "lengths": _lists(np.diff(bounds), counts),
        "sample_ids": pa.ListArray.from_arrays(pa.array(counts, pa.int32()), names),
    }
    return pa.table(columns)


def pairs_of(packs: dict[str, pa.Array], met: Occurrences, url: str) -> pa.Table:
    """PACKED_PAIRS of packed pairs, each sequence without the padding behind its length."""
    ids, offsets = _whole(packs["input_ids"], url), starts(packs["input_ids"])
    given = packs["seq_boundaries"]
    _check(url, bool((np.diff(starts(given)) > 0).all()), "boundaries")
    last = given.flatten().take(pa.array(starts(given)[1:] - 1))
    _check(url, bool((np.asarray(last) == np.diff(offsets)).all()), "boundaries up to the end of each pack")
    begins = pa.ListArray.from_arrays(
        pa.array(starts(given) - np.arange(len(given) + 1), pa.int32()),
        given.flatten().filter(pa.array(~np.isin(np.arange(starts(given)[-1]), starts(given)[1:] - 1))),
    )
    bounds, counts = _bounds(begins, offsets, url)
    labels, lengths = np.asarray(packs["labels"].flatten()), _whole(packs["lengths"], url)
    whole = np.array_equal(starts(packs["labels"]), offsets) and not (np.diff(counts) % 2).any()
    whole = whole and all(np.array_equal(starts(packs[name]), counts) for name in ("lengths", "reward"))
    _check(url, whole and bool((lengths <= np.diff(bounds)).all() and (lengths > 0).all()), "two sequences a pair")
    learnt = labels != _NOT_LEARNT
    _check(url, bool((labels[learnt] == ids[learnt]).all()), "labels that are the ids, or -100")
    learnt[bounds[:-1]] = False
    place = np.arange(len(ids)) - np.repeat(bounds[:-1], np.diff(bounds))
    kept = place < np.repeat(lengths, np.diff(bounds))
    columns: dict[str, pa.Array] = {}
    pairs, rewards = counts // 2, np.asarray(packs["reward"].flatten())
    _check(url, bool(np.isfinite(rewards).all()), "finite rewards")
    for at, side in enumerate(("chosen", "rejected")):
        own = kept & np.repeat(np.arange(len(lengths)) % 2 == at, np.diff(bounds))
        ends = np.concatenate([[0], np.cumsum(lengths[at::2])])
        columns[f"{side}_ids"] = _lists(ids[own], ends[pairs])
        columns[f"{side}_mask"] = _lists(learnt[own].astype(np.int8), ends[pairs])
        columns[f"{side}_lengths"] = _lists(lengths[at::2], pairs)
        columns[f"{side}_reward"] = _lists(rewards[at::2], pairs)
        columns[side] = _lists(ids[own], ends)
    names = met.unique(content_ids(columns.pop("chosen"), columns.pop("rejected")))
    columns |= {
        "pack_id": pack_ids(names, pairs),
        "pair_ids": pa.ListArray.from_arrays(pa.array(pairs, pa.int32()), names),
    }
    return pa.table(columns)


def _bounds(begins: pa.Array, offsets: np.ndarray, url: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each sequence begins among all tokens, the end of the last included; and how many there are before each
    pack.
    """
    places, counts = _whole(begins, url), starts(begins)
    bounds = np.append(places + np.repeat(offsets[:-1], np.diff(counts)), offsets[-1])
    first = counts[:-1][np.diff(counts) > 0]
    sound = (np.diff(counts) > 0).all() and (places[first] == 0).all() and (np.diff(bounds) > 0).all()
    inside = (places < np.repeat(np.diff(offsets), np.diff(counts))).all()
    _check(url, bool(sound and inside), "sequences that begin at 0 and then further on")
    return bounds, counts


def _whole(lists: pa.Array, url: str) -> np.ndarray:
    """The numbers of all lists as whole ones from 0 up."""
    values = np.asarray(lists.flatten())
    inside = (values >= 0) & (values < 1 << 31)
    numbers = np.where(inside, values, 0).astype(np.int64)
    _check(url, bool((inside & (numbers == values)).all()), "whole numbers")
    return numbers


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.Array:
    kind = {"int64": IDS.value_type, "int32": IDS.value_type}.get(str(values.dtype))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))


def _check(url: str, fits: bool, expected: str) -> None:
    if not fits:
        raise unfit(url, "items of another shape", expected)


def unfit(url: str, what: str, expected: str = "") -> IntegrityError:
    """The fault of a file that holds something else."""
    return IntegrityError(
        "not-packed",
        f"{shown(url)} holds {what}",
        expected=expected or " or ".join(f"{name}: {', '.join(keys)}" for name, keys in KEYS.items()),
        kept="nothing was published",
        next="name the format that the file was packed in",
    )
