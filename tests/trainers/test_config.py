"""A run's configuration: read strictly, refused with all faults at once, without torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.canonical import plain
from schemas.errors import ConfigError
from schemas.settings import parse
from trainers import registry
from trainers.config import Execution, Learning, Paths, Run, read, training_of

MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 64,
    "max_sequence_length": 32,
}

KEY = "348b8bf28024a74454b7727fd18f7c58c443281a172f3caa571dbdde6bfd301c"
"""What `config()` on the content "d" was known by when a run was one dataclass (commit d857e53)."""


def config(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "algorithm": "sft",
        "data": "tokens",
        "out": "policy",
        "model": MODEL,
        "optim": {"lr": 1e-3},
        "max_steps": 4,
        "global_batch_size": 8,
    }
    return {name: value for name, value in {**base, **changes}.items() if value is not ...}


def test_a_run_is_its_own_json() -> None:
    run = parse(Run, config())
    assert parse(Run, json.loads(json.dumps(plain(run)))) == run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"lrr": 1e-3}}, "unknown key optim.lrr (did you mean optim.lr?)"),
        ({"optimm": {}}, "unknown key optimm (did you mean optim?)"),
        ({"global_batch_size": "8"}, 'global_batch_size: "8" is not a whole number'),
        ({"global_batch_size": True}, "global_batch_size: true is not a whole number"),
        ({"optim": {"lr": 1e-3, "schedule": "cosin"}}, "did you mean cosine?"),
        ({"global_batch_size": ...}, "global_batch_size is missing"),
        ({"epochs": 1}, "exactly one of epochs and max_steps, not 2"),
        ({"model": ...}, "exactly one of model and init, not 0"),
        ({"global_batch_size": 0}, "global_batch_size 0 is below 1"),
        ({"validate_every": 2}, "no effect without validation"),
        ({"out": "s3://bucket/policy"}, "out s3://bucket/policy is not a folder"),
        ({"out": "tokens"}, "out is the same folder as data"),
        ({"optim": {"lr": 1e-3, "warmup_steps": 5}}, "warmup_steps 5 is more than max_steps 4"),
        ({"optim": {"lr": 1e-3, "min_lr": 1e-4}}, "min_lr has no effect with schedule constant"),
        ({"optim": {"lr": 1e-3, "min_lr": 1e-2, "schedule": "linear"}}, "above optim.lr"),
        ({"optim": {"lr": 1e-3, "betas": [0.9, 1.0]}}, "not in [0, 1)"),
        ({"parallel": {"sequence": True}}, "no effect with tensor 1"),
        ({"parallel": {"tensor": 3}}, "num_query_groups 2 and parallel.tensor 3 do not divide"),
        ({"parallel": {"pipeline": 3}}, "num_layers 2 does not divide by parallel.pipeline 3"),
        ({"parallel": {"tensor": 0}}, "parallel.tensor 0 is below 1"),
        ({"parallel": {"pipeline": 0, "expert": 0}}, "parallel.pipeline 0 is below 1; parallel.expert 0 is below 1"),
        ({"model": {**MODEL, "num_attention_heads": 0}}, "model.num_attention_heads 0 is below 1"),
        ({"parallel": {"expert": 2}}, "model.experts.number 0 does not divide by parallel.expert 2"),
        ({"model": {**MODEL, "hidden_size": 30}}, "hidden_size 30 does not divide by 4 heads"),
        ({"model": {**MODEL, "num_query_groups": 3}}, "does not divide by num_query_groups 3"),
        ({"model": {**MODEL, "head": "scalar", "tie_embeddings": True}}, "cannot hold with head scalar"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Run, config(**changes))
    assert message in caught.value.what
    assert caught.value.code == 2


def test_all_faults_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Run, config(seeed=1, threadz=2))
    assert "seeed (did you mean seed?)" in caught.value.what and "threadz (did you mean threads?)" in caught.value.what


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for text, message in (
        ("{", "not JSON"),
        ('{"seed": 1, "seed": 2}', "key given twice: seed"),
        ("[]", "not an object"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_unknown_algorithm_and_setting() -> None:
    with pytest.raises(ConfigError, match=r"no algorithm stf \(did you mean sft\?\)"):
        registry.configured("stf", {})
    with pytest.raises(ConfigError, match="unknown key beta"):
        registry.configured("sft", {"beta": 1.0})


def test_identity_is_what_decides_the_weights() -> None:
    run = parse(Run, config())
    same = parse(Run, config(micro_batch_tokens=64, threads=1, log_every=7, out="elsewhere"))
    other = parse(Run, config(seed=1))
    assert run.task_key("d") == same.task_key("d") != other.task_key("d")
    assert run.task_key("d") != run.task_key("e")
    assert parse(Run, config(task_key="k")).task_key("d") == "k"


def test_a_wrong_config_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config(algorithm="stf")))
    program = (
        "import sys, trainers.run as r; code = r.main([sys.argv[1]]);"
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "error[2/unknown-algorithm]" in done.stderr and "Traceback" not in done.stderr


def test_the_identity_of_a_run_is_what_it_was_before_it_had_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(Run, config()).task_key("d") != KEY, "a run of today gives other weights"
    monkeypatch.setattr("trainers.config.VERSION", 2)
    assert parse(Run, config()).task_key("d") == KEY


def test_a_setting_has_one_name_whichever_part_it_belongs_to() -> None:
    parts = [{field.name for field in dataclasses.fields(kind)} for kind in (Learning, Execution, Paths)]
    assert plain(parse(Run, config())).keys() == set.union(*parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_what_a_training_contradicts_depends_on_what_it_is_given() -> None:
    settings = {"max_steps": 4, "global_batch_size": 2, "optim": {"lr": 1e-3}, "validate_every": 2}
    training = training_of("sft", {**settings, "lora": {"rank": 2, "alpha": 4}}, seed=0)
    training.check(init=True, validation=True)
    with pytest.raises(ConfigError) as caught:
        training.check(init=False, validation=False, where="policy")
    for fault in ("exactly one of model and init, not 0", "lora needs init", "validate_every has no effect without"):
        assert fault in caught.value.what
    assert caught.value.slug == "contradiction" and caught.value.where == "policy"


@pytest.mark.parametrize("name", ["data", "validation", "tokenizer", "out", "work", "records"])
def test_a_place_with_a_nul_in_it_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} .* holds a NUL"):
        parse(Run, config(**{name: "a\0b"}))
