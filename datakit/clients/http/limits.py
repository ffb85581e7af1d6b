"""How long, how much and how often: what bounds a client of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the requests of one client; times in seconds.

    `concurrency`: most requests under way at each server; `connect`, `first_byte` (None: as `total`) and `total` bound
    one request; `tries`: how often one is sent that no answer came to, again after `backoff`, twice that, and so on;
    `patience`: how long a server may turn every request away; `answer_bytes`: what any reply may be long.
    """

    concurrency: int = 64
    connect: float = 10.0
    first_byte: float | None = None
    total: float = 600.0
    tries: int = 4
    backoff: float = 0.5
    patience: float = 300.0
    answer_bytes: int = 1 << 20
