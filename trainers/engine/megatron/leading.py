"""One process works, all others wait for it and do with it whatever needs the whole network.

    lead = Lead({"generate": generator.generate})
    answers = lead.run(lambda: lead.ask("generate", rows, sampling, seeds))      # on every rank

The function runs on rank 0 alone; what it asks for by name runs on all ranks together, with the same arguments. What
it returns, or raises, is what `run` returns or raises on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

import torch.distributed as dist

from schemas.errors import QuiverError
from trainers.engine.megatron.parallel import is_rank_zero
from trainers.launch import rank

T = TypeVar("T")

_DONE, _PROGRESS = "done", "progress"


class Lead:
    """What rank 0 may ask all ranks to do, by name; no thread but the main one does."""

    def __init__(self, served: Mapping[str, Callable[..., Any]]) -> None:
        assert not {_DONE, _PROGRESS} & served.keys(), f"{_DONE} and {_PROGRESS} are taken"
        self.served = served

    def run(self, work: Callable[[], T]) -> T:
        """`work` on rank 0; on the others, what it asks of them until it is done."""
        if not is_rank_zero():
            return cast(T, self._follow())
        try:
            made, fault = work(), None
        except Exception as error:
            _send(_DONE, None, error)
            raise
        _send(_DONE, made, fault)
        return made

    def ask(self, name: str, *arguments: Any) -> Any:
        """What `name` gives on rank 0, while all ranks do it."""
        _send(name, *arguments)
        return self.served[name](*arguments)

    def progressed(self) -> None:
        """The work gets on: no rank is to be taken for one that hangs."""
        rank.heartbeat()
        _send(_PROGRESS)

    def _follow(self) -> Any:
        while True:
            name, *arguments = _received()
            rank.heartbeat()
            if name == _DONE:
                made, fault = arguments
                if fault is not None:
                    raise fault
                return made
            if name != _PROGRESS:
                with suppress(QuiverError):  # a fault of the rows: rank 0 has met the same, and says what becomes of it
                    self.served[name](*arguments)


def _send(*message: Any) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list([message], src=0)


def _received() -> tuple[Any, ...]:
    message: list[Any] = [None]
    dist.broadcast_object_list(message, src=0)
    return cast("tuple[Any, ...]", message[0])
