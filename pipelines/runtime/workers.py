"""How many processes a data stage gets, and the devices of each: its share of the GPUs where a model runs on GPUs."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.graph.backend import Placement, placement_of, roles_of
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def workers_of(node: Table, processes: int) -> tuple[int, Sequence[Mapping[str, str]]]:
    """Worker processes of a stage that may have `processes`, and the variables that each sets before it opens a model.

    On GPUs each worker sees as many as the model that takes most is placed on, and no other worker sees these; a model
    elsewhere is asked by one client, and of one whose reference says so there are no more than `workers`.
    """
    placements = placements_of(node)
    if any(not placement.inside for placement in placements):
        return 1, ()
    processes = min([processes, *(placement.workers for placement in placements if placement.workers is not None)])
    each = max((placement.gpus for placement in placements), default=0)
    devices = visible_gpus() if each else ()
    if not devices and any(placement.alone for placement in placements):
        return 1, ()
    workers = range(max(1, len(devices) // each)) if devices else ()
    chosen = [",".join(devices[number * each : (number + 1) * each]) for number in workers][:processes]
    return (len(chosen), [{_VISIBLE: device} for device in chosen]) if chosen else (processes, ())


def resources_of(node: Node) -> dict[str, int]:
    """What Luigi has to set aside for a stage: this machine's GPUs, all of them, where it uses them. Luigi gives out
    one of what is not configured, so that such stages run one after the other, whatever `--workers` is.
    """
    asks = any(placement.gpus for placement in placements_of(node)) if isinstance(node, Table) else True
    return {f"gpus-{socket.gethostname()}": 1} if asks and visible_gpus() else {}


def placements_of(node: Table) -> list[Placement]:
    """Where the models answer that a stage asks."""
    return [placement_of(node.resources[role]) for role in roles_of(node.op)]


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that a process may use, as `CUDA_VISIBLE_DEVICES` names them; none where torch is built without CUDA."""
    if not _torch_has_cuda():
        return ()
    listed = os.environ.get(_VISIBLE)
    if listed is None:
        return tuple(str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*")))
    names = [name.strip() for name in listed.split(",")]
    ends = next((number for number, name in enumerate(names) if name in ("", "-1")), len(names))
    return tuple(names[:ends])


@functools.cache
def _torch_has_cuda() -> bool:
    """Whether the installed torch can use a GPU, by the name of its build: torch is not imported for it."""
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
