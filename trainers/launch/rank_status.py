"""The file in which a rank says that it is there, how far it is, and with which error it left.

A rank counts what it does (`beats`) and names it (`at`); the count says whether it gets on, whoever's clock is wrong.
The file is replaced whole, so a reader never sees half of one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.errors import QuiverError, WorkerError, error_of
from schemas.store.owner import Owner
from schemas.store.ownfiles import replace_file

PEER_LOST = "peer-lost"
"""Slug of the error of a rank that only lost touch with another one."""


@dataclass(frozen=True, kw_only=True)
class RankStatus:
    """What a rank wrote last: who it is, its count, what it was doing, and (`code` not None) how it left and when."""

    rank: int
    owner: Owner
    beats: int = 0
    at: str = "starting"
    code: int | None = None
    error: dict[str, Any] | None = None
    left: float = 0.0

    @property
    def gone(self) -> bool:
        """Whether its process ended without having said so, as far as this host can tell."""
        return self.code is None and self.owner.dead() is True

    @property
    def known_error(self) -> QuiverError | None:
        """The error it left with."""
        return None if self.error is None else error_of(self.error)

    def write(self, folder: Path) -> None:
        """Replace this rank's file in `folder`."""
        replace_file(folder / f"rank-{self.rank:05d}.json", json.dumps(asdict(self)))


def read_all(folder: Path) -> dict[int, RankStatus]:
    """Every rank that has reported something, by rank; what cannot be read is left out."""
    statuses = {}
    for path in folder.glob("rank-*.json"):
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            status = RankStatus(**{**fields, "owner": Owner(**fields["owner"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        statuses[status.rank] = status
    return statuses


def lost_peer(error: BaseException, rank: int, trace: str) -> WorkerError | None:
    """The error of a rank whose collective operation failed because another rank is gone; None for any other."""
    kind, text = type(error), str(error)
    distributed = kind.__module__.startswith("torch.distributed") or any(mark in text for mark in _MARKS)
    if isinstance(error, OSError) or not distributed:
        return None
    return WorkerError(
        PEER_LOST,
        f"rank {rank} lost touch with the other ranks",
        found=f"{kind.__name__}: {text.splitlines()[0][:200] if text else 'no text'}",
        where=trace,
        kept="the run's last save",
        next="look for the rank that failed first, then run the same command again",
    )


_MARKS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "gloo/transport",
    "Timed out waiting",
    "NCCL error",
    "NCCL communicator",
    "process group",
    "ProcessGroup",
    "TCPStore",
)
