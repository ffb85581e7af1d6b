"""What transformers and the engine compute for the same ids: the program behind `check`, in a process of its own.

Three looks, one network in memory at a time, all computed in fp32; where the folder holds the weights in another type
than the checkpoint, the engine's are rounded to that type first, as the writing did:

    full depth    the whole network over `TOKENS` tokens
    beyond        its first `LAYERS` layers past the window of attention and past the length that rope was stretched
                  from, where either is longer than that; the last `LAST` positions count
    scores        a reward model as its users run it: transformers' own ...ForSequenceClassification over a padded batch

It reads one job (JSON) from its standard input and prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from schemas.manifest import Manifest
from schemas.process import program
from schemas.settings import parse
from schemas.store.scratch import Scratch
from trainers.adapter_folder import AdapterFolder
from trainers.architecture import ModelConfig
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.stored import Stored
from trainers.engine.data.packing import pack
from trainers.engine.megatron import parallel, stages
from trainers.engine.megatron.model import Network
from trainers.engine.megatron.parallel import Layout
from trainers.engine.weights import peft_merged, stream
from trainers.engine.weights.adapted_folder import AdaptedFolder
from trainers.engine.weights.check import LAYERS
from trainers.parallel import Parallel
from trainers.tensors import stacks

ROWS, TOKENS = 2, 64
LAST, BEYOND = 16, 64
LONGEST = 1 << 15
"""Tokens of the longest sequence that is run."""

LENGTHS = (TOKENS, 41, 17, 2)
"""Tokens of the rows that are scored."""


def sample_ids(model: ModelConfig, length: int = TOKENS, rows: int = ROWS) -> Tensor:
    """Random ids to compare over, [b, s]; always the same."""
    length = min(length, model.max_sequence_length)
    return torch.randint(0, model.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))


def reach(model: ModelConfig) -> int:
    """Tokens of a sequence in which everything in `model` that depends on length acts; 0 where `TOKENS` will do."""
    bounds = [model.window or 0, model.rope_scaling.original_length if model.rope_scaling else 0]
    bounds = [bound for bound in bounds if bound < model.max_sequence_length]
    length = min(max(bounds, default=0) + BEYOND, model.max_sequence_length)
    if model.position == "learned":
        length = model.max_sequence_length
    return length if length > TOKENS else 0


def opened(folder: str, head: str, adapters: AdapterFolder | None = None, **config: Any) -> Any:
    """The network in a Hugging Face folder as transformers loads it, in fp32, with `adapters` on it (merged by PEFT
    where that is installed); `config` changes keys of its config.
    """
    import transformers

    whole = not config
    adapted = None if adapters is None else AdaptedFolder(adapters)
    if adapted is not None:
        config |= {
            name: adapted.config[name] for name in ("num_labels", "tie_word_embeddings") if name in adapted.config
        }

    kind = transformers.AutoModelForCausalLM if head == "lm" else transformers.AutoModelForSequenceClassification
    options = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    if config:
        options["config"] = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        for name, value in config.items():
            setattr(options["config"], name, value)
    network = kind.from_pretrained(folder, **options).eval()
    if adapted is None:
        return network
    if peft := peft_merged.installed():
        return peft_merged.merged(peft, network, adapted).eval()
    adapted.put_on(network, whole=whole)
    return network


@torch.no_grad()
def theirs(folder: str, ids: Tensor, head: str, adapters: AdapterFolder | None = None) -> Tensor:
    """What transformers computes from a folder for `ids` [b, s]: logits [b, s, V], or scores [b, s, n]."""
    network = opened(folder, head, adapters)
    if head == "lm":
        logits: Tensor = network(ids).logits
        return logits
    scores: Tensor = network.score(network.base_model(ids).last_hidden_state)
    return scores


@torch.no_grad()
def their_end(folder: str, ids: Tensor, head: str, adapters: AdapterFolder | None = None) -> Tensor:
    """The same of the first layers alone, at the last positions."""
    import transformers

    kinds = getattr(transformers.AutoConfig.from_pretrained(folder), "layer_types", None)
    changes = {} if kinds is None else {"layer_types": kinds[:LAYERS]}
    network = opened(folder, head, adapters, num_hidden_layers=LAYERS, **changes)
    hidden = network.base_model(ids, use_cache=False).last_hidden_state[:, -LAST:]
    out: Tensor = network.get_output_embeddings()(hidden) if head == "lm" else network.score(hidden)
    return out


@torch.no_grad()
def ours(place: str, model: ModelConfig, ids: Tensor, layout: Layout, rounded: torch.dtype | None = None) -> Tensor:
    """What the engine computes, from the weights below `place` (`rounded` to that type), on all processes of `layout`
    together.
    """
    network = _loaded(place, model, layout, rounded)
    rows, length = ids.shape
    plan = pack([length] * rows, device=layout.device)
    flat = ids.reshape(1, -1).to(layout.device)
    width = model.vocab_size if model.head == "lm" else model.head_size
    out = torch.empty(rows, length, width, device=layout.device)
    output = stages.through(
        network,
        lambda: network(flat, plan.positions, None, packed_seq_params=plan, runtime_gather_output=True),
        rows * length,
    )
    if output is not None:
        out.copy_(output.reshape(rows, length, -1)[..., :width])
    stages.share(network, out)
    return out.cpu()


@torch.no_grad()
def our_end(place: str, model: ModelConfig, ids: Tensor, layout: Layout, rounded: torch.dtype | None = None) -> Tensor:
    """The same of the first layers alone, at the last positions; on one process."""
    shallow = dataclasses.replace(model, num_layers=min(LAYERS, model.num_layers))
    with _first_layers(place, shallow, model) as folder:
        network = _loaded(folder, shallow, layout, rounded)
    length = ids.shape[1]
    plan = pack([length], device=layout.device)
    assert plan.positions is not None
    hidden = network.decoder(
        hidden_states=network.embedding(input_ids=ids.to(layout.device), position_ids=plan.positions),
        attention_mask=None,
        rotary_pos_emb=network.rope_table(plan.positions),
        packed_seq_params=plan,
    )
    shared = network.shared_embedding_or_output_weight() if network.share_embeddings_and_output_weights else None
    out, _ = network.output_layer(hidden[-LAST:], weight=shared)
    width = model.vocab_size if model.head == "lm" else model.head_size
    return out.transpose(0, 1)[..., :width].float().cpu()


def scored_rows(model: ModelConfig, ends: list[int], pad: int | None) -> list[list[int]]:
    """Rows of different lengths to score; where there are end tokens, every second one ends in one."""
    drawn = sample_ids(model, rows=len(LENGTHS))
    rows = [row[:length].tolist() for row, length in zip(drawn, LENGTHS, strict=True)]
    for number, row in enumerate(rows):
        if ends and number % 2 == 0:
            row[-1] = ends[number // 2 % len(ends)]
        elif row[-1] == pad:
            row[-1] = (row[-1] + 1) % model.vocab_size
    return rows


@torch.no_grad()
def their_scores(folder: str, model: ModelConfig, rows: list[list[int]], side: str) -> Tensor:
    """[b, n] as users get them: a batch padded on `side`; row by row where the folder names no padding."""
    network = opened(folder, "scalar")
    pad = network.config.pad_token_id
    if pad is None:
        return torch.cat([network(torch.tensor([row])).logits for row in rows])
    ids, mask = _batch(folder, rows, pad, side)
    known: dict[str, Tensor] = {}
    if model.position == "learned":  # where padding shifts a text, its users have to say where it begins
        known["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    scores: Tensor = network(ids, attention_mask=mask, **known).logits
    return scores


def _batch(folder: str, rows: list[list[int]], pad: int, side: str) -> tuple[Tensor, Tensor]:
    """Ids and mask [b, s], padded by the folder's own tokenizer where it names a token for that, else with `pad`."""
    import transformers

    if os.path.isfile(os.path.join(folder, "tokenizer.json")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if tokenizer.pad_token_id is not None:
            padded = tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
            return padded["input_ids"], padded["attention_mask"]
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), pad), torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return ids, mask


@torch.no_grad()
def our_scores(
    place: str, model: ModelConfig, rows: list[list[int]], layout: Layout, rounded: torch.dtype | None = None
) -> Tensor:
    """The same by the engine: the numbers at every row's last token."""
    network = _loaded(place, model, layout, rounded)
    plan = pack(list(map(len, rows)), device=layout.device)
    ids = torch.tensor([[number for row in rows for number in row]], device=layout.device)
    output: Tensor = network(ids, plan.positions, None, packed_seq_params=plan)
    return output[0, plan.last].float().cpu()


def _loaded(place: str, model: ModelConfig, layout: Layout, rounded: torch.dtype | None) -> Network:
    network = checkpoint.load_model(checkpoint.Checkpoint(place, Manifest(kind="checkpoint"), model), layout).eval()
    for parameter in network.parameters() if rounded is not None else ():
        parameter.data.copy_(parameter.data.to(rounded))
    return network


@contextlib.contextmanager
def _first_layers(place: str, shallow: ModelConfig, model: ModelConfig) -> Iterator[str]:
    """A folder with the weights below `place` as far as `shallow` has layers."""
    if shallow == model:
        yield place
        return
    stored = Stored(os.path.join(place, checkpoint.WEIGHTS))
    with Scratch("quiver-check-") as folder:
        weights = [(stack, stored.dtype(name)) for name, stack in stacks(shallow).items()]
        stream.write(
            os.path.join(folder, checkpoint.WEIGHTS), weights, lambda stack, index: stored.read(stack.name, index)
        )
        yield folder


def _differ(actual: Tensor, expected: Tensor) -> dict[str, float]:
    return {"difference": (actual - expected).abs().max().item(), "greatest": expected.abs().max().item()}


def beyond(job: Mapping[str, Any], model: ModelConfig, layout: Layout) -> dict[str, Any]:
    """How far the last positions of a long sequence differ, or the `reason` why it is not run; empty where no length
    matters.
    """
    length = reach(model)
    if not length:
        return {}
    if reason := _too_much(model, length):
        return {"tokens": length, "reason": reason}
    ids = sample_ids(model, length, rows=1)
    expected = their_end(job["folder"], ids, model.head, _adapters(job))
    gc.collect()
    return {"tokens": length, **_differ(our_end(job["place"], model, ids, layout, _rounded(job)), expected)}


def _too_much(model: ModelConfig, length: int) -> str | None:
    import psutil

    if length > LONGEST:
        return f"it takes {length:,} tokens, {LONGEST:,} are run at most"
    wide = model.hidden_size + 3 * model.ffn_hidden_size + 3 * model.num_attention_heads * model.head_channels
    needed, there = 4 * length * (wide + 4 * length), psutil.virtual_memory().available
    return f"it takes {needed / 2**30:.1f} GiB, {there / 2**30:.1f} GiB are free" if needed > there else None


def scores(job: Mapping[str, Any], model: ModelConfig, layout: Layout) -> dict[str, Any]:
    """How far the scores of rows differ, padded left and padded right."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(job["folder"])
    ends = config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    rows = scored_rows(model, ends, config.pad_token_id)
    actual = our_scores(job["place"], model, rows, layout, _rounded(job))
    gc.collect()
    expected = torch.stack([their_scores(job["folder"], model, rows, side) for side in ("left", "right")])
    return {"rows": len(rows), **_differ(actual, expected)}


def _rounded(job: Mapping[str, Any]) -> torch.dtype | None:
    """The type that the folder's weights were rounded to when they were written; None where they were kept."""
    name = job.get("rounded")
    return getattr(torch, name) if name else None


def _adapters(job: Mapping[str, Any]) -> AdapterFolder | None:
    """PEFT's adapters on the folder's model; None without any."""
    given = job.get("adapters")
    return None if given is None else AdapterFolder(**given)


def main() -> int:
    """One job from standard input; its figures, as one line of JSON, to standard output."""
    import transformers

    job = json.load(sys.stdin)
    model = parse(ModelConfig, job["model"])
    ids, layout = sample_ids(model), parallel.start(Parallel())
    expected = theirs(job["folder"], ids, model.head, _adapters(job))
    gc.collect()
    figures: dict[str, Any] = _differ(ours(job["place"], model, ids, layout, _rounded(job)), expected)
    gc.collect()
    figures |= {"tokens": ids.numel(), "transformers": transformers.__version__}
    if job["adapters"] is not None and (peft := peft_merged.installed()):
        figures["peft"] = str(peft.__version__)
    figures["beyond"] = beyond(job, model, layout)
    gc.collect()
    figures["scores"] = scores(job, model, layout) if job["scores"] else {}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    program.run(main)
