"""label.image_reward: the number of a reward of images, under the name that is asked for."""

from __future__ import annotations

import functools

import pyarrow as pa
import pytest

from datakit.label import ImageReward
from datakit.op import Context
from datakit.run.resource import Resource
from schemas import IMAGES, Schema
from schemas.errors import ServiceError
from tests.datakit.fakes import Example

TAKES = IMAGES.selecting("prompt", "image")


class Sizes:
    """Bytes of a file, less letters of its prompt; none where there are no bytes."""

    takes: Schema = TAKES

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        pairs = zip(rows["image"].to_pylist(), rows["prompt"].to_pylist(), strict=True)
        return {"reward": pa.array([len(image) - len(text) if image else None for image, text in pairs], pa.float64())}


def drawn(*images: bytes) -> pa.Table:
    return pa.table({"prompt": ["ab"] * len(images), "image": list(images)}, schema=TAKES.arrow)


SCORER = {"image_scorer": Resource("sizes", functools.partial(Sizes), takes=TAKES)}
EXAMPLES = [Example(ImageReward(rows_per_chunk=2), (drawn(b"1", b"22", b"333"),), SCORER)]


def test_a_number_an_image_and_none_is_rejected() -> None:
    made = ImageReward(column="size").label(drawn(b"1234", b""), Context(resources={"image_scorer": Sizes()}))
    assert made.columns["size"].to_pylist() == [2.0, None]
    assert made.kept.keep.to_pylist() == [True, False]
    with pytest.raises(ServiceError):
        ImageReward(reads="beauty").label(drawn(b"1"), Context(resources={"image_scorer": Sizes()}))
