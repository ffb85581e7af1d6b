"""`python -m tests.results.runner --data FOLDER [--seeds 1,2,3] [METHOD ...]`: measure what is not measured yet.

Every method of `tests.results.entries` runs once for each seed, in a folder of its ground and seed below
`build/results/<commit>`. What it tells lies there as JSON, one file a method and seed: the same command again runs only
what lacks its file, and another commit begins anew. A command that fails is reported, and the next method goes on.
"""

from __future__ import annotations

import argparse
import configparser
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb

from tests.results.entries import Entry, Ground, grounds

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "results"


def commit(root: Path = ROOT) -> str:
    """The commit of the tree `root`, with a `+` where files were changed since; not those that measuring writes."""
    written = (":!docs/results.md", ":!tests/results/measured.json")
    status = ("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    name, changed = (
        subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), status)
    )
    return f"{name}{'+' if changed else ''}"


def prepared(ground: Ground, seed: int, data: Path | None, below: Path) -> Path:
    """The folder of a ground and seed, with its settings and links to its files."""
    folder = below / ground.name / f"seed={seed}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = configparser.RawConfigParser()
    if ground.config:
        settings.read_string((ROOT / ground.config).read_text(encoding="utf-8"))
    if not settings.has_section("quiver"):
        settings.add_section("quiver")
    settings.set("quiver", "seed", str(seed))
    with (folder / "luigi.cfg").open("w", encoding="utf-8") as file:
        settings.write(file)
    for name in ground.files:
        if data is None or not (data / name).is_file():
            raise RuntimeError(f"{ground.name} needs {name} below --data")
        link = folder / Path(name).name
        if not link.exists():
            link.symlink_to((data / name).resolve())
    return folder


def execute(command: str, folder: Path) -> float:
    """Run `command` in `folder` as a shell does; the seconds that it took when it first succeeded there."""
    known, path = {}, folder / "seconds.json"
    if path.exists():
        known = json.loads(path.read_text())
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    began = time.monotonic()
    with (folder / "log").open("ab") as log:
        before = log.tell()
        done = subprocess.run(
            ["bash", "-euc", command], cwd=folder, env=environment, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        written = (folder / "log").read_bytes()[before:].decode(errors="replace")
        raise RuntimeError(f"{command}\nended with {done.returncode} in {folder}:\n{written[-3000:]}")
    known.setdefault(command, round(time.monotonic() - began, 1))
    path.write_text(json.dumps(known, indent=1))
    return float(known[command])


def figures(entry: Entry, folder: Path) -> dict[str, float]:
    """What the tables in `folder` tell."""
    measured: dict[str, float] = {}
    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{folder}'")
        for figure in entry.figures:
            row = connection.execute(figure.query).fetchone()
            if row is None or row[0] is None:
                raise RuntimeError(f"no {figure.name}: {figure.query}")
            measured[figure.name] = float(row[0])
    return measured


def measure(ground: Ground, entry: Entry, folder: Path) -> dict[str, Any]:
    """Run all commands of an entry: seconds of each kind, and its figures."""
    commands = {"shared": ground.shared, "before": entry.before, "command": (entry.command,), "after": entry.after}
    seconds = {kind: sum(execute(one, folder) for one in several) for kind, several in commands.items()}
    return {"seconds": seconds, "figures": figures(entry, folder)}


def main(arguments: list[str] | None = None) -> int:
    """0 where every method that was asked for is measured."""
    known = {name: (ground, entry) for ground in grounds() for name, entry in ground.methods.items()}
    parser = argparse.ArgumentParser(prog="tests.results.runner")
    parser.add_argument("--data", default="", help="folder of the sample data")
    parser.add_argument("--seeds", default="1,2,3", help="divided by commas")
    parser.add_argument("method", nargs="*", help=f"what to measure; nothing: all of {', '.join(known)}")
    given = parser.parse_args(arguments)
    if strange := set(given.method) - known.keys():
        parser.error(f"there is no {', '.join(sorted(strange))}: {', '.join(known)}")
    data, below, failed = Path(given.data).resolve() if given.data else None, BUILD / commit(), False
    for seed, name in itertools.product(map(int, given.seeds.split(",")), given.method or known):
        path = below / f"{name}-{seed}.json"
        if path.exists():
            continue
        print(f"{name}, seed {seed}", flush=True)
        ground, entry = known[name]
        try:
            record = measure(ground, entry, prepared(ground, seed, data, below))
        except (RuntimeError, duckdb.Error) as error:
            print(error, file=sys.stderr, flush=True)
            failed = True
            continue
        path.write_text(json.dumps({"method": name, "seed": seed, "commit": below.name, **record}, indent=1))
        print(f"  {record['figures']} {record['seconds']}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
