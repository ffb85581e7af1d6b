"""Weights in files of ranks: `model_weights.ckpt` of one, or one for each tensor and pipeline rank of a grid.

    model_weights.ckpt                            a single rank
    mp_rank_TT/model_weights.ckpt                 tensor ranks
    tp_rank_TT_pp_rank_PPP/model_weights.ckpt     tensor and pipeline ranks

Pipeline ranks hold layers one after the other, each counting its own from 0; tensor ranks hold parts of each weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from schemas.nemo.archive import Archive
from schemas.nemo.tar import bad_archive
from trainers.engine.checkpoint.torch_file import TorchFile
from trainers.engine.weights.folder import listed
from trainers.engine.weights.nemo.lazy_tensor import Joined, LazyTensor
from trainers.engine.weights.nemo.names import bare, is_weight

FILE = "model_weights.ckpt"
_MODEL_RANK = re.compile(rf"mp_rank_(\d{{2,5}})/{re.escape(FILE)}", re.ASCII)
_BOTH_RANKS = re.compile(rf"tp_rank_(\d{{2,5}})_pp_rank_(\d{{3,5}})/{re.escape(FILE)}", re.ASCII)
_LAYER = re.compile(r"(?<=\blayers\.)\d{1,6}(?=\.)", re.ASCII)
_ROWS = re.compile(
    r".*\b(word_embeddings|output_layer|linear_qkv|query_key_value|linear_fc1|dense_h_to_4h(_2)?)\.(weight|bias)\d*"
)
_COLUMNS = re.compile(r".*\b(linear_proj|self_attention\.dense|linear_fc2|dense_4h_to_h|rm_head)\.weight\d*")
_OTHER_HALF = ".dense_h_to_4h_2."
_GATED = re.compile(r".*\b(linear_fc1|dense_h_to_4h)\.(weight|bias)\d*")


def has_ranks(archive: Archive) -> bool:
    """Whether the archive keeps its weights in files of ranks."""
    return any(name.rpartition("/")[2] == FILE for name in archive.pieces)


def tensors(archive: Archive, gated: bool) -> dict[str, LazyTensor]:
    """Every weight by the name that a single rank would give it. gated: the first linear of an MLP has a gate's half
    over the other, on each rank. `IntegrityError` for ranks that do not make one model.
    """
    grid = _grid(archive)
    stages = sorted({pipeline for _, pipeline in grid})
    size = 1 + max(tensor for tensor, _ in grid)
    merged: dict[str, LazyTensor] = {}
    passed = 0
    for stage in stages:
        files = [grid[tensor, stage] for tensor in range(size)]
        names = [{name for name in file.tensors if is_weight(bare(name))} for file in files]
        if odd := set[str].union(*names) - set[str].intersection(*names):
            raise bad_archive(archive.path, f"tensor ranks with different weights: {listed(odd)}")
        layers, fused = 0, gated and not any(_OTHER_HALF in name for name in names[0])
        for name in sorted(names[0]):
            before, number, after = _numbered(name)
            own = bare(name if number is None else f"{before}{number + passed}{after}")
            layers = max(layers, 0 if number is None else number + 1)
            if own in merged:
                raise bad_archive(archive.path, f"{listed([own])} twice")
            halves = fused and _GATED.fullmatch(name) is not None
            merged[own] = _joined([file.tensors[name] for file in files], name, halves, archive.path)
        passed += layers
    return merged


def _numbered(name: str) -> tuple[str, int | None, str]:
    """The name of a layer's tensor, parted at its number."""
    match = _LAYER.search(name)
    return (name[: match.start()], int(match[0]), name[match.end() :]) if match else (name, None, "")


def _grid(archive: Archive) -> Mapping[tuple[int, int], TorchFile]:
    """The file of every tensor and pipeline rank; `IntegrityError` where one is missing."""
    files: dict[tuple[int, int], TorchFile] = {}
    for name, piece in archive.pieces.items():
        if name.rpartition("/")[2] != FILE:
            continue
        place = (0, 0) if name == FILE else None
        if match := _MODEL_RANK.fullmatch(name):
            place = (int(match[1]), 0)
        elif match := _BOTH_RANKS.fullmatch(name):
            place = (int(match[1]), int(match[2]))
        if place is None or place in files:
            raise bad_archive(archive.path, f"weights of no rank, or of one again: {listed([name])}")
        files[place] = TorchFile(piece, name)
    tensor, pipeline = (1 + max(place[axis] for place in files) for axis in (0, 1))
    if len(files) != tensor * pipeline:
        raise bad_archive(archive.path, f"{len(files)} files of {tensor} tensor and {pipeline} pipeline ranks")
    return files


def _joined(parts: list[LazyTensor], name: str, halves: bool, path: str) -> LazyTensor:
    """One weight of its parts; those that every rank holds are the first rank's."""
    first = parts[0]
    dim = 0 if _ROWS.fullmatch(name) else 1 if _COLUMNS.fullmatch(name) else None
    if len(parts) == 1 or dim is None or dim >= len(first.shape):
        alike = all(part.shape == first.shape for part in parts)
    else:
        rest = [(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts]
        alike = all(shape == rest[0] for shape in rest)
    if not alike or any(part.dtype != first.dtype for part in parts):
        raise bad_archive(path, f"parts of {listed([name])} that do not fit together")
    if len(parts) == 1 or dim is None or dim >= len(first.shape):
        return first
    return Joined(parts, dim, halves)
