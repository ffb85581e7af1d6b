"""Where data stages run: the executor that `[quiver] executor` names is chosen here, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import luigi

from datakit.run.executor import Executor
from pipelines.graph.nodes import Table
from pipelines.runtime import settings
from pipelines.runtime.workers import placements_of, visible_gpus, workers_of


def executor_of(node: Table) -> Executor:
    """Who works on a stage. On Ray its models are placed as on this machine: on as many GPUs as the one that takes most
    is placed on; one elsewhere is asked by one client.
    """
    quiver = settings.quiver_config()
    if quiver.executor == "local":
        from datakit.run.runner import Local

        return Local(*workers_of(node, quiver.workers))
    from datakit.run.on_ray import OnRay

    placements = placements_of(node)
    limits = [1 if not one.inside else one.workers for one in placements]
    return OnRay(
        address=quiver.ray_address,
        processes=quiver.processes,
        most=min((limit for limit in limits if limit is not None), default=None),
        gpus=max((one.gpus for one in placements), default=0),
    )


@contextmanager
def cluster_for(task: luigi.Task) -> Iterator[None]:
    """While `task` runs: a Ray cluster of this machine, where stages are to run on one, something is left to do, and no
    address names another. All stages share it: to start one takes seconds.
    """
    quiver = settings.quiver_config()
    if quiver.executor == "local" or task.complete():
        yield
        return
    from datakit.run import ray_cluster

    if quiver.ray_address or os.environ.get(ray_cluster.ADDRESS):
        with ray_cluster.connected(quiver.ray_address):
            yield
    else:
        with ray_cluster.own_cluster(quiver.workers, len(visible_gpus())):
            yield
