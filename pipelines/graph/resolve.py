"""What a person may name on the command line besides models (`pipelines.backends`): a dataset folder or a file, what
has a tokenizer; each becomes the node that it stands for.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from datakit.blend import Shuffle, Split
from datakit.filter import NotNull
from datakit.formats.forms import FORMS
from datakit.formats.layouts import reader_of
from datakit.formats.reader import FormatReader
from datakit.formats.recognise import names_left
from datakit.op import NOTHING, Context, Keep, Read
from datakit.registry import op_of
from datakit.tokenize import Adopt
from pipelines.graph.faults import StandIn
from pipelines.graph.named_results import place_of_name, refuse_near
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.nodes import Table
from schemas import TOKENIZERS
from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.store.commit import read_manifest
from schemas.store.opening import only_match
from schemas.store.storage import normal, relative, shown

_USUAL = "completions"
"""The format in which a command reads a file whose `--format` nobody gives."""


def rows_at(plan: GraphBuilder, place: str, forms: str | Sequence[str], label: str = "", **params: Any) -> Node:
    """The dataset in the folder `place`, or the one that is called so (`quiver ls`) where nothing lies, or what an
    import of the file there makes in that one of `forms` that its first rows fit and that leaves the fewest names
    unread (the first of these; the first of all where they fit none); `params` say how it is read.
    """
    first = forms if isinstance(forms, str) else forms[0]
    return plan.attempt(lambda: _rows_at(plan, place, forms, label, **params), lambda: _stand_in(plan, place, first))


def _rows_at(plan: GraphBuilder, place: str, forms: str | Sequence[str], label: str = "", **params: Any) -> Node:
    place = only_match(place)
    if read_manifest(place) is not None:
        return plan.existing(place, "dataset")
    if named := place_of_name(plan.root, place, "dataset"):
        return plan.existing(named, "dataset")
    refuse_near(plan.root, place)
    label = label or f"imported/{stem(place)}"
    first, *others = (forms,) if isinstance(forms, str) else _knowing(forms, **params)
    made = best = _reader((place,), first, **params)
    least = _unread(best) if others else 0
    for form in others:
        if least == 0:
            break
        other = _reader((place,), form, **{**params, "digests": list(made.digests)})
        left = _unread(other)
        if left is not None and (least is None or left < least):
            best, least = other, left
    return plan.table(label, best)


def _stand_in(plan: GraphBuilder, place: str, form: str) -> Node:
    """What stands for rows that are not there: as those of a file in that format."""
    schema = FORMS[form].schema if form in FORMS else NOTHING
    return StandIn(label=stem(place), root=plan.root, stands_for="dataset", rows=schema)


def _knowing(forms: Sequence[str], columns: Collection[str] = (), dialogue: str = "plain", **_: Any) -> Sequence[str]:
    """Those of `forms` that have all keys that `columns` names and read texts of that `dialogue`; the first where none
    does.
    """
    keys = {form: {name for key in FORMS[form].keys for name in (key.name, *key.aliases)} for form in forms}
    able = (form for form in forms if keys[form].issuperset(columns) and dialogue in FORMS[form].dialogues)
    return [*able] or forms[:1]


def unread(node: Node) -> int | None:
    """How many names the reader of a file leaves out of its first rows; None where it makes no row of them, 0 for
    what no reader makes.
    """
    return _unread(getattr(node, "op", None))


def _unread(read: object) -> int | None:
    return names_left(read) if isinstance(read, Read) else 0


def whole(rows: Node) -> Node:
    """The rows that `rows`, while they are not made, will be taken from as they are."""
    while isinstance(rows, Table) and rows.manifest() is None and isinstance(rows.op, Keep | Split | Shuffle):
        [rows] = rows.inputs
    return rows


def keeps_any(op: NotNull, rows: Node) -> bool:
    """Whether `op` keeps any of `rows`, where that is known before any work: of rows that are there, or that will be
    read from files (as far as the first that stays). True where it is not known.
    """
    if rows.manifest() is not None:
        return op.keeps_any(Dataset.open(rows.url, "off"))
    read = getattr(rows, "op", None)
    try:
        return not isinstance(read, Read) or op.keeps_any(result.rows for result in read.read(Context()))
    except DataError:
        return True


def few_keys(rows: Node, split: Split, most: int = 1000) -> int | None:
    """How many keys `split` sees in `rows` that are there, `most` at most, or will be read from a small file; None
    where that is not known before any work.
    """
    manifest, read = rows.manifest(), getattr(rows, "op", None)
    if manifest is not None:
        known = Dataset.open(rows.url).read(columns=[split.key]) if manifest.num_rows <= most else None
    elif isinstance(read, Read):
        try:
            results = iter(read.read(Context()))
            first, more = next(results, None), next(results, None)
        except DataError:
            return None
        known = first.rows if first is not None and more is None else None
    else:
        return None
    return None if known is None else len(split.texts(known).unique())


def any_at(plan: GraphBuilder, place: str) -> Node:
    """What has a tokenizer: a dataset of one, a checkpoint, or what `tokenize.adopt` makes of a folder or file."""
    return plan.attempt(
        lambda: _any_at(plan, place),
        lambda: StandIn(label=stem(place), root=plan.root, stands_for="dataset", rows=TOKENIZERS),
    )


def _any_at(plan: GraphBuilder, place: str) -> Node:
    place = only_match(place)
    place = place_of_name(plan.root, place, "checkpoint", "dataset") or place
    manifest = read_manifest(place)
    if manifest is not None and manifest.kind in ("dataset", "checkpoint"):
        return plan.existing(place, manifest.kind)
    return plan.table(f"adopted/{stem(place)}.tokenizer", Adopt(path=normal(place)).pinned())


def imported(plan: GraphBuilder, files: tuple[str, ...], form: str, label: str, **params: Any) -> Node:
    """What the reader of `files` makes of them (`datakit.formats.layouts`)."""
    return plan.attempt(lambda: _imported(plan, files, form, label, **params), lambda: _stand_in(plan, files[0], form))


def _imported(plan: GraphBuilder, files: tuple[str, ...], form: str, label: str, **params: Any) -> Node:
    return plan.table(label, _reader(files, form, **params))


def _reader(files: tuple[str, ...], form: str, **params: Any) -> Any:
    """The operation that reads `files`, with their digests."""
    name, params_of_files = reader_of(files)
    kind = {} if "kind" in params else {"format": form}
    op: Any = op_of(name, {"files": list(files), **kind, **params_of_files, **params})
    return op.pinned()


def names_in(text: str) -> list[str]:
    """The places named in `text`, divided by commas; blanks around a comma are no part of a name."""
    return [part.strip() for part in text.split(",") if part.strip()]


def places_in(text: str) -> list[str]:
    """The places named in `text`, divided by commas, each as `only_match` has it."""
    return [only_match(place) for place in names_in(text)]


def stem(place: str) -> str:
    """A name for what lies at `place`: its last part, without endings and strange characters."""
    text = PurePosixPath(place.rstrip("/")).name.split(".", maxsplit=1)[0]
    kept = "".join(character if character.isalnum() or character in "-_=" else "-" for character in text)
    return kept.strip("-") or "rows"


def folder_name(text: str) -> str:
    """`text` as one part of a path that no glob and no `key=value` partition takes for more than a name."""
    return re.sub(r"[^\w.+-]", "-", text).strip("-.") or "unnamed"


def source_of(rows: Node) -> str:
    """What a command is given to have these rows: where they are, or the files that they will be read from."""
    files = getattr(getattr(rows, "op", None), "files", ())
    if files and rows.manifest() is None:
        return ",".join(shlex.quote(shown(file)) for file in files)
    return shlex.quote(shown(rows.url))


def data_flags(rows: Node) -> str:
    """`--data` and the flags beside it with which a command has these rows, of a file as they are read from it."""
    read = getattr(rows, "op", None)
    words = [f"--data {source_of(rows)}"]
    if isinstance(read, FormatReader) and read.files and rows.manifest() is None:
        given = {
            "--format": "" if read.format == _USUAL else read.format,
            "--columns": json.dumps(dict(read.columns), ensure_ascii=False) if read.columns else "",
            "--keep": ",".join(read.keep),
            "--ignore": ",".join(read.ignore),
            "--dialogue": "" if read.dialogue == "plain" else read.dialogue,
            "--source-name": read.source,
        }
        words += [f"{flag} {shlex.quote(value)}" for flag, value in given.items() if value]
    return " ".join(words)


def near(url: str) -> str:
    """`url` as seen from the current folder."""
    return url if "://" in url else relative(url)
