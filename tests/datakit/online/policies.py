"""A stand-in for the networks of an online run."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datakit.run.resource import Resource

PER_ID = {"old_logprobs": -0.125, "ref_logprobs": -0.25}
"""Nats for each number of a token's id, by column."""


class OwnNetworks:
    """Says of a token `PER_ID` times its id, nan of the id `odd`, and nothing of the last row where it is `silent`."""

    version = 7

    def __init__(self, odd: int = -1, silent: bool = False) -> None:
        self.odd, self.silent = odd, silent

    def logprobs(self, column: str, rows: Sequence[np.ndarray]) -> pa.Array:
        nats = [[0.0, *(np.nan if i == self.odd else PER_ID[column] * i for i in row[1:].tolist())] for row in rows]
        return pa.array(nats[: len(nats) - self.silent], pa.list_(pa.float32()))


def own(**settings: object) -> dict[str, Resource]:
    """`OwnNetworks` as the resources of `apply`."""
    return {"generator": Resource("own", functools.partial(OwnNetworks, **settings))}
