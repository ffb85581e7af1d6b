"""The fork server of a run: what every worker needs is imported once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from multiprocessing import forkserver

from schemas.process.interpreter import safe_children


def preload(modules: Iterable[str]) -> None:
    """Have the fork server import once what every worker needs, `modules` too (the engine takes seconds).

    Only imports happen there, no arithmetic: a library that has started its threads must not be forked. Megatron-Core
    asks for a GPU while it is imported; through NVML that starts no CUDA, which would not outlive the fork.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    multiprocessing.set_forkserver_preload(["pipelines", *modules])
    with safe_children():
        forkserver.ensure_running()
