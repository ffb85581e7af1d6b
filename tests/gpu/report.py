"""What a machine with a GPU has to show, as a Markdown table: agreement with the CPU, then speed and memory.

    python -m tests.gpu.report [--shapes 1b,7b] [--steps 8] [--out docs/gpu.md]

1. The same weights and rows on the CPU and on the GPU, fp32: loss and gradient norm, for several shapes of network.
2. Transformer Engine's layers against the local ones, where it is installed: the same, in bf16.
3. Training at 1 and 7 billion weights, bf16, 4,096 tokens a row: tokens/s, MFU, peak memory.

Every line is measured in a process of its own. Without a GPU, `--cpu` runs everything at toy sizes to prove the script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LLAMA = {"num_layers": 4, "hidden_size": 128, "ffn_hidden_size": 344, "num_attention_heads": 8, "num_query_groups": 4}
_SMALL = {**_LLAMA, "vocab_size": 512, "max_sequence_length": 256}
NETWORKS: Mapping[str, dict[str, Any]] = {
    "llama": _SMALL,
    "window": {**_SMALL, "window": 32},
    "gpt2": {
        **_SMALL,
        "num_query_groups": 8,
        "position": "learned",
        "normalization": "LayerNorm",
        "gated": False,
        "activation": "gelu",
        "linear_bias": True,
        "qkv_bias": True,
        "tie_embeddings": True,
    },
    "qwen3": {**_SMALL, "qk_layernorm": True, "kv_channels": 32},
    "mixtral": {**_SMALL, "experts": {"number": 4, "per_token": 2}},
}
SHAPES: Mapping[str, dict[str, Any]] = {
    "1b": {  # Llama 3.2 1B
        "num_layers": 16,
        "hidden_size": 2048,
        "ffn_hidden_size": 8192,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "vocab_size": 128256,
        "max_sequence_length": 4096,
        "rope_base": 500000.0,
        "tie_embeddings": True,
    },
    "7b": {  # Llama 2 7B
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 11008,
        "num_attention_heads": 32,
        "num_query_groups": 32,
        "vocab_size": 32000,
        "max_sequence_length": 4096,
    },
    "toy": {**_SMALL, "max_sequence_length": 256},
}
_RUN = ("model", "precision", "implementation", "recompute", "micro_batch_tokens")
_TOLERANCE = {"fp32": 2e-4, "bf16": 2e-2}


def dataset(folder: Path, vocabulary: int, lengths: list[int]) -> Any:
    """Token rows of these lengths, with random ids."""
    import numpy as np
    import pyarrow as pa

    from schemas import TOKENS
    from schemas.dataset import Attempt

    random = np.random.default_rng(0)
    columns = {
        "sample_id": [f"s{i}" for i in range(len(lengths))],
        "input_ids": [random.integers(0, vocabulary, length).tolist() for length in lengths],
        "loss_mask": [[1] * length for length in lengths],
        "source": pa.nulls(len(lengths), pa.string()),
    }
    attempt = Attempt.begin(str(folder / "rows"), TOKENS)
    with attempt.shard(0) as writer:
        writer.write(pa.table(columns, schema=TOKENS.arrow))
        file = writer.finish()
    return attempt.commit([file])


def stepped(task: Mapping[str, Any], folder: Path) -> Iterator[tuple[float, float, int, float, dict[str, float]]]:
    """Loss, gradient norm, tokens, seconds and figures of each step of `task`."""
    import torch

    from schemas.settings import parse
    from trainers import registry
    from trainers.config import Run
    from trainers.engine import build, parallel
    from trainers.engine.speed import Speed

    data = dataset(folder, task["model"]["vocab_size"], task["lengths"])
    run = parse(
        Run,
        {
            "algorithm": "sft",
            "data": data.url,
            "out": str(folder / "out"),
            "optim": {"lr": 1e-4},
            "max_steps": task["steps"],
            "global_batch_size": len(task["lengths"]),
            **{name: task[name] for name in _RUN if name in task},
        },
    )
    algorithm, settings = registry.configured("sft", {})
    layout = parallel.start()
    assert run.model is not None
    feed = build.feed(run, data, algorithm, run.model, layout, shuffle=False)
    learner = build.trainee(run, algorithm, settings, layout, None)
    speed = Speed.of(run, run.model, layout)
    for number in range(task["steps"]):
        began = time.perf_counter()
        learner.model.zero_grad_buffer()
        learner.optimizer.zero_grad()
        outcome = learner.stepper.train(feed.step(number).batches)
        _, norm, _ = learner.optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        yield outcome.loss, float(norm), outcome.tokens, seconds, speed.figures(outcome, seconds)


def child(task: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement that `task` names, in this process."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        steps = list(stepped(task, Path(folder)))
    told: dict[str, Any] = {"losses": [loss for loss, *_ in steps], "norms": [norm for _, norm, *_ in steps]}
    warm = steps[2:] or steps
    told["seconds"] = statistics.median(seconds for *_, seconds, _ in warm)
    told["tokens_per_second"] = statistics.median(tokens / seconds for _, _, tokens, seconds, _ in warm)
    told["mfu"] = statistics.median(figures.get("mfu", 0.0) for *_, figures in warm)
    told["memory"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return told


def measured(task: Mapping[str, Any], *, cpu: bool) -> dict[str, Any]:
    """`child(task)` in a process of its own, without any GPU if `cpu`; an `error` where it failed."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "tests.gpu.report", "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Greatest relative difference of losses and gradient norms."""
    pairs = [*zip(one["losses"], other["losses"], strict=True), *zip(one["norms"], other["norms"], strict=True)]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def agreement(cpu_only: bool) -> Iterator[str]:
    """Lines of the tables of part 1 and 2."""
    yield "| network | CPU and GPU, fp32 | Transformer Engine and local, bf16 |"
    yield "|---|---|---|"
    for name, model in NETWORKS.items():
        task = {"model": model, "lengths": [31, 64, 17, 90, 200], "steps": 3}
        pair = measured(task, cpu=True), measured(task, cpu=cpu_only)
        sides = [
            measured({**task, "precision": "bf16", "implementation": kind}, cpu=cpu_only) for kind in ("local", "te")
        ]
        yield f"| {name} | {_verdict(*pair, 'fp32')} | {_verdict(sides[0], sides[1], 'bf16')} |"


def _verdict(one: Mapping[str, Any], other: Mapping[str, Any], precision: str) -> str:
    failed = one.get("error") or other.get("error")
    if failed:
        return f"not run: {failed[:120]}"
    difference = apart(one, other)
    return f"{difference:.1e}" + ("" if difference <= _TOLERANCE[precision] else " **apart**")


def speeds(shapes: list[str], steps: int, cpu_only: bool) -> Iterator[str]:
    """Lines of the table of part 3; a shape that does not fit is tried again with recomputation."""
    yield "| shape | recompute | tokens/s | MFU | peak memory |"
    yield "|---|---|---|---|---|"
    for name in shapes:
        model = SHAPES[name]
        length = model["max_sequence_length"]
        for recompute in ("none", "attention", "full"):
            task = {
                "model": model,
                "lengths": [length] * 8,
                "steps": steps,
                "precision": "bf16",
                "recompute": recompute,
                "micro_batch_tokens": length,
            }
            told = measured(task, cpu=cpu_only)
            if "error" in told:
                yield f"| {name} | {recompute} | failed: {told['error'][:120]} | | |"
                continue
            memory = f"{told['memory'] / 2**30:.1f} GiB" if told["memory"] else "-"
            mfu = f"{told['mfu']:.1%}" if told["mfu"] else "-"
            yield f"| {name} | {recompute} | {told['tokens_per_second']:,.0f} | {mfu} | {memory} |"


def environment() -> Iterator[str]:
    """What all this was measured on."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"no GPU ({platform.machine()})"
    yield f"{device}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}."


def main() -> int:
    """Print the page, and write it where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1b,7b")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cpu", action="store_true", help="toy sizes, no GPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        try:
            print(json.dumps(child(json.loads(chosen.child))))
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0]}))
        return 0
    shapes = ["toy"] if chosen.cpu else chosen.shapes.split(",")
    lines = [
        "# On a GPU",
        "",
        *environment(),
        "",
        *agreement(chosen.cpu),
        "",
        *speeds(shapes, chosen.steps, chosen.cpu),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.out:
        chosen.out.write_text(text, encoding="utf-8")
    return int("**apart**" in text)


if __name__ == "__main__":
    sys.exit(main())
