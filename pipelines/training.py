"""A training run as a child process: its configuration in a file, its output in a log, its figures on the screen.

The run leads its own life: CUDA, process groups and half-used memory end with it. It saves and leaves on SIGTERM, which
reaches it when this process is asked to stop and also when this process is killed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import settings
from pipelines.console import Stage
from pipelines.plan import Model, Node
from pipelines.processes import start_child, stop_child
from schemas.commit import read_manifest
from schemas.dataset import Dataset
from schemas.errors import QuiverError, WorkerError, printable
from schemas.settings import plain
from trainers.config import Run

_HEADLINE = re.compile(r"^error\[(\d+)/([a-z0-9-]+)\]: (.*)$", re.MULTILINE)
_POLL_SECONDS = 0.3


def train(node: Model, stage: Stage) -> str:
    """Run `node` to its end and return what to say of it; errors of the run are raised here as they are."""
    run = placed(node)
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    config.write_text(json.dumps(plain(run), indent=1), encoding="utf-8")
    log = folder / "log.txt"
    start = log.stat().st_size if log.exists() else 0
    child = start_child(_command(node, config), log, _environment(node))
    try:
        code = _follow(child, folder / "metrics.jsonl", _steps(node), stage)
    finally:
        stop_child(child)
    if code:
        raise _error(code, _tail(log, start), log, node)
    manifest = read_manifest(node.url)
    assert manifest is not None, f"{node.url}: the run ended well and published nothing (log: {log})"
    told = _last(folder / "metrics.jsonl")
    return f"{told.get('step', 0):,} steps, loss {told.get('loss', float('nan')):.4f}"


def placed(node: Model) -> Run:
    """The node's run with its places, its key and its vocabulary's size filled in."""
    run = node.run
    model = None if run.model is None else replace(run.model, vocab_size=vocabulary_size(node.tokenizer))
    local = "://" not in node.url
    return replace(
        run,
        data=node.data.url,
        validation=None if node.validation is None else node.validation.url,
        init=None if node.init is None else node.init.url,
        out=node.url,
        work=None if local else str(Path("quiver-runs").absolute() / f"{node.name}-{node.key[:8]}"),
        model=model,
        key=node.key,
        vocabulary=None if node.init is not None else node.tokenizer.url,
        facts={**run.facts, "tokenizer": node.vocabulary},
    )


def vocabulary_size(tokenizer: Node) -> int:
    """One more than the greatest id of a tokenizer."""
    row = Dataset.open(tokenizer.url).read(columns=["tokenizer_json"])["tokenizer_json"][0].as_py()
    told = json.loads(row)
    ids = [*told["model"]["vocab"].values(), *(token["id"] for token in told.get("added_tokens", []))]
    return max(ids) + 1


def _command(node: Model, config: Path) -> list[str]:
    if node.ranks == 1:
        return [sys.executable, "-m", "trainers.run", str(config)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={node.ranks}"]
    return [*torchrun, "-m", "trainers.run", str(config)]


def _environment(node: Model) -> dict[str, str]:
    threads = max(1, settings.available_cores() // node.ranks)
    given = dict(os.environ)
    given.setdefault("OMP_NUM_THREADS", str(threads))
    given.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return given


def _steps(node: Model) -> int | None:
    """How many steps the run has in all, where that can be told."""
    if node.run.max_steps is not None:
        return node.run.max_steps
    manifest = read_manifest(node.data.url)
    if manifest is None or node.run.epochs is None:
        return None
    return node.run.epochs * -(-manifest.num_rows // node.run.global_batch_size)


def _follow(child: subprocess.Popen[bytes], metrics: Path, steps: int | None, stage: Stage) -> int:
    before, first = _last(metrics), 0.0
    while True:
        try:
            return child.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            told = _last(metrics)
            if told and told != before:
                first = first or stage.seconds - float(told.get("seconds", 0.0))
                done = int(told["step"]) - int(before.get("step", 0))
                stage.move(_progress(told, steps, (stage.seconds - first) / max(1, done)))


def _progress(told: dict[str, Any], steps: int | None, seconds: float) -> str:
    """`seconds` are those of one step."""
    step = int(told.get("step", 0))
    of = "" if steps is None else f" of {steps:,}"
    parts = [f"step {step:,}{of}"]
    if "loss" in told:
        parts.append(f"loss {told['loss']:.4f}")
    if told.get("seconds"):
        parts.append(f"{told.get('tokens', 0) / told['seconds']:,.0f} tokens/s")
    if steps and step:
        parts.append(f"{seconds * (steps - step):.0f} s left")
    return ", ".join(parts)


def _last(metrics: Path) -> dict[str, Any]:
    """The last whole line of training figures; empty before the first step."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 65536))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if "loss" in told:
            return dict(told)
    return {}


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read()[-65536:].decode("utf-8", "replace")


def _error(code: int, text: str, log: Path, node: Model) -> QuiverError:
    """The run's own error, read off its log; a death without a word is a `WorkerError`."""
    found = list(_HEADLINE.finditer(text))
    kinds = {kind.code: kind for kind in _kinds(QuiverError)}
    if found:
        number, slug, what = found[-1].groups()
        kind = kinds.get(int(number), QuiverError)
        return kind(slug, what, **_fields(text[found[-1].end() :]))
    if code in (16, 17):
        error = QuiverError(
            "rerun-machine", f"{node.label}: Megatron's rerun machine asks for a restart", where=str(log)
        )
        error.code = code  # type: ignore[misc]
        return error
    if code == 1:
        return QuiverError("bug", f"training of {node.label} failed (traceback in {log})")
    return WorkerError(
        "trainer-died",
        f"training of {printable(node.label)} ended without a word",
        found=f"exit code {code}",
        where=str(log),
        kept="every finished stage and the run's last save",
        next="run the same command again",
    )


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:5]:
        if not line.startswith("  "):
            break
        for part in line.strip().split("   "):
            name, _, value = part.partition(": ")
            if name in ("expected", "found", "where", "kept", "next"):
                fields[name] = value
    return fields


def _kinds(kind: type[QuiverError]) -> Iterator[type[QuiverError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _kinds(sub)
