"""Whether a run's results have room: two estimates from the plan against what is free on the root's disk.

`least` counts what is certain: the weights of every model, once. `likely` adds rows and their growth from stage to
stage, and the saves of training with their optimizer state. Free space below `least` ends the run before it starts;
below `likely` it is said. Nothing is opened but manifests and the beginnings of files.

How much a stage adds is what it was on public sets (gsm8k, hh-rlhf, the pairs of LLaMA-Factory): text that a template
wrote stands there twice, once in pieces; ids and masks are a third of that. Answers that have yet to be generated count
with all the tokens that they may have.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from datakit.blend import Split
from datakit.formats.sources import head_of
from datakit.generate import Complete
from datakit.io import Arrow, Csv, Jsonl, Parquet, Reversal
from datakit.op import Op
from datakit.template import Chat, RewardPrompt
from datakit.tokenize import Encode, Mask, Sequences, Train
from pipelines.graph.nodes import Node, Table, TrainedCheckpoint
from pipelines.runtime.console import say
from schemas.errors import StorageError
from schemas.tokenizer_lineage import token_columns
from trainers import architecture
from trainers.tensors import parameters

_SAMPLE = 1 << 20
"""Bytes of a file's beginning, without its compression, that are looked at."""
_COLUMNAR = b"PAR1"
_ROW_BYTES, _RECORD_BYTES = 256, 1024
"""Bytes of a row in a columnar file, and of a record in a JSON list, where nothing else is known."""
_ID_BYTES = 60
"""Bytes of a row's ids, which no compression shrinks."""
_TOKEN_BYTES = 12
_PRECISION = {"fp32": (4, 12), "bf16": (2, 14)}
"""Bytes of a weight in a checkpoint, and with the optimizer's state."""


@dataclass(frozen=True)
class Size:
    """Rows and bytes of a dataset, made or to be made."""

    rows: float = 0.0
    bytes: float = 0.0


def check(todo: Sequence[Node]) -> None:
    """Raise `StorageError` where the results of `todo` cannot fit below their root, and say so where they may not."""
    root = todo[0].root if todo else "://"
    if "://" in root:
        return
    free = shutil.disk_usage(next(place for place in (Path(root), *Path(root).parents) if place.exists())).free
    sizes: dict[int, Size] = {}
    likely = sum(_size(node, sizes).bytes for node in todo)
    for node in todo:
        if isinstance(node, Table) and node.op.token_bytes:
            wide = _tokens(node, sizes) * node.op.token_bytes
            say(f"  {node.label}: {node.op.token_bytes} B for each token, about {_shown(wide)} before compression")
    least = sum(_model_bytes(node)[0] for node in todo if isinstance(node, TrainedCheckpoint))
    if free < least:
        raise StorageError(
            "no-space",
            f"need about {_shown(max(least, likely))}, {_shown(free)} free",
            expected=f"at least {_shown(least)} for the weights of this run's models",
            where=root,
            kept="nothing was started",
            next="free some space, or set [quiver] root to another disk",
        )
    if free < likely:
        say(f"  {root} may become full: this run needs about {_shown(likely)}, {_shown(free)} are free")


def _size(node: Node, sizes: dict[int, Size]) -> Size:
    """What `node` is, or will be about."""
    if id(node) not in sizes:
        manifest = node.manifest()
        if manifest is not None:
            num_bytes = sum(file.bytes for file in (*manifest.files, *manifest.rejected))
            sizes[id(node)] = Size(manifest.num_rows, num_bytes)
        elif isinstance(node, Table):
            given = [_size(parent, sizes) for parent in node.inputs]
            whole = Size(sum(size.rows for size in given), sum(size.bytes for size in given))
            size = grown(node.op, whole)
            wide = _tokens(node, sizes) * node.op.token_bytes if node.op.token_bytes else 0.0
            sizes[id(node)] = replace(size, bytes=size.bytes + wide)
        elif isinstance(node, TrainedCheckpoint):
            sizes[id(node)] = Size(0.0, _model_bytes(node)[1])
        else:
            sizes[id(node)] = Size()
    return sizes[id(node)]


def _tokens(node: Table, sizes: dict[int, Size]) -> float:
    """Tokens that the operation of `node` reads: counted where the rows are made, or else judged by their bytes."""
    count = 0.0
    for rows in node.inputs:
        manifest = rows.manifest()
        if manifest is None:
            count += _size(rows, sizes).bytes / _TOKEN_BYTES
            continue
        columns = manifest.stats.get("columns", {})
        lengths = [columns.get(f"{name}.length", {}) for name in token_columns(node.op.takes)]
        count += sum(length.get("mean", 0.0) * length.get("count", 0) for length in lengths)
    return count


@functools.singledispatch
def grown(op: Op, given: Size) -> Size:
    """What `op` makes of as much: for most operations about the same, whether rows stay, go beside it or gain a column
    that repeats itself.
    """
    return given


@grown.register(Jsonl)
@grown.register(Parquet)
@grown.register(Csv)
@grown.register(Arrow)
def _(op: Jsonl | Parquet | Csv | Arrow, given: Size) -> Size:
    sizes = [_read(Path(name)) for name in op.files if "://" not in name and os.path.exists(name)]
    return Size(sum(size.rows for size in sizes), sum(size.bytes for size in sizes))


def _read(file: Path) -> Size:
    """What a file becomes: its beginning says how far text of this kind shrinks, and how long a record is."""
    stored = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(_COLUMNAR))
    text = b"" if start == _COLUMNAR or not stored else head_of(str(file), _SAMPLE)
    if not text:
        return Size(stored / _ROW_BYTES, stored)
    shrunk = len(pa.Codec("zstd").compress(text, asbytes=True)) / len(text)
    size = float(len(text) if len(text) < _SAMPLE else stored if text.startswith(start) else stored / shrunk)
    lines = 0 if text.lstrip().startswith(b"[") else text.count(b"\n")
    rows = size * lines / len(text) if lines else size / _RECORD_BYTES
    return Size(rows, size * shrunk + rows * _ID_BYTES)


@grown.register
def _(op: Chat, given: Size) -> Size:
    return Size(given.rows, given.bytes * 2.7)


@grown.register
def _(op: RewardPrompt, given: Size) -> Size:
    return Size(given.rows, given.bytes * (3.7 if op.rows == "preferences" else 2.7))


@grown.register(Encode)
@grown.register(Mask)
@grown.register(Sequences)
def _(op: Encode | Mask | Sequences, given: Size) -> Size:
    return Size(given.rows, given.bytes * 1.35)


@grown.register
def _(op: Reversal, given: Size) -> Size:
    return Size(op.rows, op.rows * _ID_BYTES)


@grown.register
def _(op: Train, given: Size) -> Size:
    return Size(1, op.vocab_size * 64.0)


@grown.register
def _(op: Split, given: Size) -> Size:
    part = op.parts.index(op.part)
    share = op.shares[part] if op.shares else 1.0
    count = op.counts[part] if op.counts else -1
    if count >= 0 and given.rows:
        share = min(1.0, count / given.rows)
    return Size(given.rows * share, given.bytes * share)


@grown.register
def _(op: Complete, given: Size) -> Size:
    rows = given.rows * op.sampling.samples_per_prompt
    each = given.bytes / max(given.rows, 1.0) + _TOKEN_BYTES * op.sampling.max_new_tokens
    return Size(rows, rows * each)


def _model_bytes(node: TrainedCheckpoint) -> tuple[int, int]:
    """Bytes that the checkpoint of `node` needs for certain, and those that its saves need besides, together."""
    shape = _shape(node)
    if shape is None:
        manifest = None if node.init is None else node.init.manifest()
        weights = 0 if manifest is None else sum(file.bytes for file in manifest.files)
        return (0 if node.training.learning.lora else weights), weights
    kept = node.training.execution
    bare, saved = _PRECISION[node.training.learning.precision]
    count = parameters(shape)
    saves = kept.keep_last + kept.keep_best + 1 if kept.save_every else 0
    return (0 if node.training.learning.lora else count * bare), count * (bare + saves * saved)


def _shape(node: Node) -> architecture.ModelConfig | None:
    """The shape of the network that `node` trains, where it or an ancestor of it says so."""
    while isinstance(node, TrainedCheckpoint):
        if node.training.learning.model is not None:
            made = isinstance(node.tokenizer, Table) and isinstance(node.tokenizer.op, Train)
            size = node.tokenizer.op.vocab_size if made else node.training.learning.model.vocab_size  # type: ignore[attr-defined]
            return replace(node.training.learning.model, vocab_size=size)
        if node.init is None:
            return None
        node = node.init
    return None


def _shown(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
