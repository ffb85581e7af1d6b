"""Installs the wheels beside it without a network, makes this checkout importable, and says what is still missing.

    python3 build/gpu-kit/1/install.py        in the checkout, with the Python that has torch

Standard library and pip only. Exit code 1 where a package that every part of the report needs is missing.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import tomllib

LATER = {"polars": "in folder 2; needed by the part `digits` alone"}
"""What may be missing after the first folder, and why."""


def install(folder: Path) -> int:
    """pip's exit code for all wheels of `folder`, into this Python."""
    wheels = [str(wheel) for wheel in sorted(folder.glob("*.whl"))]
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-cache-dir", "-q"]
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    return subprocess.run([*command, *wheels], env={**os.environ, **quiet}, check=False).returncode if wheels else 0


def link(checkout: Path) -> None:
    """A path file, so that every child process imports Quiver from `checkout`."""
    (Path(sysconfig.get_path("purelib")) / "quiver-checkout.pth").write_text(f"{checkout}\n", encoding="utf-8")


def lacking(checkout: Path) -> Iterator[tuple[str, str]]:
    """Requirements of Quiver, and of the packages that meet them, which this Python does not meet: (name, how)."""
    from packaging.requirements import Requirement

    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["hf"], "safetensors"]
    seen = set()
    while waiting:
        one = Requirement(waiting.pop(0))
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        if name in seen or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            there = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            yield name, f"missing, {one.specifier} is asked for"
            continue
        if not one.specifier.contains(there.version, prereleases=True):
            yield name, f"{there.version} is there, {one.specifier} is asked for"
        waiting += there.requires or []


def main() -> int:
    """Install, link, look; one line per package that is missing or of another version."""
    folder, checkout = Path(__file__).resolve().parent, Path.cwd()
    if not (checkout / "schemas").is_dir() or not (checkout / "pyproject.toml").is_file():
        print(f"run this in the checkout of Quiver, not in {checkout}", file=sys.stderr)
        return 2
    if code := install(folder):
        return code
    link(checkout)
    importlib.invalidate_caches()
    fatal = False
    for name, how in lacking(checkout):
        print(f"{name}: {how}" + (f" ({LATER[name]})" if name in LATER else ""))
        fatal |= name not in LATER and "missing" in how
    print(f"installed from {folder} into {sys.prefix}")
    return int(fatal)


if __name__ == "__main__":
    sys.exit(main())
