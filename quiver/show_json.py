"""What `quiver show --json` says of a dataset with some of its rows, or of a checkpoint: one object, for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from quiver import grid
from quiver.chosen_rows import ChosenRows
from schemas import Dataset
from schemas.manifest import Manifest
from schemas.store.storage import normal


def dataset(of: Dataset, chosen: ChosenRows) -> Iterator[str]:
    """The facts of a dataset; `matching` rows may be shown, `shown` are, each behind its number and all its values."""
    columns = [{"name": one.name, "type": str(one.type), "meaning": one.meaning} for one in of.schema.columns]
    values = grid.objects(chosen.rows.to_batches())
    shown = [{"row": number, "values": row} for number, row in zip(chosen.numbers, values, strict=True)]
    rows = {"rows_kind": of.schema.name, "rows": of.num_rows, "rejected": sum(one.rows for one in of.rejected)}
    yield _text(_facts(of.url, of.manifest) | rows | {"columns": columns, "matching": chosen.matching, "shown": shown})


def checkpoint(place: str, manifest: Manifest, parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The facts of a checkpoint; `parts` are its training, its architecture and its last figures."""
    yield _text(_facts(normal(place), manifest) | dict(parts))


def _facts(place: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "place": place,
        "kind": manifest.kind,
        "made_by": manifest.op.get("name"),
        "settings": manifest.op.get("params"),
        "seed": manifest.seed,
        "task_key": manifest.task_key,
        "made_of": [{"role": one.name, "place": one.url} for one in manifest.parents],
        "bytes": sum(file.bytes for file in (*manifest.files, *manifest.rejected)),
    }


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(grid.plain(value), indent=1)
