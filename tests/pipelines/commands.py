"""Runs the real `luigi` command in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LUIGI = Path(sys.executable).with_name("luigi")
PATH = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])


def environment(**more: str) -> dict[str, str]:
    """The caller's environment without any Luigi configuration, our packages importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI")}
    return {**kept, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", **more}


def luigi(
    folder: Path, *arguments: str, module: str = "toy", timeout: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    """`luigi --module <module> ARGUMENTS` in `folder`."""
    command = [str(LUIGI), "--module", module, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=timeout, check=False
    )


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
    from schemas.commit import read_manifest

    root = folder / "quiver-data"
    found = {}
    for path in sorted(root.rglob("_manifest.json")):
        manifest = read_manifest(str(path.parent))
        assert manifest is not None
        found[str(path.parent.relative_to(root))] = manifest.digest
    return found


def leftovers(folder: Path) -> list[str]:
    """Files and folders of attempts, kept chunks and temporary names."""
    marks = ("_attempt-", "_progress-", ".tmp", "_lock")
    return [str(path) for path in (folder / "quiver-data").rglob("*") if any(mark in path.name for mark in marks)]
