"""The sampler against diffusers' own pipeline, and the loss of DRaFT+ against autograd written out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from schemas.errors import ConfigError
from trainers.images import lora, sampling
from trainers.images.algorithm import Drawn, Plan
from trainers.images.algorithms.draft_plus import Settings, loss, plan
from trainers.images.config import Lora, Sampler
from trainers.images.network import DiffusionNetwork
from trainers.images.opening import open_network
from trainers.images.registry import configured

PROMPTS, SEEDS = ["a red square", "blue"], [3, 4]
SCHEDULERS = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}


def adapted(folder: str, **settings: Any) -> DiffusionNetwork:
    """A network whose adapters differ from the base."""
    network = open_network(folder, Sampler(**settings))
    lora.attach(network.unet, Lora(rank=2, alpha=4.0), seed=1)
    for number, weights in enumerate(lora.parameters(network.unet).values()):
        torch.nn.init.normal_(weights, std=0.3, generator=torch.Generator().manual_seed(number))
    return network


def drawn_by_diffusers(folder: str, **settings: Any) -> Tensor:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    kind, config = SCHEDULERS[settings["scheduler"]], pipeline.scheduler.config
    pipeline.scheduler = kind.from_config(config, clip_sample=config.get("clip_sample", False))
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        PROMPTS, num_inference_steps=settings["steps"], guidance_scale=settings["guidance"], output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    )  # fmt: skip
    images: Tensor = made.images
    return images


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_base_draws_what_diffusers_draws(base: str, scheduler: str, guidance: float) -> None:
    given: dict[str, Any] = {"scheduler": scheduler, "steps": 4, "guidance": guidance}
    network, theirs = adapted(base, **given), drawn_by_diffusers(base, **given)
    conditions = network.conditions(PROMPTS)
    latents = sampling.denoise(network, conditions, SEEDS, sampling.weight_of("base"))
    torch.testing.assert_close(network.decode(latents).clamp(0, 1), theirs, atol=1e-5, rtol=0)
    others = network.decode(sampling.denoise(network, conditions, SEEDS)).clamp(0, 1)
    assert (others - theirs).abs().max() > 1e-2, "the adapters change nothing"
    alone = sampling.denoise(network, network.conditions(PROMPTS[1:]), SEEDS[1:])
    torch.testing.assert_close(network.decode(alone).clamp(0, 1), others[1:], atol=1e-5, rtol=0)


def brightness(pixels: Tensor) -> Tensor:
    """A reward with a curve in it."""
    return (pixels.mean((1, 2, 3)) + pixels.square().mean((1, 2, 3))) * 3


def written_out(network: DiffusionNetwork, base: Any, steps: int, last: int, kl: float, velocity: bool) -> Tensor:
    """DRaFT+ with DDIM by its formulas: `base` is a UNet of its own; gradients through the `last` of `steps` steps.
    `velocity`: the networks say v = sqrt(a) noise - sqrt(1 - a) image, which is solved for the noise.
    """
    pipeline, guidance = network.pipeline, network.sampler.guidance
    with torch.no_grad():
        text, empty = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    alphas = pipeline.scheduler.alphas_cumprod.double()
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    latents, apart = latents.double(), torch.zeros(2, dtype=torch.float64)

    def guided(unet: Any, at: int) -> Tensor:
        without, with_text = (unet(latents, at, encoder_hidden_states=read).sample for read in (empty, text))
        guided_by = without + guidance * (with_text - without)
        return alphas[at].sqrt() * guided_by + (1 - alphas[at]).sqrt() * latents if velocity else guided_by

    for number in range(steps):
        at = (steps - 1 - number) * (1000 // steps) + 1  # leading, with an offset of 1
        before = at - 1000 // steps
        if number < steps - last:
            latents = latents.detach()
        noise = guided(network.unet, at)
        if number >= steps - last:
            with torch.no_grad():
                of_base = guided(base, at)
            apart = apart + ((noise - of_base) ** 2).mean((1, 2, 3)) / last
        alpha, alpha_before = alphas[at], alphas[before] if before >= 0 else alphas[0]
        clean = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        latents = alpha_before.sqrt() * clean + (1 - alpha_before).sqrt() * noise
        if number < steps - last:
            latents = latents.detach()
    pixels = (network.vae.decode(latents / network.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    return -brightness(pixels) + kl * apart


def of_velocity(folder: str, place: Path) -> str:
    """The same model whose network is taken to say velocities."""
    shutil.copytree(folder, place)
    settings = place / "scheduler/scheduler_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"prediction_type": "v_prediction"}))
    return str(place)


def images_of(folder: str, scheduler: str, steps: int = 12) -> Tensor:
    network = open_network(folder, Sampler(scheduler=scheduler, steps=steps, guidance=5.0))  # type: ignore[arg-type]
    return network.decode(sampling.denoise(network, network.conditions(PROMPTS), SEEDS)).clamp(0, 1)


def test_both_samplers_take_the_same_way(xl: str) -> None:
    """DDIM and Euler are one equation in two variables; a folder of Euler's says nothing of what DDIM could cut."""
    assert "clip_sample" not in json.loads((Path(xl) / "scheduler/scheduler_config.json").read_text())
    torch.testing.assert_close(images_of(xl, "ddim"), images_of(xl, "euler"), atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_what_the_pipeline_puts_right_counts(sd: str, tmp_path: Path) -> None:
    """Settings that old folders lack, of which diffusers' pipeline knows what they should have been."""
    folder = tmp_path / "old"
    shutil.copytree(sd, folder)
    settings = folder / "scheduler/scheduler_config.json"
    kept = {name: value for name, value in json.loads(settings.read_text()).items()
            if name not in ("clip_sample", "steps_offset")}  # fmt: skip
    settings.write_text(json.dumps(kept))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS, num_inference_steps=12, guidance_scale=5.0, output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    )  # fmt: skip
    torch.testing.assert_close(images_of(str(folder), "ddim"), theirs.images, atol=1e-4, rtol=0)


def test_folders_are_read_as_diffusers_writes_them(sd: str, tmp_path: Path) -> None:
    """With bounds that are infinite in the scheduler's settings, and encoders that are said to be of halves."""
    folder = tmp_path / "solver"
    shutil.copytree(sd, folder)
    own = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    diffusers.DPMSolverMultistepScheduler.from_config(own).save_pretrained(str(folder / "scheduler"))
    assert "-Infinity" in (folder / "scheduler/scheduler_config.json").read_text()
    index = folder / "model_index.json"
    named = json.loads(index.read_text()) | {"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}
    index.write_text(json.dumps(named))
    encoder = folder / "text_encoder/config.json"
    encoder.write_text(json.dumps(json.loads(encoder.read_text()) | {"dtype": "float16"}))
    torch.testing.assert_close(images_of(str(folder), "ddim"), images_of(sd, "ddim"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize(("last", "kl"), [(1, 0.3), (2, 0.3), (4, 0.3), (4, 0.0)])
def test_loss_and_gradient_are_those_of_autograd_written_out(
    sd: str, tmp_path: Path, last: int, kl: float, velocity: bool
) -> None:
    sd = of_velocity(sd, tmp_path / "v") if velocity else sd
    network = adapted(sd, steps=4, guidance=3.0)
    network.pipeline.to(torch.float64)
    network.scheduler.alphas_cumprod = network.scheduler.alphas_cumprod.double()
    network.scheduler.final_alpha_cumprod = network.scheduler.final_alpha_cumprod.double()
    base = diffusers.UNet2DConditionModel.from_pretrained(sd, subfolder="unet").double()
    weights = list(lora.parameters(network.unet).values())
    settings = Settings(kl_coefficient=kl, truncation_steps=last)
    draws = sampling.draw(network, network.conditions(PROMPTS), SEEDS, plan(settings))
    rewards = brightness(network.decode(draws.latents[0]).clamp(0, 1))
    ours, theirs = loss(settings, Drawn(rewards, draws.kl_B)), written_out(network, base, 4, last, kl, velocity)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-6)
    gradients = [torch.autograd.grad(values.mean(), weights) for values in (ours, theirs)]
    assert all(bool((one != 0).any()) for one in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)
    assert bool((draws.kl_B > 0).all()) == (kl > 0)


def test_the_distance_is_that_of_noise_whatever_a_network_says(sd: str, tmp_path: Path) -> None:
    """Euler and DDIM see the same first latents but for their scale: so both distances are the same."""
    folder, apart = of_velocity(sd, tmp_path / "v"), []
    for scheduler in SCHEDULERS:
        network = adapted(folder, scheduler=scheduler, steps=1, guidance=3.0)
        apart.append(sampling.draw(network, network.conditions(PROMPTS), SEEDS, Plan()).kl_B)
    torch.testing.assert_close(*apart, rtol=1e-4, atol=0)


def test_a_prompt_that_is_not_read_to_its_end_is_warned_of_once(sd: str, capfd: pytest.CaptureFixture[str]) -> None:
    network = open_network(sd, Sampler(steps=1, guidance=1.0))
    for _ in range(2):
        network.conditions(["red", "\x1b[31m" + "red " * 9])
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1 and "of which 16 are read" in errors and "\x1b" not in errors


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_renoised_images_are_one_step_from_the_finished_one(sd: str, scheduler: str) -> None:
    network = adapted(sd, scheduler=scheduler, steps=4, guidance=3.0)
    conditions = network.conditions(PROMPTS)
    finished = sampling.denoise(network, conditions, SEEDS)
    draws = sampling.draw(network, conditions, SEEDS, Plan(renoised=2))
    assert len(draws.latents) == 2 and all(one.requires_grad for one in draws.latents)
    one, other = draws.latents
    assert not torch.equal(one, other) and not torch.equal(one, finished)
    again = sampling.draw(network, conditions, SEEDS, Plan(renoised=2)).latents[0]
    assert torch.equal(one, again)
    gradients = torch.autograd.grad(one.sum(), list(lora.parameters(network.unet).values()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_the_weights_of_annealed_guidance() -> None:
    shares = (0.0, 0.5, 0.75)
    worked = {
        "base": (0, 0, 0),
        "draft": (1, 1, 1),
        "linear": shares,
        "power_2": (0, 0.25, 0.5625),
        "step_0.6": (0, 0, 1),
    }
    for kind, values in worked.items():
        assert tuple(map(sampling.weight_of(kind), shares)) == values, kind
    for wrong in ("cubic", "power", "power_-1", "step_2", "base_1", "step_x"):
        with pytest.raises(ConfigError, match="annealing"):
            sampling.weight_of(wrong)


def test_annealed_guidance_mixes_the_noise_of_both(sd: str) -> None:
    network = adapted(sd, steps=2, guidance=3.0)
    conditions = network.conditions(PROMPTS)
    mixed = sampling.denoise(network, conditions, SEEDS, sampling.weight_of("linear"))
    (latents, steps), scheduler = network.start(SEEDS), network.scheduler
    with torch.no_grad():
        for at, share in zip(steps, (0.0, 0.5), strict=True):
            both = [network.predict(latents, at, conditions, base=base) for base in (True, False)]
            latents = scheduler.step((1 - share) * both[0] + share * both[1], at, latents).prev_sample
    torch.testing.assert_close(mixed, latents)


def test_draft_and_its_low_variance_form_are_settings() -> None:
    for name, settings in {
        "draft": Settings(kl_coefficient=0.0),
        "draft_lv": Settings(kl_coefficient=0.0, renoised=2),
    }.items():
        assert configured(name, {}) == (configured("draft_plus", {})[0], settings)
        assert not plan(settings).asks_base
    with pytest.raises(ConfigError, match="no algorithm drift"):
        configured("drift", {})
    with pytest.raises(ConfigError, match="truncation_steps 0 is below 1"):
        configured("draft", {"truncation_steps": 0})


def test_merged_adapters_say_what_they_said_beside(base: str) -> None:
    network = adapted(base, steps=2, guidance=2.0)
    conditions = network.conditions(PROMPTS)
    before = sampling.denoise(network, conditions, SEEDS)
    lora.merge(network.unet)
    assert not any(isinstance(module, lora.LoraLinear) for module in network.unet.modules())
    torch.testing.assert_close(sampling.denoise(network, conditions, SEEDS), before, atol=1e-4, rtol=1e-4)
