"""generate.image: an image of each prompt and number, from seeds that no model decides."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pyarrow as pa
import pytest

from datakit.clients.images import DrawnImage, ImageSampling
from datakit.generate import Image
from datakit.op import Context
from datakit.run.resource import Resource
from schemas import IMAGES
from schemas.errors import ConfigError
from tests.datakit.fakes import Example


class Painter:
    """Draws text: the prompt and its seed. Nothing of prompts with an x."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], sampling: ImageSampling) -> list[DrawnImage | None]:
        drawn = [DrawnImage(f"{prompt} {seed}".encode(), 4, 2) for prompt, seed in zip(prompts, seeds, strict=True)]
        return [None if b"x" in one.png else one for one in drawn]


def painter(key: str = "painter") -> dict[str, Resource]:
    return {"image_generator": Resource(key, functools.partial(Painter))}


def asked(*texts: str) -> pa.Table:
    names = [f"p{place}" for place in range(len(texts))]
    schema = IMAGES.selecting("prompt_id", "prompt")
    return pa.table({"prompt_id": names, "prompt": list(texts)}, schema=schema.arrow)


EXAMPLES = [
    Example(Image(rows_per_chunk=2, sampling=ImageSampling(images_per_prompt=2)), (asked(*"abcxef"),), painter())
]


def context(key: str = "painter", seed: int = 0) -> Context:
    return Context(seed=seed, resources={"image_generator": Painter()}, keys={"image_generator": key})


def test_seeds_follow_from_run_prompt_and_number_and_ids_from_the_model_too() -> None:
    op = Image(sampling=ImageSampling(images_per_prompt=2))
    rows, again = (op.expand(asked("a", "b"), context(key)).rows for key in ("painter", "other"))
    assert rows["seed"].to_pylist() == again["seed"].to_pylist() and len({*rows["seed"].to_pylist()}) == 4
    assert not {*rows["image_id"].to_pylist()} & {*again["image_id"].to_pylist()}
    assert rows["image"].to_pylist() == [
        f"{p} {s}".encode() for p, s in zip("aabb", rows["seed"].to_pylist(), strict=True)
    ]
    assert rows["image_index"].to_pylist() == [0, 1, 0, 1] and rows["width"].to_pylist() == [4] * 4
    assert op.expand(asked("a", "b"), context(seed=1)).rows["seed"] != rows["seed"]
    assert (
        op.expand(asked("a", "b").slice(1), context()).rows["image_id"].to_pylist() == rows["image_id"].to_pylist()[2:]
    )


def test_an_image_without_pixels_is_a_rejected_row() -> None:
    made = Image().expand(asked("a", "x"), context())
    assert made.rows["prompt"].to_pylist() == ["a"]
    assert made.rejected is not None and made.rejected["reason"].to_pylist() == ["pixels-not-finite"]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"steps 0 is below 1; width 20 is no multiple of 8"):
        ImageSampling(steps=0, width=20)
