"""Whether a run's results have room: two estimates from the plan against what is free on the root's disk.

`least` counts what is certain: the weights of every model, once. `likely` adds rows and their growth from stage to
stage, and the saves of training with their optimizer state. Free space below `least` ends the run before it starts;
below `likely` it is said. Nothing is opened but manifests and the beginnings of files.

How much a stage adds its operation says (`Op.grown`): what it was on public sets (gsm8k, hh-rlhf, the pairs of
LLaMA-Factory). Text that a template wrote stands there twice, once in pieces; ids and masks are a third of that.
Answers that have yet to be generated count with all the tokens that they may have.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datakit.op import BYTES_PER_TOKEN, Size
from datakit.tokenizers.making import MakesTokenizer
from pipelines.cli.console import say
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table, TrainedCheckpoint
from schemas.errors import StorageError
from schemas.tokenizer_lineage import token_columns
from trainers import architecture
from trainers.tensors import parameters

_PRECISION = {"fp32": (4, 12), "bf16": (2, 14)}
"""Bytes of a weight in a checkpoint, and with the optimizer's state."""


def check(todo: Sequence[Node]) -> None:
    """Raise `StorageError` where the results of `todo` cannot fit below their root, and say so where they may not."""
    root = todo[0].root if todo else "://"
    if "://" in root:
        return
    free = shutil.disk_usage(next(place for place in (Path(root), *Path(root).parents) if place.exists())).free
    sizes: dict[int, Size] = {}
    likely = sum(size_of(node, sizes).bytes for node in todo)
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


def sizes(todo: Sequence[Node]) -> list[Size]:
    """About how many rows and bytes each of `todo` will be."""
    known: dict[int, Size] = {}
    return [size_of(node, known) for node in todo]


def size_of(node: Node, sizes: dict[int, Size]) -> Size:
    """What `node` is, or will be about."""
    if id(node) not in sizes:
        manifest = node.manifest()
        if manifest is not None:
            num_bytes = sum(file.bytes for file in (*manifest.files, *manifest.rejected))
            sizes[id(node)] = Size(manifest.num_rows, num_bytes)
        elif isinstance(node, Table):
            given = [size_of(parent, sizes) for parent in node.inputs]
            whole = Size(sum(size.rows for size in given), sum(size.bytes for size in given))
            size = node.op.grown(whole)
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
            count += size_of(rows, sizes).bytes / BYTES_PER_TOKEN
            continue
        columns = manifest.stats.get("columns", {})
        lengths = [columns.get(f"{name}.length", {}) for name in token_columns(node.op.takes)]
        count += sum(length.get("mean", 0.0) * length.get("count", 0) for length in lengths)
    return count


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
            tokenizer = getattr(node.tokenizer, "op", None)
            most = tokenizer.most_tokens if isinstance(tokenizer, MakesTokenizer) else None
            size = most or node.training.learning.model.vocab_size
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
