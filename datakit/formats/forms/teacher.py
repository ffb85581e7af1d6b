"""NeMo-Aligner's distillation rows: tokens with a teacher's top-k logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.formats.forms.form import Built, Form
from datakit.formats.keys import NUMBERS, Key, Left, Shape
from datakit.formats.turns import InvalidValue
from schemas import IDS
from schemas.rows.tokens import TAUGHT_TOKENS

_IDS = pa.list_(IDS)
_MATRIX = pa.list_(pa.list_(pa.float64()))
_MOST_ID = (1 << 31) - 1


def _ids(value: Any, left: Left) -> list[int]:
    if not isinstance(value, list) or not all(one is None or _is_id(one) for one in value):
        raise InvalidValue("wrong-type", "a list of token ids")
    return value


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) <= _MOST_ID


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows_of(fits: Callable[[Any], bool]) -> Any:
    def every(value: Any, left: Left) -> list[Any]:
        rows: list[Any] = value if isinstance(value, list) else [value]
        for row in rows:
            if row is not None and not (isinstance(row, list) and all(x is None or fits(x) for x in row)):
                raise InvalidValue("wrong-type", "a list of lists of numbers")
        return rows

    return every


_TOKENS = Shape("a list of token ids", IDS, _ids, ((IDS, None),))
_TOP_IDS = Shape("a list of token ids at each token", _IDS, _rows_of(_is_id), ((_IDS, None),))
_TOP_LOGITS = Shape("a list of numbers at each token", _MATRIX, _rows_of(_is_number), ((_MATRIX, None),))


def _taught(raw: pa.Table, dialogue: str) -> Built:
    """A row's tokens predict its labels, so ours are the first token and the labels behind it. What stands behind the
    last label that is learnt (padding, in NeMo-Aligner's files) is left out: nothing is learnt of it.
    """
    names = ("tokens", "labels", "loss_mask", "topk_logits", "topk_token_ids", "log_sum_exp_logits")
    made: dict[str, list[Any]] = {"input_ids": [], "loss_mask": [], "teacher_ids": [], "teacher_logprobs": []}
    reasons = np.full(len(raw), "", object)
    for at, values in enumerate(zip(*(flat(raw[name]).to_pylist() for name in names), strict=True)):
        reasons[at] = _fault(*values)
        row = _shifted(*values) if not reasons[at] else ([0], [0], [[0]], [[0.0]])
        for column, value in zip(made.values(), row, strict=True):
            column.append(value)
    faults = [(reasons == reason, reason) for reason in dict.fromkeys(reasons.tolist()) if reason]
    return Built({name: pa.array(column, TAUGHT_TOKENS[name].type) for name, column in made.items()}, faults)


def _fault(tokens: list[int], labels: list[int], mask: list[float], *top: list[Any]) -> str:
    """Why a row is none; empty where it is one."""
    logits, ids, _ = top
    lists: list[list[Any]] = [tokens, labels, mask, *top]
    if any(None in part for part in lists) or any(None in row for row in (*logits, *ids)):
        return "null-inside"
    if min(tokens + labels, default=0) < 0 or any(min(row, default=0) < 0 for row in ids):
        return "negative-id"
    if {len(labels), len(mask), *map(len, top)} != {len(tokens)}:
        return "lengths-differ"
    learnt = np.flatnonzero(mask)
    if not len(learnt):
        return "no-trained-token"
    if set(mask) - {0, 1}:
        return "fractional-weight"
    if tokens[1 : learnt[-1] + 1] != labels[: learnt[-1]]:
        return "labels-do-not-follow"
    if len({*map(len, logits), *map(len, ids)}) != 1 or not ids[0]:
        return "uneven-top-k"
    return ""


def _shifted(tokens: list[int], labels: list[int], mask: list[float], *top: list[Any]) -> tuple[list[Any], ...]:
    end = int(np.flatnonzero(mask)[-1]) + 1
    logits, ids, log_sums = (part[:end] for part in top)
    logprobs = np.array(logits) - np.array(log_sums)[:, None]
    zeros = [0] * len(ids[0])
    return [tokens[0], *labels[:end]], [0, *map(int, mask[:end])], [zeros, *ids], [zeros, *logprobs.tolist()]


FORMS = (
    Form(
        "nemo_kd",
        "{tokens, labels, loss_mask, topk_logits, topk_token_ids, log_sum_exp_logits}: a teacher's top-k at each token",
        (
            Key("tokens", _TOKENS),
            Key("labels", _TOKENS),
            Key("loss_mask", NUMBERS),
            Key("topk_logits", _TOP_LOGITS),
            Key("topk_token_ids", _TOP_IDS),
            Key("log_sum_exp_logits", NUMBERS),
        ),
        TAUGHT_TOKENS,
        _taught,
    ),
)
