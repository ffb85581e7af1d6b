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
from schemas.errors import ConfigError
from schemas.store.storage import shown


def executor_of(node: Table) -> Executor:
    """Who works on a stage. On Ray and Slurm its models are placed as on this machine: on as many GPUs as the one that
    takes most is placed on; one elsewhere is asked by one client.
    """
    quiver = settings.quiver_config()
    if quiver.executor == "local":
        from datakit.run.runner import Local

        return Local(*workers_of(node, quiver.workers))
    placements = placements_of(node)
    limits = [1 if not one.inside else one.workers for one in placements]
    most = min((limit for limit in limits if limit is not None), default=None)
    gpus = max((one.gpus for one in placements), default=0)
    if quiver.executor == "ray":
        from datakit.run.on_ray import OnRay

        return OnRay(address=quiver.ray_address, processes=quiver.processes, most=most, gpus=gpus)
    from datakit.run.on_slurm import OnSlurm

    return OnSlurm(
        folder=meeting_place(quiver.root),
        processes=quiver.processes,
        most=most,
        gpus=gpus,
        options=tuple(quiver.slurm_options),
        poll_seconds=settings.launching().slurm.poll_seconds,
    )


def meeting_place(root: str) -> str:
    """Where the tasks of job arrays and who waits for them meet; `ConfigError` for a root that is no local folder."""
    if "://" in root:
        raise ConfigError(
            "remote-root",
            "executor = slurm works below a folder that all nodes see",
            expected="a folder on a shared file system as [quiver] root",
            found=shown(root),
            kept="nothing was started",
            next="--quiver-executor local",
        )
    return os.path.join(os.path.abspath(root), "_slurm")


@contextmanager
def cluster_for(task: luigi.Task) -> Iterator[None]:
    """While `task` runs: a Ray cluster of this machine, where stages are to run on one, something is left to do, and no
    address names another. All stages share it: to start one takes seconds.
    """
    quiver = settings.quiver_config()
    if quiver.executor != "ray" or task.complete():
        yield
        return
    from datakit.run import ray_cluster

    if quiver.ray_address or os.environ.get(ray_cluster.ADDRESS):
        with ray_cluster.connected(quiver.ray_address):
            yield
    else:
        with ray_cluster.own_cluster(quiver.workers, len(visible_gpus())):
            yield
