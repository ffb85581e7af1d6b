"""Runs on tiny folders of diffusers: train, stop, go on bit for bit, publish, export; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas import IMAGES, Dataset
from schemas.errors import ConfigError, HealthError, IntegrityError, Stopped
from schemas.store.commit import read_manifest
from tests.trainers.test_run import stopping_after
from trainers.images import checkpoint, loop
from trainers.images.config import ImageRun, Sampler
from trainers.images.export import export
from trainers.images.folder import base_digest, read_index
from trainers.images.inference import ImageModel, ImageScorer
from trainers.images.opening import open_network
from trainers.images.pixels import png_of
from trainers.images.sampling import denoise
from trainers.images.trainer import ImageTrainer, prompts_of

PROMPTS = ["red", "green", "blue", "a cat", "dogs"]
LEARNING: dict[str, Any] = {
    "optim": {"lr": 0.05, "clip_grad": 10.0},
    "lora": {"rank": 2, "alpha": 2.0},
    "sampler": {"steps": 3, "guidance": 2.0},
    "settings": {"kl_coefficient": 0.1},
    "max_steps": 4,
    "global_batch_size": 4,
    "ema": 0.9,
    "track": [],
}


def bright(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    return pixels.mean((1, 2, 3))


@pytest.fixture
def run_of(sd: str, tmp_path: Path) -> Callable[..., ImageRun]:
    def make(name: str = "run", base: str = sd, **changes: Any) -> ImageRun:
        from schemas.settings import parse

        out = {"out": str(tmp_path / name), "records": str(tmp_path / f"{name}.records"), "task_key": "k" * 64}
        given = {**LEARNING, **out, "init": base, "base": base_digest(base), **changes}
        return parse(ImageRun, given)

    return make


@pytest.fixture
def prompts(tmp_path: Path) -> Dataset:
    schema = IMAGES.selecting("prompt_id", "prompt").renamed("image prompts", key=("prompt_id",))
    rows = pa.table({"prompt_id": [f"p{n}" for n in range(len(PROMPTS))], "prompt": PROMPTS}, schema=schema.arrow)
    return Dataset.from_arrow(rows, schema, str(tmp_path / "prompts"))


def lines(run: ImageRun) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in (run.paths.folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in written]


def test_a_stopped_run_goes_on_bit_for_bit(
    run_of: Callable[..., ImageRun], prompts: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, stopped = run_of("straight"), run_of("stopped", save_every=1)
    loop.train(straight, prompts, bright, "k" * 64)
    with stopping_after(2, monkeypatch, loop), pytest.raises(Stopped, match="after step 2 of 4"):
        loop.train(stopped, prompts, bright, "k" * 64)
    assert read_manifest(stopped.paths.out) is None
    with pytest.raises(ConfigError, match="configured otherwise"):
        loop.train(run_of("stopped", optim={"lr": 0.01}), prompts, bright, "k" * 64)
    loop.train(stopped, prompts, bright, "k" * 64)
    whole, parts = (checkpoint.open_checkpoint(one.paths.out) for one in (straight, stopped))
    assert whole.manifest.files == parts.manifest.files
    assert lines(straight) == lines(stopped) and [line["step"] for line in lines(stopped)] == [1, 2, 3, 4]
    records = [Dataset.open(str(one.paths.records)).read() for one in (straight, stopped)]
    assert records[0] == records[1] and records[0].num_rows == 16
    assert {"prompt_id", "step", "epoch", "loss", "reward", "kl", "out_of_range"} <= {*records[0].column_names}
    assert not (stopped.paths.folder / "saves").exists()
    stats = whole.manifest.facts["stats"]
    assert stats["steps"] == 4 and stats["reward"] == pytest.approx(lines(straight)[-1]["reward"])


def test_a_damaged_save_gives_way_to_the_one_before(run_of: Callable[..., ImageRun], capsys: Any) -> None:
    run = run_of(keep_last=2)
    with ImageTrainer(run, bright) as trainer:
        for _ in range(3):
            trainer.step(PROMPTS[:2], [1, 2])
            trainer.save_state()
        before = trainer.saves.folders.newest()
    saves = sorted((run.paths.folder / "saves").iterdir())
    assert before == 3 and [path.name for path in saves] == ["step-00000002", "step-00000003"]
    (saves[-1] / checkpoint.TRAINING).write_bytes(b"torn")
    with ImageTrainer(run, bright) as trainer:
        assert trainer.resume() == 2
    assert "the save of step 3 is damaged" in capsys.readouterr().err
    (saves[0] / checkpoint.TRAINING).write_bytes(b"torn")
    with ImageTrainer(run, bright) as trainer, pytest.raises(IntegrityError):
        trainer.resume()


def test_a_step_is_the_same_in_smaller_parts_and_with_checkpointing(run_of: Callable[..., ImageRun]) -> None:
    made = []
    for name, changes in {"a": {}, "b": {"micro_batch_size": 1}, "c": {"gradient_checkpointing": True}}.items():
        with ImageTrainer(run_of(name, **changes), bright) as trainer:
            done = trainer.step(PROMPTS[:3], [1, 2, 3])
            made.append((done.loss, done.grad_norm))
    for other in made[1:]:
        assert other == pytest.approx(made[0], rel=1e-4)
    assert made[0][1] > 0


def test_the_average_is_that_of_diffusers(run_of: Callable[..., ImageRun]) -> None:
    with ImageTrainer(run_of(ema=0.7), bright) as trainer:
        expected: list[Tensor] | None = None
        for number in range(4):
            trainer.step(PROMPTS[:2], [1, 2])
            now = [weights.detach().clone() for weights in trainer.weights.values()]
            decay = min(0.7, (1 + number) / (10 + number)) if number else 0.0
            expected = [(1 - decay) * new + decay * old for new, old in zip(now, expected or now, strict=True)]
        assert expected is not None
        for shadow, one in zip(trainer.published().values(), expected, strict=True):
            torch.testing.assert_close(shadow, one)
        assert any(not torch.equal(one, now[place]) for place, one in enumerate(expected))


def test_the_reward_grows_and_the_base_holds_it_back(run_of: Callable[..., ImageRun]) -> None:
    gained, apart = {}, {}
    for kl in (0.0, 1.0):
        changes = {"settings": {"kl_coefficient": kl, "truncation_steps": 2}, "sampler": {"steps": 2, "guidance": 2.0}}
        with ImageTrainer(run_of(f"kl{kl:g}", **changes), bright) as trainer:
            rewards = [trainer.step(PROMPTS[:2], [1, 2]) for _ in range(6)]
        gained[kl] = rewards[-1].figures["reward"] - rewards[0].figures["reward"]
        apart[kl] = rewards[-1].figures["kl"]
    assert gained[0.0] > gained[1.0] > 0 and apart[0.0] == 0 < apart[1.0]


def test_adapters_are_asked_exported_and_loaded_by_diffusers(
    base: str, run_of: Callable[..., ImageRun], prompts: Dataset
) -> None:
    scheduler = "euler" if base.endswith("xl") else "ddim"
    run = run_of(base=base, max_steps=3, sampler={"steps": 3, "guidance": 2.0, "scheduler": scheduler})
    loop.train(run, prompts, bright, "k" * 64)
    out = f"{run.paths.out}.diffusers"
    beside = Path(base, "text_encoder", "pytorch_model.ckpt")
    beside.write_bytes(b"a pickle")
    manifest = export(run.paths.out, out, task_key="e" * 64, say=lambda line: None)
    assert manifest.kind == "export" and read_manifest(out) == manifest
    beside.unlink()
    assert not [file.path for file in manifest.files if not file.path.endswith((".safetensors", ".json", ".txt"))]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out, use_safetensors=True)
    kind = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}[scheduler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "red", num_inference_steps=3, guidance_scale=2.0, generator=torch.Generator().manual_seed(5), output_type="np"
    ).images[0]
    sampling = type(
        "Sampling", (), {**vars(Sampler(steps=3, guidance=2.0, scheduler=scheduler)), "annealing": "draft"}
    )()  # type: ignore[arg-type]
    drawn = {place: ImageModel(place).draw(["red"], [5], sampling)[0] for place in (run.paths.out, out, base)}
    assert drawn[base].png != drawn[run.paths.out].png and drawn[base].width == 16  # type: ignore[union-attr]
    from trainers.images.pixels import pixels_of

    for place in (run.paths.out, out):
        ours = pixels_of([drawn[place].png])[0].permute(1, 2, 0).numpy()  # type: ignore[union-attr]
        assert abs(ours - theirs).max() < 1.2 / 255
    rows = {"prompt": ["red"], "image": [drawn[base].png]}  # type: ignore[union-attr]
    number = ImageScorer(bright).score(pa.table(rows))["reward"][0].as_py()
    assert number == pytest.approx(float(pixels_of(rows["image"])[0].mean()))  # type: ignore[arg-type]


def test_adapters_know_their_base(run_of: Callable[..., ImageRun], sd: str, tmp_path: Path) -> None:
    other = str(tmp_path / "base")
    shutil.copytree(sd, other)
    run = run_of(base=other)
    with ImageTrainer(run, bright) as trainer:
        trainer.step(PROMPTS[:1], [1])
        trainer.save(checkpoint.Claims())
    saved = checkpoint.open_checkpoint(run.paths.out)
    assert saved.base_folder == other
    weights = next(Path(other, "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({name: one + 1 for name, one in tensors.items()}, weights)
    with pytest.raises(IntegrityError, match="is another by now"):
        _ = saved.base_folder
    shutil.rmtree(other)
    with pytest.raises(IntegrityError, match="is not there"):
        _ = saved.base_folder


def test_rewards_that_nothing_can_be_learnt_from(run_of: Callable[..., ImageRun]) -> None:
    wrong = {
        "a list": lambda pixels, prompts: [0.0] * len(prompts),
        "one number": lambda pixels, prompts: pixels.mean(),
        "no gradient": lambda pixels, prompts: pixels.mean((1, 2, 3)).detach(),
    }

    def fails(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        raise KeyError("\x1b[31m")

    with ImageTrainer(run_of("fails"), fails) as trainer, pytest.raises(ConfigError, match="fails failed") as error:
        trainer.step(PROMPTS[:2], [1, 2])
    line = f"(line {fails.__code__.co_firstlineno + 1} of {__file__})"
    assert error.value.found.startswith("KeyError") and line in error.value.found and "\x1b" not in error.value.found
    image = {"prompt": ["red"], "image": [png_of(torch.zeros(3, 8, 8))]}
    for scored in (lambda pixels, prompts: pixels.mean(), lambda pixels, prompts: pixels.mean((1, 2, 3)).repeat(2)):
        with pytest.raises(ConfigError, match="gives no number an image"):
            ImageScorer(scored).score(pa.table(image))
    for name, reward in wrong.items():
        with ImageTrainer(run_of(name), reward) as trainer, pytest.raises(ConfigError, match="cannot be learnt from"):  # type: ignore[arg-type]
            trainer.step(PROMPTS[:2], [1, 2])
    with ImageTrainer(run_of(), lambda pixels, prompts: pixels.mean((1, 2, 3)) / 0) as trainer:
        before = [weights.detach().clone() for weights in trainer.weights.values()]
        with pytest.raises(HealthError, match="loss of step 1"):
            trainer.step(PROMPTS[:2], [1, 2])
        assert all(torch.equal(one, now) for one, now in zip(before, trainer.weights.values(), strict=True))


def _settings(folder: Path, part: str, **changed: Any) -> None:
    names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    at = folder / part / names.get(part, "config.json")
    at.write_text(json.dumps(json.loads(at.read_text()) | changed))


def test_settings_choose_no_code(sd: str, tmp_path: Path) -> None:
    at = tmp_path / "sd"
    shutil.copytree(sd, at)
    _settings(at, "text_encoder", _attn_implementation="somebody/kernels")
    network = open_network(str(at), Sampler(steps=1))
    assert network.pipeline.text_encoder.config._attn_implementation == "sdpa"


def test_a_run_does_not_go_on_with_another_reward(run_of: Callable[..., ImageRun]) -> None:
    with ImageTrainer(run_of(reward="mine:one"), bright) as trainer:
        trainer.step(PROMPTS[:2], [1, 2])
        trainer.save_state()
    for changed in ({"reward": "mine:two"}, {"reward": "mine:one", "task_key": "l" * 64}):
        with (
            ImageTrainer(run_of(**changed), bright) as trainer,
            pytest.raises(ConfigError, match="another base, reward"),
        ):
            trainer.resume()


def test_grey_pictures_of_16_bits_keep_their_light() -> None:
    import io

    import numpy as np
    from PIL import Image

    from trainers.images.pixels import pixels_of

    grey, file = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8), io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    [pixels] = pixels_of([file.getvalue()])
    expected = torch.from_numpy(grey.astype("float32") / 65535).expand(3, 8, 8)
    torch.testing.assert_close(pixels, expected)


def test_folders_that_are_not_read(sd: str, tmp_path: Path) -> None:
    changes: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
        "the pipeline is StableDiffusion3Pipeline": lambda at, index: index.update(
            _class_name="StableDiffusion3Pipeline"
        ),
        "unet is": lambda at, index: index.update(unet=["os", "system"]),
        "vae is": lambda at, index: index.update(vae=["diffusers", "AutoencoderTiny"]),
        "unet has no weights": lambda at, index: [
            one.rename(one.with_suffix(".bin")) for one in at.glob("unet/*.safetensors")
        ],
        "text_encoder is": lambda at, index: index.pop("text_encoder"),
        "text_encoder is ['transformers', ['CLIPTextModel']]": lambda at, index: index.update(
            text_encoder=["transformers", ["CLIPTextModel"]]
        ),
        "scheduler is ['antigravity', 'fly']": lambda at, index: index.update(scheduler=["antigravity", "fly"]),
        "scheduler is ['diffusers', 'UNet2DConditionModel']": lambda at, index: index.update(
            scheduler=["diffusers", "UNet2DConditionModel"]
        ),
        "scheduler is None": lambda at, index: index.pop("scheduler"),
        "force_zeros": lambda at, index: index.update(force_zeros_for_empty_prompt="no"),
        "unet/config.json has quantization_config": lambda at, index: _settings(at, "unet", quantization_config={}),
        "text_encoder/config.json has auto_map": lambda at, index: _settings(at, "text_encoder", auto_map={}),
        "text_encoder has adapter_config.json": lambda at, index: (at / "text_encoder/adapter_config.json").touch(),
    }
    for number, (what, change) in enumerate(changes.items()):
        at = tmp_path / str(number)
        shutil.copytree(sd, at)
        index = json.loads((at / "model_index.json").read_text())
        change(at, index)
        (at / "model_index.json").write_text(json.dumps(index))
        for reads in (read_index, base_digest, lambda place: open_network(place, Sampler())):
            with pytest.raises(ConfigError) as error:
                reads(str(at))
            assert error.value.found.startswith(what), error.value.found
    settings = {
        "prediction_type": ("scheduler", {"prediction_type": "sample"}),
        "nowhere is not supported": ("scheduler", {"timestep_spacing": "nowhere"}),
        "unet without": ("unet", {"time_cond_proj_dim": 8}),
        "sample_size": ("unet", {"sample_size": None}),
        "scaling_factor": ("vae", {"scaling_factor": 0}),
        "integer modulo by zero": ("text_encoder", {"num_attention_heads": 0}),
        "tokenizer of 99 tokens": ("tokenizer", {"model_max_length": 99}),
    }
    for what, (part, changed) in settings.items():
        at = tmp_path / what
        shutil.copytree(sd, at)
        _settings(at, part, **changed)
        with pytest.raises(ConfigError) as error:
            open_network(str(at), Sampler())
        assert what in error.value.found
    with pytest.raises(ConfigError, match="more than the 1000 steps"):
        open_network(sd, Sampler(steps=1001))
    shutil.copytree(sd, tmp_path / "torn")
    next((tmp_path / "torn/unet").glob("*.safetensors")).write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ConfigError, match="no Stable Diffusion folder"):
        open_network(str(tmp_path / "torn"), Sampler())
    (tmp_path / "0" / "model_index.json").write_text("{")
    with pytest.raises(ConfigError, match="no Stable Diffusion folder"):
        read_index(str(tmp_path / "0"))


def test_every_epoch_has_every_prompt_in_an_order_of_its_own() -> None:
    taken = [one for step in range(5) for one in prompts_of(step, 4, 10, seed=3)]
    for epoch in (0, 1):
        assert sorted(place for place, of in taken if of == epoch) == [*range(10)]
    assert [place for place, of in taken if of == 0] != [place for place, of in taken if of == 1]
    assert taken == [one for step in range(5) for one in prompts_of(step, 4, 10, seed=3)]


def test_sizes_of_images_are_settings(sd: str) -> None:
    network = open_network(sd, Sampler(steps=1, guidance=1.0, width=24, height=8))
    latents = denoise(network, network.conditions(["a"]), [1])
    assert network.decode(latents).shape == (1, 3, 8, 24)
