"""Our attention core against Megatron's, packed against separate, cached against whole, and the network
against Llama.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from schemas.errors import ConfigError
from tests.trainers.networks import SMALL, llama, louder, network
from trainers.architecture import ModelConfig
from trainers.engine.data.packing import pack
from trainers.engine.megatron import parallel, specs
from trainers.engine.megatron.model import build
from trainers.parallel import Parallel

LENGTHS = [5, 9, 30, 1, 12, 30, 2]


def _config(window: int | None = None) -> TransformerConfig:
    return TransformerConfig(
        num_layers=1,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        attention_dropout=0.0,
        window_size=None if window is None else (window - 1, 0),
        masked_softmax_fusion=False,
        cuda_graph_scope=[],
    )


@pytest.mark.parametrize(("window", "masked"), [(None, False), (4, False), (None, True)])
def test_core_attention_is_megatrons(window: int | None, masked: bool) -> None:
    parallel.start(Parallel())
    config = _config(window)
    ours, theirs = (core(config, 1, AttnMaskType.causal, "self").eval() for core in (specs.SDPA, DotProductAttention))
    q, k, v = torch.randn(11, 2, 4, 8), torch.randn(11, 2, 2, 8), torch.randn(11, 2, 2, 8)
    mask = None
    if masked:
        mask = torch.ones(11, 11).triu(1).bool()[None, None] | (torch.arange(11) < 3)
        mask = mask & ~torch.eye(11).bool()
    with torch.no_grad():
        torch.testing.assert_close(ours(q, k, v, mask), theirs(q, k, v, mask), atol=1e-6, rtol=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_packing_puts_every_token_in_one_place(lengths: list[int]) -> None:
    plan = pack(lengths)
    total = sum(lengths)
    assert plan.positions is not None
    assert plan.last is not None
    assert plan.positions[0].tolist() == [p for n in lengths for p in range(n)]
    assert (plan.last + 1).tolist() == torch.tensor(lengths).cumsum(0).tolist()
    laid = torch.cat([b.index_nl if b.index_nl is not None else torch.arange(total) for b in plan.buckets])
    back = laid if plan.inverse_t is None else laid[plan.inverse_t]
    assert back.tolist() == list(range(total))
    assert sum(b.count for b in plan.buckets) == len(lengths)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window": 4},
        {
            "position": "learned",
            "normalization": "LayerNorm",
            "gated": False,
            "activation": "gelu",
            "linear_bias": True,
        },
        {"qk_layernorm": True, "qkv_bias": True, "tie_embeddings": True, "kv_channels": 16},
        {"head": "scalar", "head_size": 3},
    ],
    ids=["llama", "window", "gpt2", "qwen", "scalar"],
)
def test_packed_is_separate(changes: dict[str, object]) -> None:
    net = network(**changes)
    ids = torch.randint(0, SMALL.vocab_size, (1, sum(LENGTHS)))
    plan = pack(LENGTHS)
    packed = net(ids, plan.positions, None, packed_seq_params=plan)
    parts = ids.split(LENGTHS, dim=1)
    separate = torch.cat([net(part, torch.arange(part.shape[1])[None], None) for part in parts], dim=1)
    torch.testing.assert_close(packed, separate, atol=2e-6, rtol=1e-5)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    push = torch.randn_like(packed)
    grads = torch.autograd.grad((packed * push).sum(), weights, allow_unused=True)
    wanted = torch.autograd.grad((separate * push).sum(), weights, allow_unused=True)
    for have, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(have, want, atol=1e-4, rtol=1e-4)


def test_logits_are_llamas() -> None:
    net = louder(network())
    ids = torch.randint(0, SMALL.vocab_size, (2, 20))
    with torch.no_grad():
        ours = net(ids, torch.arange(20).expand(2, 20), None)[..., : SMALL.vocab_size]
        torch.testing.assert_close(ours, llama(net)(ids).logits, atol=1e-5, rtol=1e-5)


def test_full_recompute_changes_nothing() -> None:
    layout = parallel.start(Parallel())
    plain = build(SMALL, layout)
    again = build(SMALL, layout, recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    ids, plan, losses = torch.randint(0, 40, (1, sum(LENGTHS))), pack(LENGTHS), []
    for net in (plain, again):
        loss = net(ids, plan.positions, None, labels=ids, packed_seq_params=plan).mean()
        loss.backward()
        losses.append((loss.item(), [w.grad.clone() for w in net.parameters() if w.grad is not None]))
    assert losses[0][0] == losses[1][0]
    for a, b in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(a, b)


def test_bf16_is_near_fp32() -> None:
    layout = parallel.start(Parallel())
    ids, at = torch.randint(0, 40, (1, 12)), torch.arange(12)[None]
    full, half = build(SMALL, layout)(ids, at, None), build(SMALL, layout, precision="bf16")(ids, at, None)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.02, rtol=0.05)


def test_transformer_engine_is_refused_without_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    assert specs.choose("auto") == "local"
    with pytest.raises(ConfigError, match="no-transformer-engine"):
        specs.choose("te")


def test_mixture_of_experts_keeps_transformer_engines_names() -> None:
    parallel.start(Parallel())
    config = _config()
    config.num_moe_experts = 4
    layer = specs.block_spec(config, "local").layer_specs[0]
    assert set(layer.submodules.sharded_state_dict_keys_map) == {"input_layernorm."}


@pytest.mark.parametrize(
    ("changes", "sizes", "named"),
    [
        ({"num_attention_heads": 6, "num_query_groups": 4}, (1, 1), "num_attention_heads"),
        ({"ffn_hidden_size": 63}, (2, 1), "ffn_hidden_size"),
        ({"num_layers": 3}, (1, 2), "num_layers"),
        ({"num_attention_heads": 6, "num_query_groups": 3, "kv_channels": 8}, (2, 1), "num_query_groups"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused(changes: dict[str, int], sizes: tuple[int, int], named: str) -> None:
    import dataclasses

    model: ModelConfig = dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=named):
        build(model, parallel.Layout(tensor=sizes[0], pipeline=sizes[1]))


@pytest.mark.parametrize(
    ("tensor", "pipeline", "expert", "world"),
    [(2, 1, 1, 3), (2, 2, 1, 6), (0, 1, 1, 1), (1, 1, 2, 1), (1, 2, 2, 2), (2, 1, 4, 6), (1, 1, 0, 1)],
)
def test_a_world_that_does_not_divide_is_refused(tensor: int, pipeline: int, expert: int, world: int) -> None:
    with pytest.raises(ConfigError, match="parallel-size"):
        parallel.divide(Parallel(tensor=tensor, pipeline=pipeline, expert=expert), world)


def test_ranks_run_tensor_data_pipeline() -> None:
    places = [parallel.divide(Parallel(tensor=2, pipeline=2), 8, rank) for rank in range(8)]
    assert [(p.tensor_rank, p.data_rank, p.pipeline_rank) for p in places] == [
        (t, d, p) for p in range(2) for d in range(2) for t in range(2)
    ]


def test_experts_are_dealt_over_neighbours_of_a_stage() -> None:
    places = [parallel.divide(Parallel(tensor=2, pipeline=2, expert=4), 8, rank) for rank in range(8)]
    assert [place.expert_rank for place in places] == [0, 1, 2, 3] * 2
    assert {place.expert_tensor for place in places} == {1}
    assert [parallel.divide(Parallel(tensor=2), 4, rank).expert_tensor for rank in range(4)] == [2] * 4
    twice = [parallel.divide(Parallel(expert=2), 4, rank).expert_rank for rank in range(4)]
    assert twice == [0, 1, 0, 1]
