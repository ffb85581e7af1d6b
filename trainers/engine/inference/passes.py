"""The two forward passes of decoding: prompts packed, each read once for all its rows; then one token per row.

Both give the logits that the next tokens are drawn from, fp32 over the real vocabulary, the same on every rank of a
tensor group; None on the pipeline stages before the last. What was read stands in the cache. Tensor and array suffixes:
b rows, u prompts, l positions, V vocabulary, s sequence, h hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.engine.data.packing import pack
from trainers.engine.megatron import stages
from trainers.engine.megatron.cache import Cache
from trainers.engine.megatron.model import Network

Ints = npt.NDArray[np.int64]


def read_prompts(network: Network, cache: Cache, prompts: Sequence[Ints], counts: Ints, rows: Ints) -> Tensor | None:
    """Read `prompts` and hand their keys to `rows`: `counts` of them, one after another, belong to each prompt. Logits
    behind the prompt of each of `rows`, [b, V].
    """
    device = next(network.parameters()).device
    lengths = [len(ids) for ids in prompts]
    plan = pack(lengths, device)
    cache.read_prompts()
    ids = torch.from_numpy(np.concatenate(prompts)).to(device)
    assert plan.positions is not None and plan.last is not None
    hidden = _forward(network, cache, ids[None], plan.positions, None, plan)
    starts = np.cumsum([0, *lengths[:-1]])
    places = np.arange(max(lengths))
    index_ul = starts[:, None] + np.minimum(places, np.array(lengths)[:, None] - 1)
    cache.place(torch.from_numpy(rows).to(device), torch.from_numpy(index_ul.repeat(counts, 0)).to(device))
    if hidden is None:
        return None
    prompt_b = torch.from_numpy(np.repeat(np.arange(len(prompts)), counts)).to(device)
    return _logits(network, hidden[plan.last, 0][None])[prompt_b]


def read_tokens(
    network: Network, cache: Cache, token_b: Ints, position_b: Ints, chosen: Ints | None = None
) -> Tensor | None:
    """Read one token for every row of the cache, at its position; logits of the `chosen` rows (None: all), [b, V]."""
    device = next(network.parameters()).device
    seen = int(position_b.max()) + 1
    positions = torch.from_numpy(position_b).to(device)
    cache.begin_step(positions, seen)
    tokens = torch.from_numpy(token_b).to(device)
    hidden = _forward(network, cache, tokens[:, None], positions[:, None], cache.hidden_mask, None)
    if hidden is None:
        return None
    if chosen is not None:
        hidden = hidden[:, torch.from_numpy(chosen).to(device)]
    return _logits(network, hidden)


def _forward(
    network: Network, cache: Cache, ids: Tensor, positions: Tensor, mask: Tensor | None, plan: object
) -> Tensor | None:
    """Hidden states [s, b, h] after the last layer; None on the pipeline stages before it."""

    def stage() -> Tensor:
        first = network.pre_process
        return network.decoder(
            hidden_states=network.embedding(input_ids=ids, position_ids=positions) if first else None,
            attention_mask=mask,
            inference_context=cache,
            rotary_pos_emb=network.rope_table(positions),
            packed_seq_params=plan,
        )

    return stages.through(network, stage, ids.shape[1], ids.shape[0])


def _logits(network: Network, hidden_1bh: Tensor) -> Tensor:
    """Logits over the real vocabulary, fp32 [b, V], the same on every tensor-parallel rank."""
    shared = network.shared_embedding_or_output_weight() if network.share_embeddings_and_output_weights else None
    logits, _ = network.output_layer(hidden_1bh, weight=shared, runtime_gather_output=True)
    return logits[0, :, : network.architecture.vocab_size].float()
