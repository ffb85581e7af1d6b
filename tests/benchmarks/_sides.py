"""Both sides of a training benchmark: our engine and transformers' Llama, of one shape, over one table of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import TOKENS
from schemas.dataset import Attempt, Dataset
from schemas.settings import parse

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
