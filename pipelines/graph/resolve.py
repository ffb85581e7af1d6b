"""What a person may name on the command line besides models (`pipelines.backends`): a dataset folder or a file, what
has a tokenizer; each becomes the node that it stands for.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import Any

from datakit.formats.layouts import reader_of
from datakit.registry import op_of
from datakit.tokenize import Adopt
from pipelines.graph.nodes import GraphBuilder, Node
from schemas.store.commit import read_manifest
from schemas.store.storage import normal


def rows_at(plan: GraphBuilder, place: str, form: str, label: str = "", **params: Any) -> Node:
    """The dataset in the folder `place`, or what an import of the file there makes; `params` say how it is read."""
    if read_manifest(place) is not None:
        return plan.existing(place, "dataset")
    return imported(plan, (place,), form, label or f"imported/{stem(place)}", **params)


def any_at(plan: GraphBuilder, place: str) -> Node:
    """What has a tokenizer: a dataset of one, a checkpoint, or what `tokenize.adopt` makes of a folder or file."""
    manifest = read_manifest(place)
    if manifest is not None and manifest.kind in ("dataset", "checkpoint"):
        return plan.existing(place, manifest.kind)
    return plan.table(f"adopted/{stem(place)}.tokenizer", Adopt(path=normal(place)).pinned())


def imported(plan: GraphBuilder, files: tuple[str, ...], form: str, label: str, **params: Any) -> Node:
    """What the reader of `files` makes of them (`datakit.formats.layouts`)."""
    name, params_of_files = reader_of(files)
    kind = {} if "kind" in params else {"format": form}
    op: Any = op_of(name, {"files": list(files), **kind, **params_of_files, **params})
    return plan.table(label, op.pinned())


def names_in(text: str) -> list[str]:
    """The places named in `text`, divided by commas; blanks around a comma are no part of a name."""
    return [part.strip() for part in text.split(",") if part.strip()]


def stem(place: str) -> str:
    """A name for what lies at `place`: its last part, without endings and strange characters."""
    text = PurePosixPath(place.rstrip("/")).name.split(".", maxsplit=1)[0]
    kept = "".join(character if character.isalnum() or character in "-_=" else "-" for character in text)
    return kept.strip("-") or "rows"


def folder_name(text: str) -> str:
    """`text` as one part of a path that no glob and no `key=value` partition takes for more than a name."""
    return re.sub(r"[^\w.+-]", "-", text).strip("-.") or "unnamed"


def near(url: str) -> str:
    """`url` as seen from the current folder."""
    return url if "://" in url else os.path.relpath(url)
