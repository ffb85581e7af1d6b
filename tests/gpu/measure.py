"""The measurements, in a process of their own: a list of tasks in, one JSON line per finding out.

    python -m tests.gpu.measure gpu '[{"do": "machine", "size": 8192}]'

A line is an object with a `step` (figures so far, many per task), with `error`, or empty: the end of a task. After an
error the process ends: what CUDA leaves behind would spoil the tasks that follow. Names that end in `_b` are bytes of
GPU memory, 0 without a GPU.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_RUN = ("model", "init", "precision", "implementation", "recompute", "micro_batch_tokens")
_LOUDER = 8.0
_PROMPT_LENGTHS = (3, 17, 9, 30, 1, 12)


@dataclass(frozen=True)
class Drawn:
    """How answers are drawn (`trainers.engine.inference.generator.Sampling`)."""

    max_new_tokens: int
    greedy: bool = False
    samples_per_prompt: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


def machine(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Versions, the device, and what a plain bf16 matrix product of `size` reaches on it, in TFLOP/s."""
    from importlib import metadata

    import torch

    names = ("megatron-core", "pyarrow", "transformers", "tokenizers", "transformer-engine", "polars")
    versions: dict[str, str | None] = {"torch": torch.__version__}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if cuda else f"no GPU ({platform.machine()})"
    one = torch.randn(task["size"], task["size"], device="cuda" if cuda else "cpu", dtype=torch.bfloat16)
    for _ in range(3):
        one @ one
    seconds = _timed(lambda: [one @ one for _ in range(10)])[0] / 10
    yield {
        "device": device,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "memory_b": torch.cuda.get_device_properties(0).total_memory if cuda else 0,
        "matmul_tflops": 2 * task["size"] ** 3 / seconds / 1e12,
        "versions": versions,
    }


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds until the device has done `work`, and what it gave."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    answer = work()
    wait()
    return time.perf_counter() - began, answer


def _peak_memory() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def prepare(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A checkpoint of `model` at `folder`, weights from a seed, then larger, so that no two tokens are near equal."""
    import torch

    from schemas.settings import parse
    from tests.trainers.networks import louder, vocabulary
    from trainers.architecture import ModelConfig
    from trainers.engine.checkpoint import checkpoint
    from trainers.engine.megatron import parallel
    from trainers.engine.megatron.model import build

    model = parse(ModelConfig, task["model"])
    network = louder(build(model, parallel.start()), _LOUDER)
    checkpoint.save(task["folder"], model=network, tokenizer_files=vocabulary(model.vocab_size))
    yield {"weights": sum(weight.numel() for weight in network.parameters()), "torch": torch.__version__}


def rows(folder: Path, algorithm: str, vocabulary: int, lengths: list[int]) -> Any:
    """A dataset of token rows (sft) or pairs (rm) of these lengths, with random ids."""
    import numpy as np
    import pyarrow as pa

    from schemas import PAIRS, TOKENS
    from schemas.dataset import Attempt

    random = np.random.default_rng(0)

    def ids() -> list[list[int]]:
        return [random.integers(0, vocabulary, length).tolist() for length in lengths]

    masks, keys = [[1] * length for length in lengths], [f"r{number}" for number in range(len(lengths))]
    columns = {"source": pa.nulls(len(lengths), pa.string())}
    if algorithm == "rm":
        schema = PAIRS
        columns |= {"pair_id": keys, "chosen_ids": ids(), "chosen_mask": masks}
        columns |= {"rejected_ids": ids(), "rejected_mask": masks}
    else:
        schema = TOKENS
        columns |= {"sample_id": keys, "input_ids": ids(), "loss_mask": masks}
    attempt = Attempt.begin(str(folder / "rows"), schema)
    with attempt.shard(0) as writer:
        writer.write(pa.Table.from_pydict(columns, schema=schema.arrow))
        file = writer.finish()
    return attempt.commit([file])


def train(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Loss, gradient norm, tokens, seconds, speed and peak memory after each of `steps` optimizer steps."""
    import torch

    from schemas.settings import parse
    from trainers import registry
    from trainers.config import Run
    from trainers.engine.checkpoint import checkpoint
    from trainers.engine.megatron import parallel
    from trainers.engine.reporting.speed import Speed
    from trainers.engine.training import build

    if torch.cuda.is_available() and task.get("precision") == "bf16":
        check_room(task, torch.cuda.get_device_properties(0).total_memory)
    with tempfile.TemporaryDirectory() as folder:
        data = rows(Path(folder), task["algorithm"], task["vocabulary"], task["lengths"])
        settings = {"algorithm": task["algorithm"], "data": data.url, "out": f"{folder}/out", "optim": {"lr": 1e-4}}
        settings |= {"max_steps": task["steps"], "global_batch_size": len(task["lengths"])}
        run = parse(Run, settings | {name: task[name] for name in _RUN if name in task})
        algorithm, chosen = registry.configured(run.learning.algorithm, {})
        layout = parallel.start()
        init = None if run.paths.init is None else checkpoint.open_checkpoint(run.paths.init)
        learner = build.trainee(run, algorithm, chosen, layout, init)
        shape = learner.stepper.shape
        feed = build.feed(run, data, algorithm, shape, layout, shuffle=False)
        speed = Speed.of(run, shape, layout)
        for number in range(task["steps"]):
            batches = feed.step(number).batches
            seconds, (result, norm) = _timed(lambda batches=batches: _stepped(learner, batches))
            figures = {"loss": result.loss, "norm": float(norm), "tokens": result.tokens, "seconds": seconds}
            yield {**figures, "memory_b": _peak_memory(), **speed.figures(result, seconds)}


def check_room(task: Mapping[str, Any], there: int) -> None:
    """`MemoryError` where weights, gradients and Adam's state (bf16: 18 bytes a weight) alone exceed `there` bytes.

    Drawing the weights of a large network takes a minute; this takes none.
    """
    from schemas.settings import parse
    from trainers.architecture import ModelConfig
    from trainers.tensors import active_weights

    needed = 18 * active_weights(parse(ModelConfig, task["model"]))
    if needed > there:
        raise MemoryError(f"the state alone takes {needed / 2**30:.0f} GiB of the {there / 2**30:.0f} there")


def _stepped(learner: Any, batches: Any) -> tuple[Any, Any]:
    learner.model.zero_grad_buffer()
    learner.optimizer.zero_grad()
    result = learner.stepper.train(batches)
    return result, learner.optimizer.step()[1]


def sample(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Greedy answers and answers drawn at temperature 1 of the checkpoint `init`, and what a second reading says."""
    import numpy as np
    import pyarrow as pa

    from trainers.engine.inference.frozen import open_frozen
    from trainers.engine.inference.generator import open_generator

    random = np.random.default_rng(1)
    prompts = [random.integers(2, task["vocabulary"], length).tolist() for length in _PROMPT_LENGTHS]
    table = pa.table({"prompt_ids": pa.array(prompts, pa.list_(pa.int32()))})
    seeds = np.arange(len(prompts), dtype=np.uint64)
    generator = open_generator(task["init"])
    answers = {
        kind: generator.generate(table, Drawn(task["new_tokens"], greedy=kind == "greedy"), seeds)
        for kind in ("greedy", "drawn")
    }
    read = [
        np.asarray(prompt + ids, np.int64)
        for prompt, ids in zip(prompts, answers["greedy"]["response_ids"].to_pylist(), strict=True)
    ]
    again = open_frozen(task["init"]).logprobs(read).to_pylist()
    yield {
        **{kind: answer["response_ids"].to_pylist() for kind, answer in answers.items()},
        "logprobs": answers["greedy"]["logprobs"].to_pylist(),
        "read": [row[len(prompt) :] for row, prompt in zip(again, prompts, strict=True)],
    }


def generate(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Tokens per second of `prompts` prompts of `length` tokens, `new_tokens` more each, of a fresh bf16 network."""
    import numpy as np
    import pyarrow as pa

    from schemas.settings import parse
    from tests.trainers.networks import words
    from trainers.architecture import ModelConfig
    from trainers.engine.inference.generator import Generator
    from trainers.engine.megatron import parallel
    from trainers.engine.megatron.model import build

    model = parse(ModelConfig, task["model"])
    network = build(model, parallel.start(), precision="bf16", inference=True).eval()
    random = np.random.default_rng(2)
    ids = random.integers(2, model.vocab_size, (task["prompts"], task["length"]))
    table = pa.table({"prompt_ids": pa.array(ids.tolist(), pa.list_(pa.int32()))})
    seeds = np.arange(task["prompts"], dtype=np.uint64)
    generator = Generator(network, words(model.vocab_size), [], batch_size=task["batch"])
    generator.generate(table.slice(0, task["batch"]), Drawn(4), seeds[: task["batch"]])
    seconds, answer = _timed(lambda: generator.generate(table, Drawn(task["new_tokens"]), seeds))
    tokens = len(answer["response_ids"].combine_chunks().flatten())
    yield {"tokens_per_second": tokens / seconds, "tokens": tokens, "seconds": seconds, "memory_b": _peak_memory()}


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[dict[str, Any]]]] = {
    "machine": machine,
    "prepare": prepare,
    "train": train,
    "sample": sample,
    "generate": generate,
}


def main(device: str, text: str) -> int:
    """All tasks of the JSON list `text` on `device` ("cpu", "gpu"), until one fails; 1 if one did."""
    import torch

    try:
        if device == "gpu" and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no GPU (CUDA {torch.version.cuda or 'not built in'})")
        for task in json.loads(text):
            for step in KINDS[task["do"]](task):
                _write({"step": step})
            _write({})
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    except Exception as error:
        lines = f"{type(error).__name__}: {error}".splitlines()
        _write({"error": " ".join(line.strip() for line in lines)[:400]})
        return 1
    return 0


def _write(line: Mapping[str, Any]) -> None:
    print(json.dumps({"measured": line}), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
