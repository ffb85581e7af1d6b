"""Runs the real `luigi` command in a folder of its own."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.warm import command as warm

ROOT = Path(__file__).resolve().parents[2]
LUIGI = Path(sys.executable).with_name("luigi")
PATH = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1

_NETWORK = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 2, "num_query_groups": 2}
_STEADY = {"warmup_steps": 0, "schedule": "constant"}
_SMALL = {
    "prompts-per-iteration": 136,
    "samples-per-prompt": 2,
    "thresholds": [0.3, 0.6],
    "digits-digits": 3,
    "digits-demonstrations": 384,
    "digits-wrong-share": 0.2,
    "digits-prompts": 160,
    "digits-held-out": 24,
    "digits-pair-prompts": 48,
    "digits-pair-samples": 4,
    "digits-pairs-per-prompt": 2,
    "digits-max-length": 48,
    "digits-architecture": _NETWORK,
    "digits-base": {"epochs": 12, "global_batch_size": 16, "save_every": 60, "optim": {"lr": 5e-3, **_STEADY}},
    "digits-reward": {
        "epochs": 1,
        "global_batch_size": 16,
        "settings": {"center": 0},
        "optim": {"lr": 1e-3, **_STEADY},
    },
    "digits-improve": {"epochs": 1, "global_batch_size": 16, "optim": {"lr": 1e-3, **_STEADY}},
}
REST = ("RestIteration", *(text for name, value in _SMALL.items() for text in (f"--{name}", json.dumps(value))))
"""A real iteration, four training runs among forty stages, that takes half a minute on one core."""


def environment(**more: str) -> dict[str, str]:
    """The caller's environment without any Luigi configuration, our packages importable, our programs on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI")}
    programs = os.pathsep.join([str(LUIGI.parent), os.environ.get("PATH", "")])
    return {**kept, "PATH": programs, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "COLUMNS": "2000", **more}


def luigi(
    folder: Path, *arguments: str, module: str = "toy", timeout: float = 300, bound: bool = False, **more: str
) -> subprocess.CompletedProcess[str]:
    """`luigi --module <module> ARGUMENTS` in `folder`, in a fork where that is the same; `bound` by permissions even
    where root runs it, which begins with a program.
    """
    command, given = [str(LUIGI), "--module", module, *arguments], environment(**more)
    if not bound and not warm.fresh(command, folder, given):
        return warm.run(command, folder, given, timeout)
    return subprocess.run(
        command,
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        preexec_fn=_obey_permissions if bound else None,
    )


def _obey_permissions() -> None:
    """Give up, for the program that comes, root's right to write where permissions forbid it."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE)


def started(folder: Path, *arguments: str, module: str = "toy", **more: str) -> subprocess.Popen[str]:
    """The same, in a process group of its own, not waited for."""
    command = [str(LUIGI), "--module", module, *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def digests(folder: Path) -> dict[str, str]:
    """Label and key of every dataset below the root -> digest of its manifest."""
    from schemas.store.commit import read_manifest

    root = folder / "quiver-data"
    printed = {}
    for path in sorted(root.rglob("_manifest.json")):
        manifest = read_manifest(str(path.parent))
        assert manifest is not None
        printed[str(path.parent.relative_to(root))] = manifest.content_digest
    return printed


def leftovers(folder: Path) -> list[str]:
    """Files and folders of attempts, kept chunks and temporary names."""
    marks = ("_attempt-", "_progress-", ".tmp", "_lock")
    return [str(path) for path in (folder / "quiver-data").rglob("*") if any(mark in path.name for mark in marks)]


def damaged(folder: Path) -> list[str]:
    """What is wrong with any dataset or checkpoint below the root, every byte read."""
    from schemas.errors import QuiverError
    from schemas.store.commit import read_manifest

    faults = []
    for path in sorted((folder / "quiver-data").rglob("_manifest.json")):
        try:
            manifest = read_manifest(str(path.parent))
        except QuiverError as error:
            faults.append(error.render())
            continue
        assert manifest is not None, path
        for file in (*manifest.files, *manifest.rejected):
            data = path.parent / file.path
            if not data.is_file() or hashlib.sha256(data.read_bytes()).hexdigest() != file.sha256:
                faults.append(str(data))
    return faults


def while_running(folder: Path, pattern: str) -> list[Path]:
    """What matches `pattern` below `folder` while a run makes, moves and removes things there: `Path.glob` raises for a
    folder that goes after it was listed.
    """
    return sorted(map(Path, glob.glob(f"{glob.escape(str(folder))}/{pattern}", recursive=True)))


def alive_in(folder: Path) -> list[str]:
    """Command lines of live processes that work in `folder`, time to go given: our own watchers' grace
    period is two seconds."""
    left: list[str] = []
    until = time.monotonic() + 30
    while time.monotonic() < until:
        left = []
        for place in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if place.readlink().is_relative_to(folder):
                    left.append((place.parent / "cmdline").read_text().replace("\0", " "))
        if not left:
            break
        time.sleep(0.1)
    return left
