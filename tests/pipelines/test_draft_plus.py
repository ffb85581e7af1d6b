"""DRaFT+ as a graph: what is planned, what its keys follow, what is refused before anything runs; a whole run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import environment

from pipelines.commands.images import GenerateImages
from pipelines.commands.models import ExportModel
from pipelines.graph.backend import backend_of, checkpoint_at, model_at
from pipelines.graph.plan import Plan
from pipelines.images.__main__ import main, reward_of
from pipelines.images.node import PROMPTS, ImageCheckpoint
from pipelines.recipes import DraftPlus
from schemas.dataset import Dataset
from schemas.errors import ConfigError, IntegrityError
from schemas.manifest import Manifest
from schemas.store.commit import read_manifest
from tests import pages
from tests.pipelines import hollow_diffusion
from trainers.images import FACT
from trainers.images.folder import base_digest

REWARD = "def bright(pixels, prompts):\n    return pixels.mean((1, 2, 3))\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hollow_diffusion.write(tmp_path / "base")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red square"}\n{"prompt": "blue"}\n')
    (tmp_path / "reward_of_tests.py").write_text(REWARD + "def text(response):\n    return response\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(**changes: Any) -> DraftPlus:
    given = {"model": "base", "data": "prompts.jsonl", "reward": "reward_of_tests:bright"}
    return DraftPlus(**{**given, **changes})


def tuned(**changes: Any) -> ImageCheckpoint:
    node = recipe(**changes).results(Plan("data")).checkpoints["tuned"]
    assert isinstance(node, ImageCheckpoint)
    return node


def test_a_reward_that_was_edited_since_the_run_was_planned_rewards_nothing(here: Path) -> None:
    run = tuned().placed()
    assert callable(reward_of(run))
    (here / "reward_of_tests.py").write_text(REWARD.replace("mean", "sum"))
    with pytest.raises(IntegrityError, match="changed since this run was planned"):
        reward_of(run)


def test_its_key_follows_what_decides_the_weights_alone(here: Path) -> None:
    key, same = tuned().task_key, [
        {"set": ["save_every=7"]}, {"set": ["micro_batch_size=1"]}, {"set": ["gradient_checkpointing=true"]},
        {"eval_images": 3}, {"annealing": "linear"},
    ]  # fmt: skip
    assert all(tuned(**changes).task_key == key for changes in same)
    others = [
        {"lr": 1e-3}, {"algorithm": "draft"}, {"options": {"truncation_steps": 2}}, {"set": ["sampler.steps=9"]},
        {"set": ["lora.rank=2"]}, {"set": ["ema=0.5"]}, {"max_steps": 3}, {"batch_size": 2}, {"seed": 5},
    ]  # fmt: skip
    keys = [tuned(**changes).task_key for changes in others]
    (here / "reward_of_tests.py").write_text(REWARD.replace("mean", "sum"))
    keys.append(tuned().task_key)
    (here / "reward_of_tests.py").write_text(REWARD)
    (here / "base/unet/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}more")
    keys.append(tuned().task_key)
    assert len({key, *keys}) == len(keys) + 1


def test_a_preset_is_its_settings() -> None:
    spelled = {"algorithm": "draft_plus", "options": {"kl_coefficient": 0.0, "renoised": 2}}
    assert tuned(algorithm="draft_lv").task_key == tuned(**spelled).task_key
    assert tuned(algorithm="draft_lv").work["name"] == "train.draft_plus"


def test_both_models_draw_from_the_same_noise_and_with_the_sampler_of_the_training() -> None:
    results = recipe(set=["sampler.steps=9", "sampler.scheduler=euler"], annealing="power_2").results(Plan("data"))
    drawn: Any = [results.datasets[name].parents["input"] for name in ("base", "tuned")]
    assert drawn[0].seed == drawn[1].seed and drawn[0].inputs == drawn[1].inputs
    assert [one.op.sampling.annealing for one in drawn] == ["draft", "power_2"]
    assert all((one.op.sampling.steps, one.op.sampling.scheduler) == (9, "euler") for one in drawn)
    assert {*results.datasets["side_by_side"].schema.names} >= {"base_image", "tuned_image", "base_reward"}  # type: ignore[union-attr]


def test_what_is_refused_before_anything_runs(here: Path) -> None:
    (here / "pickles").mkdir()
    (here / "pickles/model_index.json").write_text((here / "base/model_index.json").read_text())
    (here / "adapters").mkdir()
    manifest = Manifest(kind="checkpoint", facts={FACT: {"base": "b" * 64}})
    (here / "adapters/_manifest.json").write_bytes(manifest.to_bytes())
    refused = {
        "needs --reward": {"reward": ""},
        "rewards no images: it takes response": {"reward": "reward_of_tests:text"},
        "no Stable Diffusion folder": {"model": "pickles"},
        "starts from a folder of diffusers, not from adapters": {"model": "adapters"},
        "can be no image_generator": {"model": "reward_of_tests:bright"},
        "no algorithm dpo over images": {"algorithm": "dpo"},
        "truncation_steps 60 is more than sampler.steps 50": {"options": {"truncation_steps": 60}},
        "ema 1.0 is not below 1": {"set": ["ema=1.0"]},
        "sampler.width 100 is no multiple of 8": {"set": ["sampler.width=100"]},
        "unknown key kl": {"options": {"kl": 1}},
    }
    for what, changes in refused.items():
        with pytest.raises(ConfigError) as error:
            tuned(**changes)
        assert what in error.value.what, (what, error.value.what)


def test_adapters_are_no_language_model_and_the_reverse(here: Path) -> None:
    plan = Plan("data")
    for name, facts in {"adapters": {FACT: {"base": "b" * 64}}, "policy": {}}.items():
        (here / name).mkdir()
        (here / name / "_manifest.json").write_bytes(Manifest(kind="checkpoint", facts=facts).to_bytes())
    assert backend_of(model_at(plan, "adapters")).kind == "diffusion"
    assert backend_of(model_at(plan, "policy")).kind == "checkpoint"
    with pytest.raises(ConfigError, match="has no weights here to start from"):
        checkpoint_at(plan, "adapters")
    with pytest.raises(ConfigError, match="can be no scorer"):
        model_at(plan, "adapters", "scorer")
    with pytest.raises(ConfigError, match="can be no image_generator"):
        model_at(plan, "policy", "image_generator")
    [node] = ExportModel(model="adapters").build(plan)
    assert node.kind == "export"
    with pytest.raises(ConfigError, match="is an image model"):
        ExportModel(model="base").build(plan)
    with pytest.raises(ConfigError, match="is an image model"):
        ExportModel(model="adapters", dtype="bf16").build(plan)


def test_images_of_a_model_are_a_command() -> None:
    [node] = GenerateImages(model="base", prompts="prompts.jsonl", sampling={"steps": 3}).build(Plan("data"))
    assert node.schema is not None and node.schema.name == "images" and node.schema.key == ("image_id",)
    with pytest.raises(ConfigError, match="unknown key stepps"):
        GenerateImages(model="base", prompts="prompts.jsonl", sampling={"stepps": 3}).build(Plan("data"))
    with pytest.raises(ConfigError, match="needs --model"):
        GenerateImages(prompts="prompts.jsonl").build(Plan("data"))


LOADED = """
import sys, pipelines, trainers.run, datakit.registry, trainers.registry
from pipelines.recipes import DraftPlus
made = DraftPlus(model="base", data="prompts.jsonl", reward="reward_of_tests:bright").targets
[node.url for target in made for node in target.ancestors()]
print(sorted({"diffusers", "PIL", "transformers", "torch", "safetensors"} & {*sys.modules}))
"""


def test_nothing_of_images_is_imported_for_planning() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_program_trains_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages.diffusion(here / "model")
    rows = pa.table({"prompt_id": ["p"], "prompt": ["a red square"]}, schema=PROMPTS.arrow)
    data = Dataset.from_arrow(rows, PROMPTS, str(here / "rows"))
    run = {"optim": {"lr": 0.1}, "max_steps": 1, "global_batch_size": 2, "sampler": {"steps": 1}, "track": [],
           "data": data.url, "out": str(here / "tuned"), "init": str(here / "model"), "task_key": "k" * 64,
           "base": base_digest(str(here / "model")), "reward": "reward_of_tests:bright"}  # fmt: skip
    (here / "run.json").write_text(json.dumps(run))
    for printed in ("reward", "is already finished"):
        assert main([str(here / "run.json")]) == 0
        assert printed in capsys.readouterr().err
    manifest = read_manifest(str(here / "tuned"))
    assert manifest is not None and manifest.op["params"]["reward"] == "reward_of_tests:bright"
    assert [parent.name for parent in manifest.parents] == ["data"]
    (here / "run.json").write_text(json.dumps({**run, "max_stepps": 1}))
    assert main([str(here / "run.json")]) == 2
    assert "unknown key max_stepps" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_killed_goes_on_and_comes_to_the_same(here: Path) -> None:
    pages.diffusion(here / "model")
    words = ["--model", "model", "--data", "prompts.jsonl", "--reward", "reward_of_tests:bright", "--max-steps", "12"]
    words += ["--set", "sampler.steps=3", "--set", "lora.rank=2", "--set", "save_every=1", "--lr", "0.05"]
    command = [sys.executable, "-m", "luigi", "--module", "pipelines", "DraftPlus", *words]
    made = []
    for root in ("straight", "stopped"):
        run = [*command, "--quiver-root", root]
        if root == "stopped":
            first = subprocess.Popen(run, env=environment())
            while not list(Path(root).glob("draft/prompts/tuned-*.run/saves/step-*/_manifest.json")):
                assert first.poll() is None
                time.sleep(0.05)
            first.terminate()
            assert first.wait(120) == 75
        done = subprocess.run(run, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ("resumed at step" in done.stderr) == (root == "stopped")
        [folder] = Path(root).glob("draft/prompts/tuned-????????")
        made.append(json.loads((folder / "_manifest.json").read_text())["content"]["files"])
        assert "tuned" in done.stdout and "base" in done.stdout
    assert made[0] == made[1]
