"""The fork server of a run, where what every worker needs is imported once, and the processes of stages in it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable

import luigi.worker

from pipelines.runtime import settings
from schemas.process.interpreter import safe_children, stops_deferred


def preload(modules: Iterable[str]) -> None:
    """Have the fork server import once what every worker needs, `modules` too (the engine takes seconds).

    Only imports happen there, no arithmetic: a library that has started its threads must not be forked. Megatron-Core
    asks for a GPU while it is imported; through NVML that starts no CUDA, which would not outlive the fork.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    multiprocessing.set_forkserver_preload(["pipelines", *modules])
    with safe_children():
        pass  # on the way in it starts the fork server


def start_whole() -> None:
    """Have Luigi start the process of a task whole or not at all: one that is cut off by a signal while it is started
    would outlive this process for a moment, and end with a traceback. It works by the settings of this process, whose
    command line it never sees.
    """
    start, run = luigi.worker.TaskProcess.start, luigi.worker.TaskProcess.run

    def whole(process: luigi.worker.TaskProcess) -> None:
        ready = multiprocessing.Process(target=os.getpid)
        ready.start()  # waits, and may be interrupted, until the fork server has imported everything
        ready.join()
        vars(process)["quiver_settings"] = settings.stated_values(), _of_ray()
        with stops_deferred():
            start(process)

    def with_settings(process: luigi.worker.TaskProcess) -> None:
        values, variables = vars(process).get("quiver_settings", ({}, {}))
        settings.take(values)
        os.environ.update(variables)
        run(process)

    luigi.worker.TaskProcess.start = whole  # type: ignore[method-assign,assignment]
    luigi.worker.TaskProcess.run = with_settings  # type: ignore[method-assign,assignment]


def _of_ray() -> dict[str, str]:
    """Variables of Ray, which may be younger than the fork server: the address of a cluster that this run started."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
