"""The key-value cache of a decoding batch: one row of slots per answer, each row at its own length.

A prompt is read packed (`read_prompts`), its keys and values are copied to the rows of all its samples
(`place`), and every further token is written at its row's own position (`begin_step`). No row is padded on
the left and a finished row can be given to the next prompt at once.

Tensor suffixes: t tokens of a packed batch, b rows, s positions, g key-value heads, d head size.
"""

from __future__ import annotations

import torch
from megatron.core.inference.contexts import BaseInferenceContext
from torch import Tensor


class Cache(BaseInferenceContext):
    """Rotated keys and values of `rows` answers of up to `length` tokens, per layer as [b, g, s, d].

    `window` last tokens are seen (None: all).
    """

    def __init__(self, rows: int, length: int, window: int | None = None) -> None:
        super().__init__(materialize_only_last_token_logits=False)
        self.rows, self.slots, self.length, self.window = rows, rows, length, window
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._read: dict[int, tuple[Tensor, Tensor]] | None = None
        self._all = torch.arange(rows)
        self._positions_b = torch.zeros(0, dtype=torch.long)
        self._seen = 0
        self.hidden_mask = torch.zeros(0)

    def is_static_batching(self) -> bool:
        """Megatron's name for "not its own dynamic engine"."""
        return True

    def is_decode_only(self) -> bool:
        """Whether the next forward pass reads one token per row."""
        return self._read is None

    def read_prompts(self) -> None:
        """The next forward pass reads a packed batch of prompts."""
        self._read = {}

    def place(self, rows_r: Tensor, index_rl: Tensor) -> None:
        """Copy what was read to the given rows; `index_rl` names the packed token of each position."""
        assert self._read, "no prompts were read"
        rows, length = index_rl.shape
        for number, pair in self._read.items():
            for store, fresh_tgd in zip(self._layer(number, pair[0]), pair, strict=True):
                fresh = fresh_tgd.index_select(0, index_rl.reshape(-1)).view(rows, length, *fresh_tgd.shape[1:])
                store[rows_r, :, :length] = fresh.transpose(1, 2)
        self._read = None

    def begin_step(self, positions_b: Tensor, seen: int) -> None:
        """The next pass reads one token per row at `positions_b`; no position reaches `seen`."""
        self._positions_b, self._seen = positions_b, seen
        ahead = torch.arange(seen, device=positions_b.device) - positions_b[:, None]
        hidden = ahead > 0 if self.window is None else (ahead > 0) | (ahead <= -self.window)
        self.hidden_mask = hidden[:, None, None]

    def keep(self, rows_r: Tensor) -> None:
        """Keep these rows alone, in this order."""
        self.rows = self.slots = len(rows_r)
        self._all = torch.arange(self.rows, device=rows_r.device)
        for number, (keys, values) in self.layers.items():
            self.layers[number] = keys.index_select(0, rows_r), values.index_select(0, rows_r)

    def extend(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Called by layer `number` with the pass's rotated keys and its values; what its queries may look
        at.
        """
        if self._read is not None:
            self._read[number] = key[:, 0], value[:, 0]
            return key, value
        keys_bgsd, values_bgsd = self.layers[number]
        keys_bgsd[self._all, :, self._positions_b] = key[0]
        values_bgsd[self._all, :, self._positions_b] = value[0]
        keys_bgsd, values_bgsd = (each[: self.rows, :, : self._seen] for each in (keys_bgsd, values_bgsd))
        return keys_bgsd.permute(2, 0, 1, 3), values_bgsd.permute(2, 0, 1, 3)

    def _layer(self, number: int, like_tgd: Tensor) -> tuple[Tensor, Tensor]:
        if number not in self.layers:
            _, groups, size = like_tgd.shape
            shape = (self.slots, groups, self.length, size)
            self.layers[number] = like_tgd.new_zeros(shape), like_tgd.new_zeros(shape)
            self._all = self._all.to(like_tgd.device)
        return self.layers[number]


_LEAST_LENGTH = 64


class SlotCache(Cache):
    """A cache whose rows come and go: those in use stand in front, and its room grows with what is read."""

    def __init__(self, most: int, window: int | None = None) -> None:
        """most: rows in use at once."""
        super().__init__(0, 0, window)
        self.most = most

    def hold(self, rows: int, length: int) -> None:
        """So many `rows` are in use from now on, each with room for `length` positions; what stands in them stays."""
        slots = self.slots if rows <= self.slots else min(self.most, 1 << (rows - 1).bit_length())
        if length > self.length or slots > self.slots:
            length = self.length if length <= self.length else max(_LEAST_LENGTH, length + length // 4)
            for number, pair in self.layers.items():
                self.layers[number] = self._larger(pair[0], slots, length), self._larger(pair[1], slots, length)
            self.slots, self.length = slots, length
        if rows != self.rows:
            device = next((pair[0].device for pair in self.layers.values()), self._all.device)
            self.rows, self._all = rows, torch.arange(rows, device=device)

    def move(self, source: int, target: int, length: int) -> None:
        """The row `target` becomes the row `source`, of which `length` positions are used."""
        for pair in self.layers.values():
            for store in pair:
                store[target, :, :length] = store[source, :, :length]

    def clear(self) -> None:
        """Give all room back to the device."""
        self.layers.clear()
        self.rows = self.slots = self.length = 0

    def _larger(self, store_bgsd: Tensor, slots: int, length: int) -> Tensor:
        _, groups, _, size = store_bgsd.shape
        larger = store_bgsd.new_zeros(slots, groups, length, size)
        larger[: self.rows, :, : self.length] = store_bgsd[: self.rows]
        return larger
