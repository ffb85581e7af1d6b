"""Adapters: what they compute, what they leave alone, the same at every layout, found again with their base."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas.errors import ConfigError, IntegrityError, Stopped
from schemas.settings import parse
from schemas.store.commit import read_manifest
from tests.trainers import toys
from tests.trainers.adapted import trained
from tests.trainers.networks import louder, vocabulary
from tests.trainers.test_checkpoint import tensors
from tests.trainers.test_generator import Sampling
from tests.trainers.test_run import go, stopping_after
from tests.warm.command import launched
from trainers import merge, registry
from trainers.architecture import Experts
from trainers.config import Lora, Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.data.packing import pack
from trainers.engine.inference.frozen import open_scorer
from trainers.engine.inference.generator import open_generator
from trainers.engine.megatron import lora, parallel
from trainers.engine.megatron.lora_dropout import Dropout, token_keys
from trainers.engine.megatron.model import build
from trainers.engine.training import optim
from trainers.engine.weights import lora_export
from trainers.parallel import Parallel

PEFT = Path(__file__).resolve().parents[2] / "build" / "trl"
"""Where `make test-slow` puts PEFT (tests/fidelity/trl.txt)."""
ALONE = "1,1,0"
CUTS = {"data": ALONE, "tensor": "2,1,0", "sequence": "2,1,1", "pipeline": "1,2,0"}
LORA = {"rank": 3, "alpha": 12, "dropout": 0.25}
IDS = torch.randint(0, toys.VOCABULARY, (1, 24), generator=torch.Generator().manual_seed(5))
LENGTHS = [9, 4, 11]


def here() -> parallel.Layout:
    return parallel.start(Parallel())


def logits_of(net: torch.nn.Module) -> torch.Tensor:
    """Its answers to a packed batch."""
    plan = pack(LENGTHS)
    with torch.no_grad():
        output: torch.Tensor = net.eval()(IDS, plan.positions, None, packed_seq_params=plan)
    return output


def live(folder: str) -> Any:
    """The network with its adapters on."""
    source = checkpoint.open_checkpoint(folder)
    assert source.adapters is not None
    return checkpoint.load_model(source, here(), lora=source.adapters.lora)


def digest(folder: str | Path) -> str:
    manifest = read_manifest(str(folder))
    assert manifest is not None
    return str(manifest.facts["weights_digest"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for every run, a base, adapters on it and a reward model's on the same base."""
    made = tmp_path_factory.mktemp("lora")
    for name in ("sft", "rm"):
        algorithm = registry.algorithms()[name]
        table = toys.rows_for(algorithm, 31)
        toys.put(made / name, algorithm.rows, table.slice(0, 20), table.slice(20))
    toys.put(made / "tokens", registry.algorithms()["sft"].rows, toys.tokens(20), toys.tokens(11, seed=1, first=20))
    net = louder(build(toys.model(qkv_bias=True), here(), seed=3), 4.0)
    checkpoint.save(str(made / "base"), model=net, tokenizer_files=vocabulary(toys.VOCABULARY))
    for name in ("sft", "rm"):
        start(made, out=str(made / f"{name}-adapters"), algorithm=name, data=str(made / name))
    return made


def start(folder: Path, **changes: Any) -> Run:
    """A finished run of adapters on the base in `folder`."""
    settings = {"init": str(folder / "base"), "model": ..., "lora": LORA, "max_steps": 4, "track": []}
    return go(folder, **{**settings, **changes})


def test_a_checkpoint_of_adapters_holds_them_alone(folder: Path) -> None:
    adapters = tensors(folder / "sft-adapters" / "weights")
    assert len(adapters) == 2 * 4 * 2 and all(".lora." in name for name in adapters)
    assert {tuple(t.shape) for n, t in adapters.items() if n.endswith("linear_fc1.lora.b")} == {(128, 3)}
    reward = tensors(folder / "rm-adapters" / "weights")
    assert reward.keys() - adapters.keys() == {"output_layer.weight"}
    opened = checkpoint.open_checkpoint(str(folder / "sft-adapters"))
    assert opened.adapters is not None and opened.adapters.base == digest(folder / "base")
    assert opened.model == checkpoint.open_checkpoint(str(folder / "base")).model
    assert [parent.name for parent in opened.manifest.parents] == ["data", "init", "base"]
    assert opened.tokenizer_files() == vocabulary(toys.VOCABULARY)


def test_only_adapters_are_held_in_training_and_only_they_change(folder: Path) -> None:
    before = {name: value.clone() for name, value in live(str(folder / "sft-adapters")).named_parameters()}
    learner, _ = trained(folder, "sft", here(), init=str(folder / "sft-adapters"))
    network = learner.model.module
    count = sum(adapter.a.numel() + adapter.b.numel() for _, adapter in lora.adapters(network))
    assert sum(p.numel() for group in learner.optimizer.param_groups for p in group["params"]) == count
    assert sum(buffer.numel_unpadded for buffer in learner.model.buffers) == count
    fresh = checkpoint.load_model(str(folder / "base"), here())
    for name, value in network.named_parameters():
        if ".lora." in name:
            assert not torch.equal(value, before[name]) or name.endswith("a")
        else:
            assert torch.equal(value, fresh.get_parameter(name)) and getattr(value, "main_grad", None) is None


@pytest.mark.parametrize("name", ["sft", "rm"])
def test_merged_equals_adapters_on(folder: Path, tmp_path: Path, name: str) -> None:
    source, out = str(folder / f"{name}-adapters"), str(tmp_path / "merged")
    untouched = logits_of(checkpoint.load_model(str(folder / "base"), here()))
    assert merge.main([source, out]) == 0
    assert merge.main([source, out]) == 0
    merged, on = logits_of(checkpoint.load_model(out, here())), logits_of(live(source))
    torch.testing.assert_close(merged, on, rtol=1e-5, atol=1e-5)
    assert torch.equal(merged, logits_of(checkpoint.load_model(source, here())))
    assert merged.shape != untouched.shape or (merged - untouched).abs().max() > 0.05
    opened = checkpoint.open_checkpoint(out)
    assert opened.adapters is None and [p.name for p in opened.manifest.parents] == ["adapters", "base"]
    assert opened.tokenizer_files() == vocabulary(toys.VOCABULARY)


def test_sampler_and_scorer_take_adapters(folder: Path, tmp_path: Path) -> None:
    for name in ("sft", "rm"):
        lora_export.merge(str(folder / f"{name}-adapters"), str(tmp_path / name))
    prompts = pa.table({"prompt_ids": [[3, 4, 5], [6, 7, 8, 9]]})
    answers = [
        open_generator(where, threads=1).generate(prompts, Sampling(max_new_tokens=6), np.array([1, 2], np.uint64))
        for where in (str(folder / "sft-adapters"), str(tmp_path / "sft"))
    ]
    assert answers[0].equals(answers[1])
    rows = pa.table({"input_ids": [[3, 4, 5], [6, 7, 8, 9]]})
    scores = [open_scorer(where).score(rows) for where in (str(folder / "rm-adapters"), str(tmp_path / "rm"))]
    assert scores[0]["reward"].equals(scores[1]["reward"])


@pytest.fixture(scope="module")
def curves(folder: Path) -> dict[str, Any]:
    launched(1, "tests.trainers.adapted", folder, folder / "1.json", ALONE)
    launched(2, "tests.trainers.adapted", folder, folder / "2.json", *CUTS.values())
    alone, cut = (json.loads((folder / f"{n}.json").read_text()) for n in (1, 2))
    return {"alone": alone[ALONE], **{name: cut[layout] for name, layout in CUTS.items()}}


@pytest.mark.parametrize("cut", ["alone", *CUTS])
def test_a_cut_run_has_the_curve_of_one_process(curves: dict[str, Any], cut: str) -> None:
    """Dropout and all: small passes, recomputation and the distributed optimizer too."""
    for name, points in curves[cut].items():
        for one, other in zip(curves["alone"]["rm" if name == "rm" else "sft"], points, strict=True):
            for figure, value in one.items():
                assert math.isclose(value, other[figure], rel_tol=1e-5), (name, figure, one, other)


@pytest.mark.parametrize("cut", CUTS)
def test_adapters_learnt_at_any_layout_are_opened_at_one(curves: dict[str, Any], folder: Path, cut: str) -> None:
    for name in ("sft", "rm"):
        one, other = (str(folder / f"{n}-{layout}-{name}") for n, layout in ((1, ALONE), (2, CUTS[cut])))
        torch.testing.assert_close(logits_of(live(one)), logits_of(live(other)), rtol=1e-4, atol=1e-4)
        assert len(tensors(Path(other) / "weights")) == len(tensors(Path(one) / "weights"))


def killed(step: Any) -> Any:
    """`step`, which its third call does not survive."""
    count = iter(range(3))

    def called(*arguments: Any) -> Any:
        if next(count) == 2:
            raise KeyboardInterrupt
        return step(*arguments)

    return called


def test_a_stopped_and_killed_run_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(folder, out=str(tmp_path / "whole"), max_steps=6)
    settings = {"out": str(tmp_path / "parts"), "max_steps": 6, "save_every": 2}
    with stopping_after(3, monkeypatch), pytest.raises(Stopped):
        start(folder, **settings)
    with monkeypatch.context() as patched:
        patched.setattr(optim, "set_learning_rate", killed(optim.set_learning_rate))
        with pytest.raises(KeyboardInterrupt):  # in step 6, saved after 4
            start(folder, **settings)
    save = tmp_path / "parts.run" / "saves" / "step-00000004"
    assert all(".lora." in name for name in tensors(save / "weights")) and (save / "lora.json").exists()
    parts = start(folder, **settings)
    assert toys.curve(parts.paths.folder) == toys.curve(whole.paths.folder) and digest(parts.paths.out) == digest(
        whole.paths.out
    )


def test_a_run_goes_on_with_the_adapters_of_another(folder: Path, tmp_path: Path) -> None:
    first = str(folder / "sft-adapters")
    again = start(folder, out=str(tmp_path / "again"), init=first)
    opened = checkpoint.open_checkpoint(again.paths.out)
    assert opened.adapters is not None and opened.adapters.base == digest(folder / "base")
    assert digest(again.paths.out) != digest(first)
    whole = start(folder, out=str(tmp_path / "full"), init=first, lora=...)
    assert checkpoint.open_checkpoint(whole.paths.out).adapters is None
    with pytest.raises(ConfigError, match="other settings"):
        start(folder, out=str(tmp_path / "other"), init=first, lora={**LORA, "rank": 4})


def test_the_base_is_found_beside_them_or_told_missing_or_changed(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    for name in ("base", "sft-adapters"):
        shutil.copytree(folder / name, moved / name)
    start(moved, out=str(moved / "adapters"), data=str(folder / "sft"))
    there = moved.rename(tmp_path / "elsewhere")
    expected = logits_of(live(str(there / "adapters")))
    assert expected.isfinite().all()
    (there / "base").rename(there / "hidden")
    with pytest.raises(IntegrityError, match="is not there"):
        live(str(there / "adapters"))
    checkpoint.save(str(there / "base"), model=build(toys.model(qkv_bias=True), here(), seed=9))
    with pytest.raises(IntegrityError, match="has other weights by now"):
        checkpoint.load_model(str(there / "adapters"), here())


def test_what_cannot_be_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lora needs init"):
        parse(Run, toys.config(folder, lora=LORA))
    with pytest.raises(ConfigError, match="not below 1"):
        parse(Run, toys.config(folder, init="x", model=..., lora={**LORA, "dropout": 1.0}))
    with pytest.raises(ConfigError, match="names each linear once"):
        parse(Run, toys.config(folder, init="x", model=..., lora={**LORA, "targets": []}))
    with pytest.raises(ConfigError, match="linears of experts: linear_fc1, linear_fc2"):
        lora.check_targets(Lora(rank=2, alpha=2), experts=True)
    lora.check_targets(Lora(rank=2, alpha=2, targets=("linear_qkv",)), experts=True)
    with pytest.raises(ConfigError):
        merge.main([str(folder / "base"), str(tmp_path / "out")])


def test_experts_keep_their_linears_and_attention_gets_adapters() -> None:
    net = build(toys.model(experts=Experts(number=3, per_token=2)), here(), seed=0)
    before, parent = logits_of(net), checkpoint.Parent("base", "nowhere", "", "")
    lora.attach(net, Lora(rank=2, alpha=2, targets=("linear_qkv",)), base="", parent=parent, seed=0)
    assert torch.equal(logits_of(net), before)
    assert [name for name, _ in lora.adapters(net)] == [f"decoder.layers.{i}.self_attention.linear_qkv" for i in (0, 1)]
    lora.fold(net)
    assert torch.equal(logits_of(net), before) and all(p.requires_grad for p in net.parameters())


def test_bf16_adapters_train_and_merge_into_the_type_of_their_base(folder: Path, tmp_path: Path) -> None:
    run = start(folder, out=str(tmp_path / "bf16"), precision="bf16", max_steps=2)
    assert {t.dtype for t in tensors(Path(run.paths.out) / "weights").values()} == {torch.bfloat16}
    lora_export.merge(run.paths.out, str(tmp_path / "merged"))
    assert {t.dtype for t in tensors(tmp_path / "merged" / "weights").values()} == {torch.float32}


def test_dropout_drops_its_share_by_sequence_step_linear_and_feature() -> None:
    tokens = torch.arange(40)
    drop = Dropout(0.25, 1)
    drop._keys_t = token_keys(tokens, pack([40]), 7)
    kept = drop.drop(torch.ones(40, 1, 500), "a", 0, 0)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs((kept == 0).float().mean() - 0.25) < 0.01
    for share in ((kept == 0).float().mean(0), (kept == 0).float().mean(2)):
        assert share.min() > 0 and share.max() < 0.6
    other = drop.drop(torch.ones(40, 1, 500), "b", 0, 0)
    agree = ((kept == 0) == (other == 0)).float().mean()
    assert abs(agree - (0.75**2 + 0.25**2)) < 0.02
    cut = drop.drop(torch.ones(15, 1, 100), "a", 25, 300)
    assert torch.equal(cut, kept[25:, :, 300:400])
    apart = token_keys(tokens, pack([10, 30]), 7)
    assert torch.equal(apart[:10], token_keys(tokens[:10], pack([10]), 7))
    assert not torch.equal(apart, drop._keys_t) and len(apart.unique()) == 40


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers 5 by an old name
@pytest.mark.parametrize("name", ["sft", "rm"])
def test_peft_computes_the_same_from_its_own_format(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PEFT))
    peft = pytest.importorskip("peft", reason="PEFT is not in build/trl: make test-slow puts it there")
    transformers = pytest.importorskip("transformers")
    from trainers.engine.weights.export_hf import export

    source, hf, out = str(folder / f"{name}-adapters"), str(tmp_path / "hf"), str(tmp_path / "peft")
    base = str(folder / "base")
    if name == "rm":  # PEFT wants a base with a head of that kind; the adapters bring their own numbers
        net = checkpoint.load_model(base, here(), model=toys.model(qkv_bias=True, head="scalar"), seed=1)
        base = str(tmp_path / "scalar")
        checkpoint.save(base, model=net, tokenizer_files=vocabulary(toys.VOCABULARY))
    export(base, hf, check="off")
    assert merge.main([source, out, "--peft", hf]) == 0
    kind = transformers.AutoModelForCausalLM if name == "sft" else transformers.AutoModelForSequenceClassification
    theirs = peft.PeftModel.from_pretrained(kind.from_pretrained(hf), out).eval()
    assert theirs.peft_config["default"].target_modules >= {"q_proj", "gate_proj", "down_proj"}
    ours = live(source).eval()
    ids = IDS[:, : LENGTHS[0]]
    plan = pack(LENGTHS[:1])
    with torch.no_grad():
        expected = ours(ids, plan.positions, None, packed_seq_params=plan)[..., : toys.VOCABULARY]
        actual = theirs(input_ids=ids).logits if name == "sft" else theirs(input_ids=ids).logits[None]
    expected = expected if name == "sft" else expected[:, -1:]
    torch.testing.assert_close(actual.float(), expected.float(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="holds adapters, not a whole network"):
        export(source, str(tmp_path / "no"), check="off")
