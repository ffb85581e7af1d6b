"""generate.image: images that a diffusion model draws of prompts, each from a seed of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from datakit.clients.images import ImageGenerator, ImageSampling
from datakit.clients.protocols import no_client
from datakit.op import REJECTION_COLUMNS, Context, Expand, Result, Size
from schemas import IMAGES, Schema
from schemas.canonical import json_digest
from schemas.rows.images import IMAGE_COLUMNS, IMAGE_PROMPT

_BYTES_PER_PIXEL = 1.5
"""Of a PNG file of a picture, about."""
_PIXELS = 512 * 512


@dataclass(frozen=True, kw_only=True)
class Image(Expand):
    """Each prompt becomes `sampling.images_per_prompt` images; one whose pixels are not finite is a rejected row.

    An image's seed is a function of the run's seed, its `prompt_id` and its number, and not of the model: two models
    are compared by images that begin with the same noise.
    """

    name: ClassVar[str] = "generate.image"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("image_generator",)
    paid: ClassVar[bool] = True

    sampling: ImageSampling = field(default_factory=ImageSampling)
    rows_per_chunk: int = 8

    @property
    def takes(self) -> Schema:
        """The prompt and its name."""
        return IMAGES.selecting("prompt_id", "prompt")

    def gives(self, *inputs: Schema) -> Schema:
        """The prompt's columns and those of its image."""
        return inputs[0].adding(*IMAGE_COLUMNS).renamed(IMAGES.name, version=IMAGES.version, key=IMAGES.key)

    def grown(self, given: Size) -> Size:
        drawn = given.times(self.sampling.images_per_prompt)
        pixels = (self.sampling.width or 0) * (self.sampling.height or 0) or _PIXELS
        return Size(drawn.rows, drawn.bytes + drawn.rows * pixels * _BYTES_PER_PIXEL)

    def expand(self, rows: pa.Table, ctx: Context) -> Result:
        """Ask, and join what comes to the prompts."""
        generator = ctx.resources["image_generator"]
        if not isinstance(generator, ImageGenerator):
            raise no_client(generator, ImageGenerator)
        each = self.sampling.images_per_prompt
        places = [row for row in range(rows.num_rows) for _ in range(each)]
        numbers = [number for _ in range(rows.num_rows) for number in range(each)]
        table = rows.take(pa.array(places, pa.int64()))
        names = table["prompt_id"].to_pylist()
        seeds = [_seed(ctx.seed, name, number) for name, number in zip(names, numbers, strict=True)]
        drawn = generator.draw(table[IMAGE_PROMPT.name].to_pylist(), seeds, self.sampling)
        assert len(drawn) == len(seeds), f"asked {len(seeds)} images, got {len(drawn)}"
        drawn_by = json_digest([ctx.keys["image_generator"], self.sampling])
        columns = {
            "image_id": [image_id(name, drawn_by, seed) for name, seed in zip(names, seeds, strict=True)],
            "image_index": numbers,
            "seed": seeds,
            "image": [None if one is None else one.png for one in drawn],
            "width": [None if one is None else one.width for one in drawn],
            "height": [None if one is None else one.height for one in drawn],
        }
        for name, values in columns.items():
            table = table.drop_columns([name] if name in table.column_names else [])
            table = table.append_column(name, pa.array(values, IMAGES[name].type))
        there = pa.array([one is not None for one in drawn])
        return Result(table.filter(there), _rejected(table.filter(pa.array([one is None for one in drawn]))))


def _rejected(table: pa.Table) -> pa.Table:
    table = table.drop_columns(["image", "width", "height"])
    values = ("pixels-not-finite", None, "finite")
    for column, value in zip(REJECTION_COLUMNS, values, strict=True):
        table = table.append_column(column.name, pa.array([value] * table.num_rows, column.type))
    return table


def _seed(seed: int, prompt_id: str, number: int) -> int:
    text = f"{seed}\x1fimage\x1f{prompt_id}\x1f{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def image_id(prompt_id: str, drawn_by: str, seed: int) -> str:
    """The id of an image: 128 bits of SHA-256 over its prompt, what drew it and its seed, in hex."""
    return hashlib.sha256(f"image\x1f{prompt_id}\x1f{drawn_by}\x1f{seed}".encode()).hexdigest()[:32]
