"""`quiver show PLACE`, or a name of `quiver ls`: a dataset with its first rows, a checkpoint with its shape and
figures, what a folder holds.

Nothing of torch is imported, and of a checkpoint only its manifest and its one small file, which is verified, are read.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiver import plain_places, run_folder
from quiver.command import Command, is_count
from quiver.workspace_root import place_of
from schemas import Dataset, display
from schemas.chat_template import ChatTemplate
from schemas.errors import ConfigError, IntegrityError, QuiverError, counted, printable
from schemas.installed import as_run
from schemas.manifest import Manifest
from schemas.nearest import nearest
from schemas.process import terminal
from schemas.shards import verified_bytes
from schemas.store.commit import read_manifest
from schemas.store.storage import normal, relative, shown
from schemas.untrusted import parsing, strict_json

if TYPE_CHECKING:
    from quiver.chosen_rows import ChosenRows

_DEEP, _MOST = 4, 40
"""Of a folder: how deep its datasets are looked for, and how many are listed."""
_VARIANT = re.compile(r"-[0-9a-f]{8}$")
"""What stands behind the name of a result in the name of its folder."""
_SEED = "1234"
_MODEL_BYTES = 1 << 20
"""Bytes that the settings of a network may take."""


def show(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """What stands at the place that `arguments` name, or its rows with what is learnt of them."""
    words, options = command.parsed(arguments)
    count, whole = options.get("rows", "3"), "whole" in options
    chooses = {"where", "sample"} & options.keys()
    wrong = ("tokenizer" in options and "mask" not in options) or ((whole or chooses) and "mask" in options)
    wrong = wrong or ("sample" in options and "rows" in options) or ("seed" in options and "sample" not in options)
    wrong = wrong or ("json" in options and (whole or "mask" in options))
    counts = count, options.get("sample", "1"), options.get("seed", _SEED)
    if len(words) != 1 or not all(map(is_count, counts)) or wrong:
        place = shlex.quote(words[0]) if words else "."
        raise command.wrong(" ".join(arguments) or "no dataset", f"{command.call} {place}")
    place = place_of(words[0], options)
    if "mask" in options:
        return _masked(place, int(count), options)
    if "json" in options:
        return _as_json(place, options)
    if not chooses:
        return lines(place, int(count), whole=whole)
    return _chosen(place, options, whole=whole)


def _chosen(place: str, options: Mapping[str, str], *, whole: bool) -> Iterator[str]:
    """Rows of a dataset for which a predicate holds, or a sample, each below its number in the dataset."""
    dataset, predicate = Dataset.open(place), options.get("where")
    chosen = _rows(dataset, options)
    of_all = display.rows_of(dataset.num_rows, dataset.schema.name)
    matching = "" if predicate is None else f", and {printable(predicate, 200)} holds for {chosen.matching:,} of them"
    yield terminal.wrapped(f"{shown(relative(dataset.url))}: {of_all}{matching}")
    for number, row in zip(chosen.numbers, chosen.rows.to_pylist(), strict=True):
        yield from ("", f"row {number}")
        yield from plain_places.fields(row, whole=whole)


def _rows(dataset: Dataset, options: Mapping[str, str]) -> ChosenRows:
    """The rows that the flags ask for; without any the first."""
    from quiver.chosen_rows import Choice, chosen_rows

    sample, predicate = options.get("sample"), options.get("where")
    seed = None if sample is None else int(options.get("seed", _SEED))
    if predicate is not None and not predicate.strip():
        predicate = " "  # which is refused as an empty one
    try:
        return chosen_rows(dataset, Choice(int(sample or options.get("rows", "3")), predicate or "", seed))
    except ConfigError as error:
        error.next = error.next or f"quiver show {shlex.quote(relative(dataset.url))}"
        raise


def _as_json(place: str, options: Mapping[str, str]) -> Iterator[str]:
    from quiver import show_json

    manifest = read_manifest(normal(place))
    if manifest is not None and manifest.kind == "dataset":
        dataset = Dataset.open(place)
        yield from show_json.dataset(dataset, _rows(dataset, options))
    elif manifest is not None and not {"where", "sample"} & options.keys():
        yield from show_json.checkpoint(place, manifest, _parts(place, manifest))
    else:
        raise ConfigError(
            "no-json",
            f"{shown(place)} is {'a checkpoint and has no rows' if manifest else 'no dataset and no checkpoint'}",
            expected="with --json the name or the folder of one",
            kept="nothing was read",
            next=f"quiver show {shlex.quote(relative(place))}",
        )


def _masked(place: str, rows: int, options: Mapping[str, str]) -> Iterable[str]:
    from datakit.tokenizers.masked_text import masked_text
    from datakit.tokenizers.tokenizer import Tokenizer

    dataset, given, tokenizer = Dataset.open(place), options.get("tokenizer"), None
    if given is not None:
        manifest = read_manifest(normal(given))
        stored = manifest is not None and manifest.kind == "dataset"
        tokenizer = Tokenizer.of_dataset(Dataset.open(given)) if stored else Tokenizer.of_folder(given)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return [masked_text(dataset, rows, tokenizer).text(colour)]


def lines(place: str, rows: int, *, whole: bool = False) -> Iterator[str]:
    """What stands at `place`, in lines of the terminal's width, with the first `rows` of a dataset, a line for each
    field, which is cut unless they are `whole`; `IntegrityError`, with the nearest name, where nothing does.
    """
    manifest = read_manifest(normal(place))
    if manifest is None:
        yield from _plain(place, rows, whole)
    elif manifest.kind == "dataset":
        yield from _dataset(Dataset.open(place), rows, whole)
    else:
        yield from _checkpoint(place, manifest)


def _dataset(dataset: Dataset, rows: int, whole: bool) -> Iterator[str]:
    facts = display.text(dataset.url, dataset.manifest, dataset.schema, terminal.width())
    yield from (_near(line) for line in facts.splitlines())
    first = dataset.first(rows).to_pylist() if rows else []
    for number, row in enumerate(first):
        yield from ("", f"row {number}")
        yield from plain_places.fields(row, whole=whole)
    yield ""
    yield from (_near(line) for line in dataset.lineage().splitlines())
    if dataset.rejected:
        command = as_run(f"quiver show {shlex.quote(relative(dataset.url) + '/rejected')}")
        yield from ("", terminal.wrapped(f"the rejected rows: {command}"))


def _checkpoint(place: str, manifest: Manifest) -> Iterator[str]:
    yield _near(f"{manifest.kind} {shown(normal(place))}")
    size = sum(file.bytes for file in manifest.files)
    files, by = counted(len(manifest.files), "file"), shown(manifest.op.get("name", "no task"))
    yield f"  {files}, {size / 1e6:,.1f} MB, made by {by}"
    for parent in manifest.parents:
        yield _near(f"  {shown(parent.name)}: {shown(parent.url)}")
    for title, values in _parts(place, manifest).items():
        if values:
            yield from ("", title)
            yield from plain_places.fields(
                {name: f"{v:.5g}" if isinstance(v, float) else v for name, v in values.items()}
            )


def _parts(place: str, manifest: Manifest) -> Mapping[str, Mapping[str, Any]]:
    """What there is to say of a checkpoint, by titles."""
    figures = manifest.facts.get("stats")
    return {
        "training": _training(manifest),
        "architecture": _architecture(place, manifest),
        "figures": figures if isinstance(figures, Mapping) else {},
    }


def _training(manifest: Manifest) -> Mapping[str, Any]:
    """What the training that made the checkpoint was asked for, and the chat template that it learnt; none where no
    training did.
    """
    params = manifest.op.get("params")
    name = str(manifest.op.get("name"))
    if not (name == "online" or name.startswith("train.")) or not isinstance(params, Mapping):
        return {}
    learnt = ChatTemplate.of(manifest.facts)
    options = f", with {json.dumps(dict(learnt.options))}" if learnt.options else ""
    template = "the tokenizer's own" if learnt.name is None else learnt.name
    online = {"step": params.get("step"), "models": manifest.op.get("models")}
    step = {name: json.dumps(one) for name, one in online.items() if one}
    return {**run_folder.learnt_with(params), **step, "template": f"{template}{options}"}


def _architecture(place: str, manifest: Manifest) -> Mapping[str, Any]:
    """The settings of the network that are not off; none where the checkpoint has no such file. `IntegrityError` for
    one that is not the manifest's, or no model's.
    """
    file = next((file for file in manifest.files if file.path == "model.json"), None)
    if file is None:
        return {}

    def refused(words: str) -> IntegrityError:
        return IntegrityError(
            "checkpoint-damaged",
            f"model.json of {shown(place)} describes no model",
            expected=f"the settings of a network, in at most {_MODEL_BYTES:,} bytes",
            found=words,
            where=shown(place),
            kept="nothing was changed",
            next="copy the checkpoint again, or train again",
        )

    if file.bytes > _MODEL_BYTES:
        raise refused(f"{file.bytes:,} bytes")
    with parsing(refused), closing(verified_bytes(place, file, "full")) as source:
        settings = strict_json(source.read())
    if not isinstance(settings, dict):
        raise refused("other JSON")
    return {name: value for name, value in settings.items() if value not in (None, False)}


def _plain(place: str, rows: int, whole: bool) -> Iterator[str]:
    """What is no dataset and no checkpoint; a folder, by what is in it."""
    where = normal(place)
    above = os.path.dirname(where.rstrip("/"))
    if os.path.basename(where.rstrip("/")) == "rejected" and Dataset.exists(above):
        aside = plain_places.rejected(Dataset.open(above), rows, whole=whole)
        yield from aside if whole else map(_near, aside)
        return
    if "://" in where or not os.path.exists(where):
        raise _nothing(place)
    if os.path.isfile(where):
        yield from plain_places.file(relative(where), rows, whole=whole)
    elif not os.path.isdir(where):
        raise IntegrityError(
            "not-a-file",
            f"{shown(place)} is {plain_places.kind_of(where)}",
            expected="a dataset, a checkpoint, a file or a folder",
            kept="nothing was read",
            next=f"ls -l {shlex.quote(relative(where))}",
        )
    elif plain_places.kind_of(where) == plain_places.RUN:
        yield from run_folder.lines(relative(where), plain_places.settings(where), rows)
    elif plain_places.kind_of(where):
        yield from plain_places.network(relative(where))
    else:
        yield from _folder(relative(where), where)


def _folder(place: str, where: str) -> Iterator[str]:
    """The datasets and checkpoints below `place`; where there are none, its files and folders."""
    listed = sorted(_below(where)) or sorted(_entries(where))
    if not listed:
        yield f"{shown(place)} is empty"
        yield from ("", f"next: ls -a {shlex.quote(place)}")
        return
    yield f"{shown(place)} holds"
    column = max(len(name) for name, _ in listed[:_MOST])
    yield from (f"  {name:<{column}}  {what}" for name, what in listed[:_MOST])
    if len(listed) > _MOST:
        yield f"  ... {len(listed) - _MOST} more"
    first = os.path.join(place, listed[0][0])
    yield from ("", plain_places.to_do(f"quiver show {shlex.quote(first)}"))


def _below(where: str) -> Iterator[tuple[str, str]]:
    for above, folders, files in os.walk(where):
        name = os.path.relpath(above, where)
        if "_manifest.json" in files:
            folders.clear()
            yield printable(name, 200), _what(above)
        elif name.count("/") >= _DEEP:
            folders.clear()


def _entries(where: str) -> Iterator[tuple[str, str]]:
    for entry in os.scandir(where):
        if not entry.name.startswith("."):
            yield printable(entry.name, 200), plain_places.kind_of(entry.path) or "a folder"


def _what(folder: str) -> str:
    try:
        manifest = read_manifest(folder)
    except (QuiverError, OSError):
        return "cannot be read"
    if manifest is None or manifest.kind != "dataset" or manifest.schema is None:
        return "nothing" if manifest is None else manifest.kind
    return display.rows_of(manifest.num_rows, manifest.schema.name)


def _nothing(place: str) -> IntegrityError:
    """The error of a place where nothing is, with the near name of its folder."""
    where, missing, near, command = normal(place), place, "", ""
    if "://" not in where:
        folder = next(parent for parent in Path(where).parents if parent.is_dir())
        missing = Path(where).relative_to(folder).parts[0]
        names = {_VARIANT.sub("", entry.name): entry.name for entry in sorted(folder.iterdir(), key=_changed)}
        names = {one: one for one in names.values()} | names
        near = names.get(missing) or names.get(nearest(missing, names), "")
        rest = Path(where).relative_to(folder).parts[1:]
        listing = f"ls {shlex.quote(relative(folder))}"
        command = f"quiver show {shlex.quote(relative(folder.joinpath(near, *rest)))}" if near else listing
    return IntegrityError(
        "dataset-missing",
        f"no dataset or checkpoint at {shown(place)}",
        expected="a folder with _manifest.json, which is written last, or a folder of such folders",
        found="no such file or folder",
        kept="nothing was changed",
        next=command or "run the task that makes it, or correct the path",
        wrong=(missing,),
        nearest=near,
    )


def _changed(entry: Path) -> float:
    """When `entry` itself changed; a link may lead nowhere, and what is gone by now came first."""
    try:
        return entry.lstat().st_mtime
    except OSError:
        return 0.0


def _near(line: str) -> str:
    """`line` at the terminal's width, with places as seen from the current folder."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return terminal.wrapped(terminal.from_here(line), indent)
