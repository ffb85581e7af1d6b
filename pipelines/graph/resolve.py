"""What a person may name on the command line: a dataset folder or a file, a checkpoint or a Hugging Face folder, a
function; each becomes the node that it stands for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from datakit.formats.layouts import reader_of
from datakit.tokenize import Adopt
from pipelines.graph.external import Function, ImportedModel, content_of
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.runtime import settings
from schemas.store.commit import read_manifest
from schemas.store.storage import normal


def rows_at(plan: Plan, place: str, form: str, label: str = "", **params: Any) -> Node:
    """The dataset in the folder `place`, or what an import of the file there makes; `params` say how it is read."""
    if read_manifest(place) is not None:
        return plan.existing(place, "dataset")
    return imported(plan, (place,), form, label or f"imported/{stem(place)}", **params)


def model_at(plan: Plan, place: str) -> Node:
    """The checkpoint in the folder `place`, or the one that is made of the Hugging Face folder there."""
    place = os.path.expanduser(place)
    if "://" not in place and (Path(place) / "config.json").is_file() and read_manifest(place) is None:
        return adopted(plan, place)
    return plan.existing(place, "checkpoint")


def adopted(plan: Plan, folder: str, label: str = "", tokenizer: str = "") -> Node:
    """The checkpoint made of a Hugging Face folder, with the tokenizer at the place `tokenizer` or its own: that in
    `tokenizer.json`, or else in a SentencePiece model.
    """
    folder = os.path.expanduser(folder)
    model = Path(folder) / "tokenizer.model"
    if not tokenizer and model.is_file() and not model.with_suffix(".json").is_file():
        tokenizer = str(model)
    return plan.add(
        ImportedModel(
            label=label or f"adopted/{stem(folder)}",
            root=plan.root,
            folder=str(Path(folder).absolute()),
            content=content_of(folder),
            tokenizer=any_at(plan, tokenizer) if tokenizer else None,
        )
    )


def scorer_at(plan: Plan, place: str) -> Node:
    """A reward model: a function (`module:function`), a checkpoint, or a Hugging Face folder."""
    module, colon, name = place.partition(":")
    if colon and name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return plan.add(Function(label=place, root=plan.root, function=place))
    return model_at(plan, place)


def any_at(plan: Plan, place: str) -> Node:
    """What has a tokenizer: a dataset of one, a checkpoint, or what `tokenize.adopt` makes of a folder or file."""
    manifest = read_manifest(place)
    if manifest is not None and manifest.kind in ("dataset", "checkpoint"):
        return plan.existing(place, manifest.kind)
    return plan.table(f"adopted/{stem(place)}.tokenizer", Adopt(path=normal(place)).pinned())


def imported(plan: Plan, files: tuple[str, ...], form: str, label: str, **params: Any) -> Node:
    """What the reader of `files` makes of them (`datakit.formats.layouts`)."""
    name, params_of_files = reader_of(files)
    kind = {} if "kind" in params else {"format": form}
    op: Any = settings.operation(name, {"files": list(files), **kind, **params_of_files, **params})
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
