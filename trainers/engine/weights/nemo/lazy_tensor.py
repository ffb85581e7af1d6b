"""Tensors that lie somewhere, known by type and shape, and read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, ...]


class LazyTensor(Protocol):
    """A tensor that lies somewhere."""

    dtype: torch.dtype
    shape: Shape

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """The tensor, or its rows `first` up to `last`."""


class Joined:
    """One tensor of the parts that tensor ranks hold, along `dim`; `halves`: each has a gate's part over another's."""

    def __init__(self, parts: Sequence[LazyTensor], dim: int, halves: bool) -> None:
        first = parts[0]
        self._parts, self._dim, self._halves = parts, dim, halves
        self.dtype = first.dtype
        self.shape: Shape = tuple(
            sum(part.shape[place] for part in parts) if place == dim else size for place, size in enumerate(first.shape)
        )

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """The tensor, or its rows `first` up to `last`; beside it one part is in memory."""
        room, at = torch.empty(self.shape, dtype=self.dtype), 0
        for part in self._parts:
            tensor, size = part.read(), part.shape[self._dim]
            if self._halves:
                half, middle = size // 2, self.shape[0] // 2
                room[at : at + half], room[middle + at : middle + at + half] = tensor[:half], tensor[half:]
                at += half
            else:
                room.narrow(self._dim, at, size).copy_(tensor)
                at += size
        return room if last is None else room[first:last]


class FirstRows:
    """The first `rows` of a tensor: what stands behind the ids of a vocabulary only fills it up."""

    def __init__(self, whole: LazyTensor, rows: int) -> None:
        self._whole = whole
        self.dtype, self.shape = whole.dtype, (rows, *whole.shape[1:])

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """Those rows, or of them `first` up to `last`."""
        return self._whole.read(first, self.shape[0] if last is None else last)


class Moved:
    """A small tensor with numbers added to it, in fp32."""

    def __init__(self, whole: LazyTensor, by: Tensor) -> None:
        self._whole, self._by = whole, by
        self.dtype, self.shape = torch.float32, whole.shape

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """The sum, or its rows `first` up to `last`."""
        return (self._whole.read().double() + self._by).float()[first:last]


@dataclass(frozen=True)
class Box:
    """A part of a tensor, from `offset` on; `read` gives its rows `first` up to `last`."""

    offset: Shape
    size: Shape
    read: Callable[[int, int], Tensor]


class Region:
    """What lies at `index` of the first dimensions of a tensor of `size` that is kept in boxes."""

    def __init__(self, size: Shape, dtype: torch.dtype, boxes: Sequence[Box], index: Shape = ()) -> None:
        self.dtype, self.shape = dtype, size[len(index) :]
        begin = (*index, *(0 for _ in self.shape))
        end = tuple(place + 1 for place in index) + self.shape
        self._begin, self._end = begin, end
        self._boxes = [box for box in boxes if _overlaps(box, begin, end)]

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """The region, or its rows `first` up to `last`; beside it one box is in memory."""
        size = [end - begin for begin, end in zip(self._begin, self._end, strict=True)]
        room = torch.empty(size, dtype=self.dtype)
        for box in self._boxes:
            ends = [min(a + s, end) for a, s, end in zip(box.offset, box.size, self._end, strict=True)]
            begins = [max(a, begin) for a, begin in zip(box.offset, self._begin, strict=True)]
            rows = [(begin - a, end - a) for a, begin, end in zip(box.offset, begins, ends, strict=True)]
            part = box.read(*rows[0])[(slice(None), *(slice(*pair) for pair in rows[1:]))]
            room[tuple(slice(a - at, b - at) for a, b, at in zip(begins, ends, self._begin, strict=True))] = part
        whole = room.reshape(self.shape)
        return whole if last is None else whole[first:last]


def _overlaps(box: Box, begin: Shape, end: Shape) -> bool:
    return all(a < stop and a + s > start for a, s, start, stop in zip(box.offset, box.size, begin, end, strict=True))
