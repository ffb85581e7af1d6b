"""The environment of a run: built name by name, so that it is the same whoever starts it and holds nothing by chance.

Handed on is what the machine, the libraries, the storage and the trackers need, and what a person names in
`Launch.environment`. The world (RANK, MASTER_ADDR, SLURM_*) never is: a run started inside another one has its own.
Values are passed to processes and never written into scripts, logs or messages.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping

from schemas.process.interpreter import importable

HANDED_ON = {
    "the machine": "PATH HOME USER LOGNAME SHELL TMPDIR LANG LANGUAGE LC_* TZ XDG_*",
    "Python": "PYTHON* VIRTUAL_ENV CONDA_PREFIX COVERAGE_*",
    "shared libraries": "LD_LIBRARY_PATH LD_PRELOAD MALLOC_*",
    "devices and network": "CUDA_* NVIDIA_* NCCL_* GLOO_* UCX_* FI_* IBV_*",
    "torch": "TORCH_* TORCHINDUCTOR_* PYTORCH_* TRITON_* NVTE_* OMP_* KMP_* MKL_*",
    "storage": "AWS_* GOOGLE_* AZURE_* FSSPEC_* HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy "
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE",
    "trackers": "WANDB_* MLFLOW_* TENSORBOARD_*",
    "ours": "QUIVER_*",
}
"""Patterns of names, by who needs them."""

_OF_ONE_START = {"QUIVER_RANKS", "QUIVER_LOGS", "QUIVER_MEETING", "QUIVER_COLLECTIVE_SECONDS"}


def names(environment: Mapping[str, str], more: Iterable[str] = ()) -> list[str]:
    """Names of the variables that are handed on, sorted; `more` are further patterns."""
    patterns = [pattern for line in HANDED_ON.values() for pattern in line.split()] + list(more)
    given = environment.keys() - _OF_ONE_START
    return sorted(name for name in given if any(fnmatch.fnmatchcase(name, each) for each in patterns))


def built(environment: Mapping[str, str], threads: int, more: Iterable[str] = ()) -> dict[str, str]:
    """What a rank gets: what is handed on, `threads` for OpenMP, and the way to our own packages."""
    given = {name: environment[name] for name in names(environment, more)}
    return given | ours(threads)


def ours(threads: int) -> dict[str, str]:
    """What is set for a rank whatever the environment says."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": importable(),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


def threads_of(ranks: int, requested: int = 0) -> int:
    """Threads of each of `ranks` processes on this machine: `requested`, or their share of the cores, which a smaller
    OMP_NUM_THREADS lowers.
    """
    if requested:
        return requested
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    setting = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores // ranks)
    return min(share, int(setting)) if setting.isdecimal() and int(setting) else share
