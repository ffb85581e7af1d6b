"""Pixels as PNG files and back.

Legend: B images, h and w pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.errors import DataError
from schemas.installed import missing_library

_MOST_PIXELS = 1 << 26
"""Of an image that is opened: a file of a few bytes may claim to be a picture of any size."""
_DEEP, _DEEPEST = ("I", "I;16", "I;16B", "I;16L"), 65535
"""Grey pictures of 16 bits, which pillow does not scale to 8: it cuts them."""


def png_of(pixels: Tensor) -> bytes:
    """The PNG file of one image [3, h, w] between 0 and 1, rounded to 8 bits as diffusers does it."""
    rounded = (pixels.detach().clamp(0, 1).permute(1, 2, 0).float().cpu().numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    _pillow().fromarray(rounded).save(file, format="PNG")
    return file.getvalue()


def pixels_of(files: Sequence[bytes]) -> list[Tensor]:
    """The pixels [3, h, w] between 0 and 1 of image files; `DataError` for one that is no PNG or JPEG."""
    return [_opened(place, data) for place, data in enumerate(files)]


def _opened(place: int, data: bytes) -> Tensor:
    try:
        with _pillow().open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            if image.mode in _DEEP:
                values = np.asarray(image, dtype=np.float32)[..., None].repeat(3, axis=-1) / _DEEPEST
            else:
                values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except Exception as error:  # whatever a decoder makes of a file from outside
        raise DataError(
            "bad-image",
            f"image {place} of those that are read together cannot be opened: {type(error).__name__}",
            expected=f"a PNG or JPEG file of at most {_MOST_PIXELS:,} pixels",
            kept="everything before it",
        ) from error
    return torch.from_numpy(values).permute(2, 0, 1)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise missing_library("an image", "pillow", "images", "nothing was started") from None
    return Image
