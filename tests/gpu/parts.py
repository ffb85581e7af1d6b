"""The parts of the report: each yields its lines as they are measured, within its own time.

A line is a flat dict; `part` and `name` say what was measured, `error` why it was not (or not to the end).
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.gpu import agreement
from tests.gpu.children import Child, Measured, measure
from tests.gpu.networks import NETWORKS, SHAPES

Line: TypeAlias = dict[str, Any]
_LENGTHS = [31, 64, 17, 90, 200]


@dataclass(frozen=True)
class Where:
    """Where and how much: `gpu` False and `toy` sizes are the dry run; `work` takes what an iteration leaves behind."""

    work: Path
    gpu: bool = True
    toy: bool = False
    iteration: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """`run(where, deadline)` gives the lines of a part; `seconds` bounds it."""

    run: Callable[[Where, float], Iterator[Line]]
    seconds: float
    title: str
    columns: tuple[str, ...]


def _line(name: str, answer: Measured, figures: Mapping[str, Any]) -> Line:
    return {"name": name, **figures, **({} if answer.error is None else {"error": answer.error})}


def machine(where: Where, deadline: float) -> Iterator[Line]:
    """What all this was measured on."""
    size = 256 if where.toy else 8192
    (answer,) = measure([{"do": "machine", "size": size}], deadline, gpu=where.gpu)
    figures = dict(answer.steps[-1]) if answer.steps else {}
    versions = figures.pop("versions", {})
    yield _line("machine", answer, {**figures, **{f"version {name}": version for name, version in versions.items()}})


def parity(where: Where, deadline: float) -> Iterator[Line]:
    """The same weights and rows on the CPU and on the GPU, fp32: training of a policy and a reward model, sampling."""
    networks = {"llama": NETWORKS["llama"]} if where.toy else NETWORKS
    names, prepared, tasks = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for network, model in networks.items():
            common = {"init": f"{folder}/{network}", "vocabulary": model["vocab_size"]}
            prepared.append({"do": "prepare", "model": model, "folder": common["init"]})
            lengths = _LENGTHS[:3] if where.toy else _LENGTHS
            train = {**common, "do": "train", "steps": 3, "lengths": lengths}
            tasks += [{**train, "algorithm": algorithm} for algorithm in ("sft", "rm")]
            tasks.append({**common, "do": "sample", "new_tokens": 8 if where.toy else 48})
            names += [f"{network} {what}" for what in ("sft", "rm", "sampler")]
        middle = time.monotonic() + 0.6 * (deadline - time.monotonic())
        here = list(measure(prepared + tasks, middle, gpu=False))[len(prepared) :]
        for name, one, other in zip(names, here, measure(tasks, deadline, gpu=where.gpu), strict=True):
            yield _compared(name, {"CPU": one, "GPU": other}, "fp32")


def transformer_engine(where: Where, deadline: float) -> Iterator[Line]:
    """Its layers against the local ones, bf16, where it is installed."""
    task = {"do": "train", "algorithm": "sft", "lengths": _LENGTHS, "steps": 3, "precision": "bf16"}
    networks = {"llama": NETWORKS["llama"]} if where.toy else NETWORKS
    common = [{**task, "model": model, "vocabulary": model["vocab_size"]} for model in networks.values()]
    if importlib.util.find_spec("transformer_engine") is None:
        yield {"name": "all", "error": "not run: transformer_engine is not installed"}
        return
    ours, theirs = (
        measure([{**task, "implementation": kind} for task in common], deadline, gpu=where.gpu)
        for kind in ("local", "te")
    )
    for name, one, other in zip(networks, list(ours), theirs, strict=True):
        yield _compared(f"{name} sft", {"local": one, "te": other}, "bf16")


def _compared(name: str, sides: Mapping[str, Measured], precision: str) -> Line:
    for side, answer in sides.items():
        if answer.error is not None:
            return {"name": name, "error": f"{side}: {answer.error}"}
    one, other = sides.values()
    if "greedy" in one.steps[0]:
        return {"name": name, **agreement.sampling(one.steps[0], other.steps[0])}
    return {"name": name, **agreement.training(one.steps, other.steps, precision)}


def _speed(shape: str, recomputes: tuple[str, ...]) -> Callable[[Where, float], Iterator[Line]]:
    def run(where: Where, deadline: float) -> Iterator[Line]:
        """Optimizer steps over rows as long as the model reads, bf16; the first two are warm-up."""
        name = "toy" if where.toy else shape
        model = SHAPES[name]
        length = model["max_sequence_length"]
        task = {"do": "train", "algorithm": "sft", "model": model, "vocabulary": model["vocab_size"]}
        task |= {"lengths": [length] * (2 if where.toy else 8), "steps": 3 if where.toy else 10}
        task |= {"precision": "bf16", "micro_batch_tokens": length}
        for recompute in recomputes[:1] if where.toy else recomputes:
            (answer,) = measure([{**task, "recompute": recompute}], deadline, gpu=where.gpu)
            warm = answer.steps[2:] or answer.steps
            figures = {key: _median(warm, key) for key in ("tokens_per_second", "mfu", "seconds")} if warm else {}
            figures |= {"steps": len(answer.steps), "memory_b": warm[-1]["memory_b"]} if warm else {}
            yield _line(f"{name}, recompute {recompute}", answer, {"length": length, **figures})

    return run


def _median(steps: list[dict[str, Any]], key: str) -> float | None:
    values = sorted(step[key] for step in steps if key in step)
    return values[len(values) // 2] if values else None


def sampler(where: Where, deadline: float) -> Iterator[Line]:
    """Tokens per second of drawing answers with a network of 1B, bf16."""
    name = "toy" if where.toy else "1b"
    task = {
        "do": "generate",
        "model": SHAPES[name],
        "length": 8 if where.toy else 256,
        "new_tokens": 4 if where.toy else 128,
    }
    batches = (4,) if where.toy else (256, 32)
    tasks = [{**task, "batch": batch, "prompts": min(256, 2 * batch)} for batch in batches]
    for batch, answer in zip(batches, measure(tasks, deadline, gpu=where.gpu), strict=True):
        yield _line(f"{name}, batch {batch}", answer, answer.steps[-1] if answer.steps else {})


def digits(where: Where, deadline: float) -> Iterator[Line]:
    """`RestIteration` on its embedded default, from nothing to a better policy."""
    lacking = [name for name in ("polars", "duckdb", "luigi") if importlib.util.find_spec(name) is None]
    if lacking:
        yield {"name": "RestIteration", "error": f"not run: {', '.join(lacking)} not installed"}
        return
    folder = where.work / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "luigi", "--module", "pipelines", "RestIteration", *where.iteration]
    began, child = time.monotonic(), Child(command, deadline, cwd=folder, gpu=where.gpu)
    out = "\n".join(child.lines())
    line: Line = {"name": "RestIteration", "seconds": time.monotonic() - began}
    if gold := re.search(r"(\d+\.\d)%\s+(\d+\.\d)%", out):
        line |= {"gold_before": float(gold[1]) / 100, "gold_after": float(gold[2]) / 100}
    yield line | ({} if child.error is None else {"error": child.error})


def engines(where: Where, deadline: float) -> Iterator[Line]:
    """Answers of vLLM and of TensorRT-LLM in our own workers, each held against our own network (docs/engines.md)."""
    for kind, library in (("vllm", "vllm"), ("trtllm", "tensorrt_llm")):
        lacking = [
            name for name in (library, "transformers", "polars", "luigi") if importlib.util.find_spec(name) is None
        ]
        if lacking:
            yield {"name": kind, "error": f"not run: {', '.join(lacking)} not installed"}
            continue
        yield from (_engine(where, deadline, kind, precision) for precision in ("fp32", "bf16"))


def _engine(where: Where, deadline: float, kind: str, precision: str) -> Line:
    """32 greedy answers of 64 tokens as a command, and what its manifest says was found; 11 where it differs."""
    from schemas.store.commit import read_manifest
    from tests import pages

    folder, name = where.work / f"engine-{kind}", f"{kind} {precision}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "llama").exists():
        pages.model(folder / "llama", **_LLAMA)
        rows = [json.dumps({"prompt": f"What comes after {number}?"}) for number in range(4 if where.toy else 32)]
        (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    asked = ["--model", f"{kind}:llama,precision={precision},memory=0.5", "--prompts", "prompts.jsonl", "--greedy"]
    command = [sys.executable, "-m", "luigi", "--module", "pipelines", "Generate", *asked, "--max-new-tokens"]
    began = time.monotonic()
    child = Child([*command, "8" if where.toy else "64"], deadline, cwd=folder, gpu=where.gpu)
    places = list(child.lines())
    line: Line = {"name": name, "seconds": time.monotonic() - began}
    if child.error is not None:
        return line | {"error": child.error} | ({"agrees": False} if "engine-differs" in child.error else {})
    manifest = read_manifest(str(folder / places[-1].split()[-1]))
    assert manifest is not None, places
    [compared] = manifest.runtime_info["checks"]["generator"]
    figures = {f"{part}_{what}": compared[part][what] for part in ("given", "drawn") for what in ("mean", "greatest")}
    return line | {"rows": manifest.num_rows, "engine": compared["engine"], **figures, "agrees": True}


_LLAMA = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
"""Heads of 64 channels: engines' kernels know no smaller ones."""

_APART = ("loss", "norm", "tolerance", "different_greedy", "different_drawn", "logprobs", "read_again", "agrees")
_ENGINES = ("engine", "rows", "seconds", "given_mean", "given_greatest", "drawn_mean", "drawn_greatest", "agrees")
_SPEED = ("tokens_per_second", "mfu", "memory_b", "seconds", "steps")
PARTS: Mapping[str, Part] = {
    "machine": Part(machine, 40, "Machine", ()),
    "parity": Part(parity, 170, "CPU and GPU, fp32: greatest differences", _APART),
    "speed": Part(
        _speed("1b", ("none", "attention")), 150, "Training at the shape of Llama 3.2 1B, bf16, rows of 4,096", _SPEED
    ),
    "sampler": Part(sampler, 100, "Sampling at the shape of Llama 3.2 1B, bf16", (*_SPEED[:1], *_SPEED[2:4])),
    "speed-7b": Part(_speed("7b", ("full",)), 150, "Training at the shape of Llama 2 7B, bf16", _SPEED),
    "te": Part(transformer_engine, 60, "Transformer Engine and local layers, bf16", _APART[:3] + _APART[-1:]),
    "engines": Part(engines, 400, "Engines in process, against our own network", _ENGINES),
    "digits": Part(digits, 420, "`RestIteration` on `digits`", ("seconds", "gold_before", "gold_after")),
}
