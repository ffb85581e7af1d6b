"""What requests to servers took, of columns that each of their answers has (`USAGE`): counts of a stage, and columns of
rows about which a server was asked several times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas import Column
from schemas.manifest import Manifest

_PREFIX = "server."
_SUMS = {
    "prompt_tokens": "request_prompt_tokens",
    "completion_tokens": "request_completion_tokens",
    "seconds": "request_seconds",
}
_OF_A_ROW = {"requests": "request_answers", **_SUMS, "cost": "cost"}
"""What stands behind the name of a label, and what is summed there over the requests about a row."""


def taken(answers: pa.Table) -> dict[str, float]:
    """Sums over the requests behind `answers`, all answers to each of which are there; those in which nothing is known
    are left out. `uncounted` are requests of whose tokens the server says nothing, `timed` those that have seconds.
    """
    if "request_answers" not in answers.column_names or not answers.num_rows:
        return {}
    asked = pc.max_element_wise(pc.fill_null(answers["request_answers"], 0), 1)
    index, known = answers["sample_index"], pc.is_valid(answers["request_answers"])
    is_first = pc.equal(index, pc.multiply(pc.divide(index, asked), asked))
    requests = answers.filter(pc.and_(known, is_first))
    if not requests.num_rows:
        return {}
    sums = {name: pc.sum(requests[column]).as_py() for name, column in _SUMS.items()}
    sums["cost"] = pc.sum(answers["cost"]).as_py()
    uncounted = requests["request_completion_tokens"].null_count
    timed = requests.num_rows - requests["request_seconds"].null_count
    counts = {"requests": requests.num_rows, **sums, "timed": timed or None, "uncounted": uncounted or None}
    return {_PREFIX + name: value for name, value in counts.items() if value is not None}


def columns_of(output: str) -> tuple[Column, ...]:
    """What the requests took from which the column `output` comes: null where it is not known of each of them."""
    about = {
        "requests": (pa.int64(), "requests about the row"),
        "prompt_tokens": (pa.int64(), "tokens of their prompts, as the server counts"),
        "completion_tokens": (pa.int64(), "tokens of their answers, as the server counts"),
        "seconds": (pa.float64(), "how long they took together"),
        "cost": (pa.float64(), "what they cost, in the table's currency"),
    }
    numbers = (
        Column(f"{output}_{name}", kind, meaning, nullable=True, finite=pa.types.is_floating(kind))
        for name, (kind, meaning) in about.items()
    )
    return (*numbers, Column(f"{output}_server", pa.string(), "who answered", nullable=True))


def of_row(requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of `columns_of`, by what stands behind the output's name, of the `requests` about a row."""
    values: dict[str, list[Any]] = {name: [one.get(column) for one in requests] for name, column in _OF_A_ROW.items()}
    sums = {name: None if None in each or not each else sum(each) for name, each in values.items()}
    servers = list(dict.fromkeys(one["server"] for one in requests if one.get("server")))
    return {**sums, "server": ", ".join(servers) or None}


def taken_about(rows: pa.Table, output: str) -> dict[str, float]:
    """`taken`, of rows that have `columns_of` the label `output`."""
    sums = {name: pc.sum(rows[f"{output}_{name}"]).as_py() for name in _OF_A_ROW}
    unknown = rows.filter(pc.is_null(rows[f"{output}_completion_tokens"]))
    timed = rows.filter(pc.is_valid(rows[f"{output}_seconds"]))
    counts = {
        **sums,
        "timed": pc.sum(timed[f"{output}_requests"]).as_py(),
        "uncounted": pc.sum(unknown[f"{output}_requests"]).as_py(),
    }
    return {_PREFIX + name: value for name, value in counts.items() if value is not None}


def usage_notes(made: Manifest) -> tuple[str, ...]:
    """What servers were asked for a result, on one line; none where none was."""
    words = in_words(taken_of(made.stats.get("counts", {})))
    return (words,) if words else ()


def taken_of(counts: Mapping[str, float]) -> dict[str, float]:
    """What `taken` left among the counts of a result, without its prefix."""
    return {name.removeprefix(_PREFIX): count for name, count in counts.items() if name.startswith(_PREFIX)}


def in_words(sums: Mapping[str, float]) -> str:
    """Sums of `taken`, without their prefix, for a person; empty where nothing was asked."""
    requests = int(sums.get("requests", 0))
    if not requests:
        return ""
    parts = [f"{requests:,} request{'s' * (requests != 1)}"]
    if "prompt_tokens" in sums:
        parts.append(f"{int(sums['prompt_tokens']):,} tokens of prompts")
    if "completion_tokens" in sums:
        parts.append(f"{int(sums['completion_tokens']):,} tokens of answers")
    if "cost" in sums:
        parts.append(f"cost {sums['cost']:.6g}")
    if sums.get("timed"):
        parts.append(f"{sums['seconds'] / sums['timed']:.3g} s a request")
    if sums.get("uncounted"):
        parts.append(f"{int(sums['uncounted']):,} without a count of tokens")
    return f"servers answered {', '.join(parts)}"
