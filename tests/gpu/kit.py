"""Wheels for a GPU machine without a network: Python 3.12, Linux x86-64, with torch, transformers and pyarrow on it.

    python -m tests.gpu.kit [--out build/gpu-kit]        or `make gpu-kit`

Writes one folder per transfer, none above 60 MB, each with its `install.py`. Folder 1 is enough for training, scoring
and sampling; folder 2 (polars) completes what the pipelines need. Versions are those of constraints.txt.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60_000_000
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "1": ("megatron-core", "duckdb", "luigi", "tornado", "python-daemon", "lockfile", "tenacity"),
    "2": ("polars", "polars-runtime-32"),
}
_BESIDES = {"python-daemon": "3.1.2", "lockfile": "0.12.2", "tenacity": "9.2.1"}
_PLATFORMS = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 29)))
_PURE = "-none-any.whl"


def pins() -> dict[str, str]:
    """The version of every package of the kit: constraints.txt names those that Quiver itself asks for."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if re.match(r"[\w-]+==", line))
    tested |= {"polars-runtime-32": tested["polars"], **_BESIDES}
    return {name: tested[name] for names in FOLDERS.values() for name in names}


def download(folder: Path, requirements: list[str]) -> list[str]:
    """Wheels of `requirements` for the target machine in `folder`; what could not be had, one line each."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    target += [part for name in _PLATFORMS for part in ("--platform", f"{name}_x86_64")]
    faults = []
    for requirement in requirements:
        fetched = _run([*pip, "download", "-q", "--no-deps", *target, "-d", str(folder), requirement])
        if fetched is None:
            continue
        built = _run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder / "built"), requirement])
        if built is not None:
            faults.append(f"{requirement}: {fetched}; no wheel could be built: {built}")
            continue
        for wheel in (folder / "built").iterdir():  # a source package: its wheel serves if it is pure Python
            if wheel.name.endswith(_PURE):
                wheel.replace(folder / wheel.name)
            else:
                faults.append(f"{requirement}: {wheel.name}, made here, does not run on the target")
        shutil.rmtree(folder / "built")
    return faults


def _run(command: list[str]) -> str | None:
    """The last line that `command` wrote to stderr, if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed without a word"])[-1]


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every wheel of a folder, by name."""
    return {wheel.name: wheel.stat().st_size for wheel in sorted(folder.glob("*.whl"))}


def listing(out: Path, limit: int = LIMIT) -> Iterator[str]:
    """What lies in every folder of `out`, one line per wheel, and which of them is "too large"."""
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        wheels = sizes(folder)
        yield f"{folder}: {sum(wheels.values()) / 1e6:.1f} MB"
        yield from (f"  {size / 1e6:7.2f} MB  {name}" for name, size in wheels.items())
        if sum(wheels.values()) > limit:
            yield f"too large: {folder} is above {limit / 1e6:.0f} MB"


def main() -> int:
    """Make the folders anew and print what is in them; 1 where something is missing or too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu-kit"))
    out, versions, faults = parser.parse_args().out, pins(), []
    for number, names in FOLDERS.items():
        folder = out / number
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        faults += download(folder, [f"{name}=={versions[name]}" for name in names])
        shutil.copy(Path(__file__).with_name("install.py"), folder)
    lines = list(listing(out))
    faults += [line for line in lines if line.startswith("too large")]
    print("\n".join([*lines, *(f"fault: {fault}" for fault in faults)]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
