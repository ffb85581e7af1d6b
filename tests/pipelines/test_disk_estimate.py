"""Room on the disk, judged before a run starts: refused, said, or fine; and what the judgement rests on."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.blend import Mismatch, Shuffle, Split, Unpair
from datakit.clients import Sampling
from datakit.filter import Where
from datakit.generate import Complete
from datakit.io import Jsonl, Reversal
from datakit.label import Logprobs, TopK, Values
from datakit.op import Expand, Op, Read, Size
from datakit.registry import OPS, op_of
from datakit.sql import Query
from datakit.template import Chat, LabelledChat, RewardPrompt
from datakit.tokenize import Mask, Pack, PackPairs, PromptTemplate, Sequences, Train
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.plan import Plan
from pipelines.runtime import disk_estimate
from pipelines.runtime.disk_estimate import _shown
from pipelines.runtime.resources import resource_of
from pipelines.stages.iteration import tokenized
from pipelines.stages.requested import requests
from schemas import TOKENS
from schemas.dataset import Attempt, Dataset
from schemas.errors import StorageError
from trainers import architecture
from trainers.config import training_of
from trainers.tensors import parameters

SHAPE: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "max_sequence_length": 64,
}
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"tie_embeddings": True, "gated": False, "activation": "gelu"},
    {"normalization": "LayerNorm", "position": "learned", "linear_bias": True, "qkv_bias": True, "gated": False},
    {"head": "scalar", "head_size": 3, "qk_layernorm": True},
    {"experts": architecture.Experts(number=4, per_token=2)},
)


@pytest.mark.parametrize("changes", SHAPES)
def test_parameters_are_counted_as_the_network_has_them(changes: dict[str, Any]) -> None:
    from trainers.engine.megatron import parallel
    from trainers.engine.megatron.model import build
    from trainers.parallel import Parallel

    shape = architecture.ModelConfig(**{**SHAPE, "vocab_size": 48, **changes})
    network = build(shape, parallel.start(Parallel()), seed=0)
    assert parameters(shape) == sum(weight.numel() for weight in network.parameters())


def model(folder: Path, **learning: Any) -> TrainedCheckpoint:
    plan = Plan(str(folder / "data"))
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    tokenizer = plan.table("tokenizer", Train(vocab_size=288), rows)
    given = {"max_steps": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}, **learning}
    training = training_of("sft", given, seed=0, model=SHAPE)
    return plan.model("policy", training, data=tokenized(plan, "rows", tokenizer, rows, 32), tokenizer=tokenizer)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=count)
    monkeypatch.setattr(disk_estimate.shutil, "disk_usage", lambda place: usage)


def test_a_run_without_room_is_refused_and_one_that_may_not_fit_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = model(tmp_path)
    weights = 4 * parameters(architecture.ModelConfig(**SHAPE, vocab_size=288))
    free(monkeypatch, weights - 1)
    with pytest.raises(StorageError) as caught:
        disk_estimate.check(node.ancestors())
    assert caught.value.slug == "no-space"
    assert caught.value.what.startswith("need about 1")
    free(monkeypatch, weights)
    disk_estimate.check(node.ancestors())
    assert "may become full" in capsys.readouterr().err
    free(monkeypatch, 10 * weights)
    disk_estimate.check(node.ancestors())
    saving = model(tmp_path, save_every=1, keep_last=8)
    disk_estimate.check(saving.ancestors())
    assert capsys.readouterr().err.count("may become full") == 1
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder_of_this_machine_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0)
    plan = Plan("memory://data")
    disk_estimate.check([plan.table("rows", Reversal(rows=8))])
    disk_estimate.check([])


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        (Complete(sampling=Sampling(samples_per_prompt=4, max_new_tokens=10)), Size(400, 400 * (50 + 120))),
        (Split(part="1", parts=("1", "rest"), counts=(10, -1)), Size(10, 500)),
        (Split(part="a", parts=("a", "b"), shares=(0.1, 0.9)), Size(10, 500)),
        (Reversal(rows=3), Size(3, 180)),
        (Unpair(sides="both"), Size(200, 5000)),
        (Query(query="SELECT * FROM a CROSS JOIN b", tables=("a", "b"), times=6), Size(600, 30_000)),
        (Shuffle(), Size(100, 5000)),
    ],
)
def test_stages_grow_as_their_settings_say(op: Op, wanted: Size) -> None:
    assert op.grown(Size(100, 5000)) == wanted


def test_an_operation_that_makes_rows_says_how_many() -> None:
    """`Op.grown` stands for rows that stay, go, are gathered or gain a number; what makes rows has its own."""
    makes_rows = {kind for kind in OPS.values() if issubclass(kind, Read | Expand)}
    assert len(makes_rows) > 5 and all(kind.grown is not Op.grown for kind in makes_rows)


def test_questions_asked_at_several_levels_count_so_often_and_keep_their_key(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path / "data"))
    rows = plan.table("rows", Reversal(rows=45, output="demonstrations"))
    asked = requests(plan, "asked", rows, (0.0, 2.0, 4.0), 2)
    assert disk_estimate.size_of(asked, {}).rows == 45 * 3 * 2
    once = replace(asked.op, times=1.0)  # type: ignore[call-arg]
    assert asked.op.to_json() == once.to_json() and "times" not in asked.op.to_json()["params"]


@pytest.mark.parametrize(
    ("op", "each"),
    [
        (TopK(k=100), 100 * (4 + 4)),
        (TopK(k=100, dtype="float16"), 100 * (4 + 2)),
        (Values(), 4),
        (Logprobs(dtype="float16"), 2),
        (Logprobs(per="row"), 0),
    ],
)
def test_the_size_of_columns_that_hold_numbers_of_every_token_is_reported_before_the_run(
    op: Op, each: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = Attempt.begin(str(tmp_path / "tokens"), TOKENS)
    writer = attempt.shard(0)
    ids, masks = [[1] * 700, [2] * 300], [[1] * 700, [1] * 300]
    writer.write(TOKENS.conform(pa.table({"sample_id": ["a", "b"], "input_ids": ids, "loss_mask": masks})))
    attempt.commit([writer.finish()])
    plan = Plan(str(tmp_path / "data"))
    tokens = plan.existing(str(tmp_path / "tokens"), "dataset")
    network = model(tmp_path)
    if isinstance(op, Values):
        critic = {"max_steps": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}
        network = replace(network, training=training_of("rm", critic, seed=0, model=SHAPE))
    asked = plan.table("asked", op, tokens, model=network)
    disk_estimate.check([asked])
    expected = f"asked: {each} B for each token, about {_shown(each * 1000)} before compression"
    assert (expected in capsys.readouterr().err) is bool(each)
    assert asked.op.token_bytes == each


SETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hh": ("hh-rlhf/helpful-base.test.jsonl.gz", "hh", {}),
    "gsm8k": ("gsm8k-train/train.jsonl.gz", "completions", {"columns": {"prompt": "question", "response": "answer"}}),
    "pairs": ("llamafactory-demo/dpo_en_demo.json.gz", "sharegpt_preferences", {}),
    "kto": ("llamafactory-demo/kto_en_demo.json.gz", "kto_messages", {}),
}


def stages(plan: Plan, rows: Table, kind: str, tokenizer: Table) -> list[Table]:
    """What the commands make of `rows`, one after the other."""
    made = [
        plan.table("shuffled", Shuffle(), rows),
        plan.table("half", Split(part="a", parts=("a", "b"), shares=(0.5, 0.5)), rows),
    ]
    made.append(plan.table("where", Where(predicate="source IS NULL"), rows))
    if kind == "preferences":
        texts = plan.table("texts", RewardPrompt(template="chatml", rows="preferences"), rows, tokenizer=tokenizer)
        tokens = plan.table("tokens", Sequences(), texts, tokenizer=tokenizer)
        sides: Any = ("chosen", "both")
        apart = [plan.table(f"unpaired-{side}", Unpair(sides=side), rows) for side in sides]
        return [*made, texts, tokens, *apart, plan.table("packs", PackPairs(capacity=4096), tokens)]
    if kind == "completions":
        texts = plan.table("texts", Chat(template="chatml", response="response"), rows, tokenizer=tokenizer)
        tokens = plan.table("tokens", Mask(), texts, tokenizer=tokenizer)
        filled = plan.table("filled", PromptTemplate(), rows, tokenizer=tokenizer)
        labelled = plan.table("labelled", LabelledChat(), rows, tokenizer=tokenizer)
        packs = plan.table("packs", Pack(capacity=4096), tokens)
        return [*made, texts, tokens, filled, labelled, packs, plan.table("beside", Mismatch(), rows)]
    return made


def used(node: Table) -> int:
    """Bytes that `node` takes once it is made."""
    given = None if not node.inputs else node.inputs[0].schema
    resources = {name: resource_of(name, one, given) for name, one in node.resources.items()}
    made = apply(
        node.op,
        [Dataset.open(one.url) for one in node.inputs],
        node.url,
        resources=resources,
        task_key=node.task_key,
        processes=1,
        max_rejected=None if node.op.max_rejected is None else 100,
    )
    return sum(file.bytes for file in (*made.manifest.files, *made.manifest.rejected))


@pytest.mark.parametrize(
    "name",
    [
        "kto",
        pytest.param("hh", marks=pytest.mark.slow),
        pytest.param("gsm8k", marks=pytest.mark.slow),
        pytest.param("pairs", marks=pytest.mark.slow),
    ],
)
def test_estimates_are_within_twice_of_what_is_used(name: str, tmp_path: Path, shared_data: Path) -> None:
    """From the file alone, before anything is made; results below 100 kB are left out: there a file's footer counts."""
    place, form, params = SETS[name]
    plan = Plan(str(tmp_path / "data"))
    rows = plan.table(
        "rows", op_of("io.jsonl", {"files": [str(shared_data / place)], "format": form, **params}).pinned()
    )
    tokenizer = plan.table("tokenizer", op_of("tokenize.adopt", {"path": str(shared_data / "tokenizer-gpt2")}).pinned())
    assert rows.schema is not None
    nodes = [rows, *stages(plan, rows, rows.schema.name, tokenizer)]
    estimated = {node.label: disk_estimate.size_of(node, {}).bytes for node in nodes}
    used(tokenizer)
    taken = {node.label: used(node) for node in nodes}
    quotients = {label: estimated[label] / count for label, count in taken.items() if count > 100_000}
    assert "rows" in quotients and all(0.5 <= quotient <= 2 for quotient in quotients.values()), (quotients, taken)


def test_a_file_counts_as_what_it_becomes(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"prompt": f"{n} {hashlib.sha256(b'%d' % n).hexdigest()}"}) + "\n" for n in range(4000))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.jsonl").write_text(json.dumps({"prompt": "the same"}) + "\n" * 2)
    plain, packed, empty = (
        Jsonl(files=(str(tmp_path / name),), format="prompts", digests=("",)).grown(Size())
        for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl")
    )
    assert abs(plain.rows - 4000) < 40 and abs(packed.rows - 4000) < 400
    assert 0.5 < plain.bytes / (4000 * (32 + 60)) < 2, "32 bytes of a digest in hex cannot shrink further"
    assert 0.8 < packed.bytes / plain.bytes < 1.25 and empty.bytes < 300
