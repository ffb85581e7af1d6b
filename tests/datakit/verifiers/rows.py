"""Verdicts of `label.verify` over pairs of a response and a gold answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from datakit.label import Verify
from datakit.op import Context


def verdicts(kind: str, pairs: Sequence[tuple[str, str | None]], **settings: Any) -> list[tuple[float, str | None]]:
    """(right, read) of each pair; right is -1 where the gold answer could not be read."""
    columns = {
        name: pa.array([pair[at] for pair in pairs], pa.string()) for at, name in enumerate(("response", "answer"))
    }
    labels = Verify(kind=kind, settings=settings).label(pa.table(columns), Context())
    right, read = (labels.columns[name].to_pylist() for name in ("correct", "correct_read"))
    known = labels.kept.keep.to_pylist()
    return [(value if sure else -1.0, text) for value, text, sure in zip(right, read, known, strict=True)]
