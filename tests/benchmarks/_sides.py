"""Both sides of a training benchmark: our engine and transformers' Llama, of one shape, over one table of rows; and a
side in a process of its own, with TRL where it is one of TRL's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import TOKENS
from schemas.dataset import Attempt, Dataset
from schemas.settings import parse

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("QUIVER_SHARED_DATA") or ROOT.parent / "shared" / "data")
TRL = ROOT / "build" / "trl"
"""Where `make test-slow` puts TRL (tests/fidelity/trl.txt)."""

SHAPES = {
    # layers, hidden, ffn, heads, groups
    "tiny": (4, 128, 344, 4, 4),
    "small": (8, 256, 688, 8, 4),
}


def stored(url: Path, ids: Any, masks: Any) -> Dataset:
    """Token rows as a dataset of one shard."""
    columns = {
        "sample_id": [f"s{i}" for i in range(len(ids))],
        "input_ids": ids,
        "loss_mask": masks,
        "source": pa.nulls(len(ids), pa.string()),
    }
    attempt = Attempt.begin(str(url), TOKENS)
    with attempt.shard(0) as writer:
        writer.write(pa.table(columns, schema=TOKENS.arrow))
        file = writer.finish()
    return attempt.commit([file])


def engine(shape: str, vocabulary: int, longest: int, **run: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The feed of an SFT run over `data`, and what trains one step of it; `run` holds more fields of `Run`."""
    from trainers import registry
    from trainers.architecture import ModelConfig
    from trainers.config import Run
    from trainers.engine.megatron import parallel
    from trainers.engine.training import build

    layers, hidden, ffn, heads, groups = SHAPES[shape]
    model = ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=groups,
        vocab_size=vocabulary,
        max_sequence_length=longest,
    )
    settings = parse(Run, {"algorithm": "sft", "model": model, "optim": {"lr": 1e-4}, **run})
    algorithm, options = registry.configured("sft", {})
    layout = parallel.start()
    feed = build.feed(settings, Dataset.open(settings.paths.data), algorithm, model, layout, shuffle=True)
    learner = build.trainee(settings, algorithm, options, layout, None)

    def train(read: Any) -> Any:
        learner.model.zero_grad_buffer()
        learner.optimizer.zero_grad()
        result = learner.stepper.train(read.batches)
        learner.optimizer.step()
        return result

    return feed, train


def llama(shape: str, vocabulary: int, longest: int, **more: Any) -> Any:
    """The network of that shape as transformers has it; `more` holds more fields of `LlamaConfig`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, ffn, heads, groups = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=longest,
        tie_word_embeddings=False,
        use_cache=False,
        **more,
    )
    return LlamaForCausalLM(config)


def has_trl() -> bool:
    """Whether TRL is in `build/trl` or installed; says what to do where it is not."""
    if (TRL / "trl").is_dir() or importlib.util.find_spec("trl") is not None:
        return True
    print("skipped: TRL is not in build/trl (make test-slow puts it there) nor installed")
    return False


def apart(module: str, side: str, threads: int, **given: object) -> dict[str, float]:
    """The figures that one side of the benchmark `module` prints last, run in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{module}", "--side", side]
    command += ["--threads", str(threads)]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    path = os.pathsep.join([str(ROOT), *([str(TRL)] if side != "quiver" and TRL.is_dir() else [])])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


Taken = dict[str, list[dict[str, float]]]
"""Of each side the figures of every round, Quiver first."""


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def peak_mib() -> float:
    """The greatest resident set of this process or of one that it waited for."""
    both = (resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(both) / 1024


def in_turns(rounds: int, sides: Sequence[str], measure: Callable[[str], dict[str, float]]) -> Taken:
    """Every side once a round, in every second round in the other order."""
    taken: Taken = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            taken[side].append(measure(side))
    return taken


def ratios(taken: Taken, side: str, figure: str = "seconds") -> list[float]:
    """What `side` took over what Quiver took, round by round."""
    own = next(iter(taken.values()))
    return [theirs[figure] / mine[figure] for theirs, mine in zip(taken[side], own, strict=True)]


def middle(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and all values where there are several."""
    each = f" ({', '.join(format(value, form) for value in values)})" if len(values) > 1 else ""
    return f"{statistics.median(values):{form}}{each}"


def keep(file: Path | None, module: str, case: str, taken: Taken, asked: Sequence[str] | None = None) -> None:
    """Put `taken` into the JSON file that the costs of docs/results.md are made of, in the place of an older `case`;
    `asked`: the benchmark's flags, by default those of this process.
    """
    if file is None:
        return
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    known = [one for one in known if (one["module"], one["case"]) != (module, case)]
    commit = ["git", "rev-parse", "--short", "HEAD"]
    name = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    words = list(sys.argv[1:] if asked is None else asked)
    if "--keep" in words:
        del words[words.index("--keep") : words.index("--keep") + 2]
    known.append({"module": module, "flags": " ".join(words), "case": case, "commit": name, "taken": taken})
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
