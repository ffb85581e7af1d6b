"""An image that was drawn of a prompt, and two images of one prompt with what people think of them."""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column, Schema

IMAGE_PROMPT = Column("prompt", pa.string(), "the text that the image is drawn of")

IMAGE_COLUMNS = (
    IMAGE_PROMPT,
    Column("image_id", pa.string(), "function of prompt, model, sampler, seed and number"),
    Column("image_index", pa.int32(), "0 .. images per prompt - 1"),
    Column("seed", pa.int64(), "what its first noise was drawn from"),
    Column("image", pa.binary(), "the image, a PNG file"),
    Column("width", pa.int32(), "pixels"),
    Column("height", pa.int32(), "pixels"),
)

IMAGES = Schema(
    "images",
    1,
    (
        Column("prompt_id", pa.string(), "the question"),
        *IMAGE_COLUMNS,
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("image_id",),
)

IMAGE_PREFERENCES = Schema(
    "image_preferences",
    1,
    (
        Column("pair_id", pa.string(), "function of prompt and both images"),
        IMAGE_PROMPT,
        Column("image_0", pa.binary(), "one image, a PNG or JPEG file"),
        Column("image_1", pa.binary(), "the other"),
        Column("label_0", pa.float64(), "share of the preference that the one has; 0.5 is a tie", finite=True),
        Column("label_1", pa.float64(), "the rest, that the other has", finite=True),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("pair_id",),
)
