"""Partial and stretched rope, norms around zero and mixtures of experts: against transformers, and at every layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from schemas.errors import ConfigError
from tests.trainers import shapes
from tests.trainers.networks import SMALL, louder, network
from tests.trainers.shapes import KINDS, shape
from tests.trainers.test_generator import Sampling, generator, prompts, seeds, without_cache
from tests.warm.command import launched
from trainers import registry
from trainers.architecture import Experts, ModelConfig, RopeScaling, shape_faults
from trainers.engine.checkpoint import checkpoint
from trainers.engine.data.feed import BatchSharding, split_over_dp
from trainers.engine.megatron import mixture, parallel, rope
from trainers.engine.megatron.forward import extract_outputs, forward
from trainers.engine.megatron.model import Network, build
from trainers.engine.megatron.parallel import Layout
from trainers.parallel import Parallel, parallel_errors

DENSE = ["2,1,0,1", "2,1,1,1", "1,2,0,1"]
CUTS = [*DENSE, "1,1,0,1", "1,1,0,2", "2,1,1,2"]


def lively(**changes: Any) -> Network:
    """A network with large weights and norms that do something."""
    net = louder(network(**changes))
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn(weight.shape, generator=random), alpha=0.2)
    return net


def theirs(net: Network) -> Any:
    """`net` as transformers' model of its family, weights copied."""
    import transformers

    model, own = net.architecture, {}
    ours = dict(net.named_parameters())
    experts, nemotron = model.experts, model.zero_centered_norm
    family = "Nemotron" if nemotron else "Mixtral" if experts else "Llama"
    turned: dict[str, Any] = {"rope_type": "default", "rope_theta": model.rope_base}
    if nemotron:
        turned["partial_rotary_factor"] = model.rotary_percent
    if (scaling := model.rope_scaling) is not None:
        turned |= {"rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low_frequency}
        turned |= {"high_freq_factor": scaling.high_frequency}
        turned |= {"original_max_position_embeddings": scaling.original_length}
    options: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        max_position_embeddings=model.max_sequence_length,
        rope_parameters=turned,
        **{"norm_eps" if nemotron else "rms_norm_eps": model.norm_epsilon},
        **(options if experts else {}),
    )
    hf = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    own["model.embed_tokens.weight"] = ours["embedding.word_embeddings.weight"][: model.vocab_size]
    own["lm_head.weight"] = ours["output_layer.weight"][: model.vocab_size]
    own |= _renamed(ours, "decoder.final_layernorm.", "model.norm.")
    for i in range(model.num_layers):
        here, there = f"decoder.layers.{i}.", f"model.layers.{i}."
        groups, size = model.num_query_groups, model.head_channels
        qkv = ours[here + "self_attention.linear_qkv.weight"].view(groups, -1, size, model.hidden_size)
        for name, part in (("q", qkv[:, :-2]), ("k", qkv[:, -2]), ("v", qkv[:, -1])):
            own[f"{there}self_attn.{name}_proj.weight"] = part.reshape(-1, model.hidden_size)
        own |= _renamed(ours, here + "self_attention.linear_proj.", there + "self_attn.o_proj.")
        own |= _renamed(ours, here + "input_layernorm.", there + "input_layernorm.")
        own |= _renamed(ours, here + "pre_mlp_layernorm.", there + "post_attention_layernorm.")
        own |= _mlp(ours, model, here + "mlp.", there + "mlp.")
    hf.load_state_dict({name: value.detach() for name, value in own.items()})
    return hf


def _renamed(ours: dict[str, Any], here: str, there: str) -> dict[str, Any]:
    return {name.replace(here, there): value for name, value in ours.items() if name.startswith(here)}


def _mlp(ours: dict[str, Any], model: ModelConfig, here: str, there: str) -> dict[str, Any]:
    if model.experts is not None:
        of = [[ours[f"{here}experts.local_experts.{e}.linear_fc{i}.weight"] for e in range(4)] for i in (1, 2)]
        stacked = {there + "experts.gate_up_proj": torch.stack(of[0]), there + "experts.down_proj": torch.stack(of[1])}
        return {there + "gate.weight": ours[here + "router.weight"], **stacked}
    wide, narrow = ours[here + "linear_fc1.weight"], {there + "down_proj.weight": ours[here + "linear_fc2.weight"]}
    if not model.gated:
        return {there + "up_proj.weight": wide, **narrow}
    gate, up = wide.chunk(2)
    return {there + "gate_proj.weight": gate, there + "up_proj.weight": up, **narrow}


@pytest.mark.parametrize("kind", [*KINDS, "far"])
def test_logits_are_transformers(kind: str) -> None:
    far = {"rope_scaling": RopeScaling(factor=2.5, low_frequency=1.5, high_frequency=2.0, original_length=9)}
    net = lively(**{**KINDS, "far": far}[kind]).eval()
    ids = torch.randint(0, SMALL.vocab_size, (2, 40))
    with torch.no_grad():
        ours = torch.cat([net(row[None], torch.arange(40)[None], None) for row in ids])[..., : SMALL.vocab_size]
        torch.testing.assert_close(ours, theirs(net)(ids).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_cache_changes_nothing(kind: str) -> None:
    net, rows = lively(**KINDS[kind]), prompts(6)
    answers = generator(net, batch_size=3).generate(rows, Sampling(greedy=True), seeds(6))
    for ids, answer in zip(rows["prompt_ids"].to_pylist(), answers.to_pylist(), strict=True):
        drawn, logprobs = without_cache(net, ids, 12)
        assert answer["response_ids"] == drawn
        np.testing.assert_allclose(answer["logprobs"], logprobs, atol=1e-4)


def test_rope_without_a_stretch_leaves_the_rest_of_a_head() -> None:
    model = shape("nemotron")
    assert (model.head_channels, model.rotary_size) == (8, 4)
    frequencies = rope.frequencies(model)
    assert frequencies.tolist() == pytest.approx([1.0, 0.01])
    angles = torch.arange(3.0)[:, None, None, None] * frequencies
    turned = rope.rotate(x := torch.randn(3, 1, 2, 8), torch.stack((angles.cos(), angles.sin())))
    assert torch.equal(turned[..., 4:], x[..., 4:])
    both = torch.complex(x[..., :2], x[..., 2:4]) * torch.exp(1j * angles)
    torch.testing.assert_close(turned[..., :4], torch.cat((both.real, both.imag), -1))


def test_weights_are_a_softmax_before_the_choice_where_asked() -> None:
    net = lively(experts=Experts(number=5, per_token=2, softmax_first=True)).eval()
    layer, x = net.decoder.layers[0].mlp, torch.randn(7, 1, 32)
    with torch.no_grad():
        ours, _ = layer(x)
        chances, wanted = (x[:, 0] @ layer.router.weight.T).softmax(-1), torch.zeros(7, 32)
        for row, (shares, places) in enumerate(zip(*chances.topk(2), strict=True)):
            for share, place in zip(shares, places, strict=True):
                expert = layer.experts.local_experts[int(place)]
                gate, up = (expert.linear_fc1.weight @ x[row, 0]).chunk(2)
                wanted[row] += share * (expert.linear_fc2.weight @ (F.silu(gate) * up))
    torch.testing.assert_close(ours[:, 0], wanted, atol=1e-5, rtol=1e-4)


def test_norms_around_zero_start_at_zero() -> None:
    around_zero, around_one = network(**KINDS["nemotron"]), network(normalization="LayerNorm", gated=False)
    assert all(not w.any() for name, w in around_zero.named_parameters() if "norm" in name)
    assert all((w == name.endswith("weight")).all() for name, w in around_one.named_parameters() if "norm" in name)


def _main_gradients(learner: Any) -> dict[str, torch.Tensor]:
    return {name: weight.main_grad.clone() for name, weight in learner.model.module.named_parameters()}


def test_the_balance_of_experts_is_learnt_as_written() -> None:
    layout, model = parallel.start(Parallel()), shape("mixtral")
    learner, batches = shapes.trainee(model, layout), shapes.batches()
    net, logits_per_layer = learner.model.module, []
    for layer in net.decoder.layers:
        layer.mlp.router.register_forward_hook(
            lambda router, taken, given: logits_per_layer.append(router.gating(taken[0])[:, 0])
        )
    total, read = torch.zeros(()), sum(batch.num_read for batch in batches)
    sft, counted = registry.algorithms()["sft"], sum(float(batch.rows["loss_mask"].sum()) for batch in batches)
    for batch in batches:
        logits_per_layer.clear()
        loss = sft.loss(None, extract_outputs(forward(net, batch), batch, sft.needs, model.vocab_size), batch.rows)
        total = total + (loss.values * loss.weights).sum() / counted
        for logits_tE in logits_per_layer:
            chances_tE = logits_tE[: batch.num_read].softmax(-1)
            chosen_E = F.one_hot(chances_tE.topk(2).indices, 4).float().mean((0, 1))
            total = total + 0.5 * batch.num_read / read * 4 * (chosen_E * chances_tE.mean(0)).sum()
    wanted = torch.autograd.grad(total, list(net.parameters()))
    learner.model.zero_grad_buffer()
    learner.stepper.train(batches)
    for (name, have), want in zip(_main_gradients(learner).items(), wanted, strict=True):
        torch.testing.assert_close(have, want, atol=1e-7, rtol=1e-4, msg=name)
    for module in net.modules():
        if isinstance(module, mixture.Router):
            assert module.balance_weight == pytest.approx(counted / read)


@pytest.mark.parametrize("recompute", ["attention", "full"])
@pytest.mark.parametrize("kind", ["nemotron", "mixtral"])
def test_recompute_changes_no_gradient(kind: str, recompute: str) -> None:
    layout, both = parallel.start(Parallel()), []
    for how in ("none", recompute):
        learner = shapes.trainee(shape(kind), layout, recompute=how)
        learner.model.zero_grad_buffer()
        outcome = learner.stepper.train(shapes.batches())
        both.append((outcome.loss, _main_gradients(learner)))
    assert both[0][0] == both[1][0]
    for name, gradient in both[0][1].items():
        assert torch.equal(gradient, both[1][1][name]), name


def test_bf16_is_near_fp32() -> None:
    layout = parallel.start(Parallel())
    for kind in KINDS:
        full, half = (shapes.curve(shapes.trainee(shape(kind), layout, precision=p), layout) for p in ("fp32", "bf16"))
        np.testing.assert_allclose(half, full, rtol=0.05)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rotary_percent": 0.4}, "turns 3 of 8"),
        ({"experts": Experts(number=4, per_token=1)}, "softmax_first"),
        ({"experts": Experts(number=4, per_token=2), "linear_bias": True}, "linear_bias"),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused(changes: dict[str, Any], named: str) -> None:
    import dataclasses

    model = dataclasses.replace(SMALL, **changes)
    assert any(named in fault for fault in shape_faults(model))
    with pytest.raises(ConfigError, match=named):
        build(model, Layout())


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"expert": 3}, "model.experts.number 4"),
        ({"tensor": 2}, "needs parallel.sequence"),
        ({"tensor": 2, "expert": 2}, "needs parallel.sequence"),
    ],
)
def test_a_mixture_that_cannot_be_cut_is_refused(sizes: dict[str, int], named: str) -> None:
    assert any(named in fault for fault in parallel_errors(shape("mixtral"), Parallel(**sizes)))
    assert not parallel_errors(shape("mixtral"), Parallel(tensor=2), training=False)
    assert not parallel_errors(shape("mixtral"), Parallel(tensor=2, expert=2, sequence=True))


def test_replicas_that_share_experts_make_as_many_passes() -> None:
    rows, tokens = np.arange(7), np.array([9, 8, 8, 1, 1, 1, 1])
    uneven, even = (
        [split_over_dp(rows, tokens, BatchSharding(i, 2, 9, even=even)) for i in range(2)] for even in (False, True)
    )
    assert [len(parts) for parts in uneven] == [2, 3]
    assert [len(parts) for parts in even] == [3, 3]
    assert [part.tolist() for part in even[0]] == [part.tolist() for part in [*uneven[0], rows[:0]]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process and two say, by layout, and the folder of what they saved."""
    folder = tmp_path_factory.mktemp("shapes")
    alone = shapes.everything(parallel.start(Parallel()), folder)
    launched(2, "tests.trainers.shapes", folder, *CUTS)
    return {"alone": alone, **json.loads((folder / "answers.json").read_text()), "folder": folder}


@pytest.mark.parametrize(
    ("kind", "cut"), [(kind, cut) for kind in KINDS for cut in CUTS if kind == "mixtral" or cut in DENSE]
)
def test_a_cut_network_is_the_whole_one(reports: dict[str, Any], kind: str, cut: str) -> None:
    whole, mine = reports["alone"][kind], reports[cut][kind]
    assert mine["digest"] == whole["digest"]
    tensor, _, sequence, _ = (int(part) for part in cut.split(","))
    trained = kind != "mixtral" or tensor == 1 or sequence == 1  # a mixture under a tensor cut needs the sequence cut
    assert {*mine} >= {*(["logits", "answers"] if not sequence else []), *(["curve"] if trained else [])}
    if not sequence:
        np.testing.assert_allclose(mine["logits"], whole["logits"], rtol=1e-5, atol=1e-5)
        assert mine["answers"][0] == whole["answers"][0]
        for have, want in zip(mine["answers"][1], whole["answers"][1], strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
    for name in ("curve", "full") if kind == "mixtral" else ("curve",):
        if trained:
            np.testing.assert_allclose(mine[name], whole["curve"], rtol=1e-5)


@pytest.mark.parametrize("cut", [cut for cut in CUTS if cut.split(",")[2] == "0"])
def test_scores_are_those_of_one_process(reports: dict[str, Any], cut: str) -> None:
    np.testing.assert_allclose(reports[cut]["rewards"], reports["alone"]["rewards"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [cut for cut in CUTS if cut != "2,1,0,1"])
def test_a_mixture_goes_on_from_a_save_of_another_layout(reports: dict[str, Any], cut: str) -> None:
    """bf16, distributed optimizer: the saves of one process and of `cut`, each read by the other."""
    mine, wanted = reports[cut]["mixtral"], reports["alone"]["mixtral"]["later"]
    np.testing.assert_allclose(mine["bf16"], reports["alone"]["mixtral"]["bf16"], rtol=0.03)
    np.testing.assert_allclose(mine["resumed"], wanted, rtol=2e-3)
    tensor, pipeline, sequence, expert = (int(part) for part in cut.split(","))
    place = reports["folder"] / f"mixtral-2-{tensor}-{pipeline}-{expert}-{bool(sequence)}-trained"
    here = shapes.resume(shape("mixtral"), parallel.start(Parallel()), place)
    np.testing.assert_allclose(here, mine["later"], rtol=2e-3)


def test_experts_stand_in_a_checkpoint_as_transformer_engine_writes_them(tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path / "p"), model=network(**KINDS["mixtral"]))
    names = set(checkpoint.safe_unpickle.read_index(str(tmp_path / "p" / "weights")).state_dict_metadata)
    kept = {name.removeprefix("decoder.layers.") for name in names if "mlp" in name}
    assert kept == {
        "pre_mlp_layernorm.weight",
        "mlp.router.weight",
        "mlp.experts.experts.linear_fc1.weight",
        "mlp.experts.experts.linear_fc2.weight",
    }
