"""The proof of a conversion: the same ids through transformers and through the engine, logits held side by side.

It runs in a process of its own, one network after the other, both in fp32, so that memory holds one of them and none
of the caller's. As a program it reads one job (JSON) from its standard input and prints one line of JSON.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from schemas.errors import ConfigError, DataError, WorkerError, printable
from schemas.manifest import Manifest
from schemas.settings import parse, plain
from schemas.storage import shown
from trainers.architecture import Model
from trainers.config import Parallel
from trainers.engine import checkpoint, parallel, stages
from trainers.engine.packing import pack
from trainers.engine.parallel import Layout

Check = Literal["auto", "on", "off"]

TOLERANCE = 1e-4
"""Of the greatest difference, for logits up to 1; beyond that, of the greatest logit."""

ROWS, TOKENS = 2, 64
_SPARE = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """What a comparison told: a line to print, what is always so (`fact`), and the figures of this machine."""

    line: str
    fact: Mapping[str, Any]
    figures: Mapping[str, Any]


def compare(folder: str, place: str, model: Model, check: Check, numel: int) -> Outcome:
    """Hold the Hugging Face folder against the weights of `model` in `place`, a checkpoint's folder; `DataError` if
    their logits differ. numel: numbers in all tensors.
    """
    reason = _reason(check, numel)
    if reason is not None:
        if check == "on":
            raise ConfigError("no-check", f"logits cannot be compared: {reason}", next="check=auto or check=off")
        return Outcome(f"logits not compared: {reason}", {"logits": "not compared"}, {"reason": reason})
    told = _run({"folder": folder, "place": place, "model": plain(model)})
    difference, greatest = float(told["difference"]), float(told["greatest"])
    if not difference <= TOLERANCE * max(1.0, greatest):
        raise DataError(
            "logits-differ",
            "the network does not compute what transformers computes from the same folder",
            expected=f"logits within {TOLERANCE:g} of each other (greatest: {greatest:.4g})",
            found=f"a difference of {difference:.4g}",
            where=shown(folder),
            kept="nothing was written",
        )
    line = (
        f"logits of {told['tokens']} tokens equal transformers {told['transformers']}: max difference {difference:.3g}"
    )
    return Outcome(line, {"logits": "equal", "tolerance": TOLERANCE}, told)


def _reason(check: Check, numel: int) -> str | None:
    """Why there is no comparison; None when there is one."""
    if check == "off":
        return "switched off"
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    import psutil

    needed, there = int(4.4 * numel) + _SPARE, psutil.virtual_memory().available
    if needed > there:
        return f"a network in fp32 needs {needed / 2**30:.1f} GiB, {there / 2**30:.1f} GiB are free"
    return None


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        environment.pop(name, None)
    command = [sys.executable, "-W", "ignore", "-m", "trainers.engine.weights.check"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise WorkerError(
            "check-died",
            "the comparison with transformers broke off",
            found=printable((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1], 300),
            where=shown(job["folder"]),
            kept="nothing was written",
            next="check=off goes without it",
        )
    return dict(json.loads(lines[-1]))


def sample_ids(model: Model) -> Tensor:
    """Random ids to compare over, [b, s]; always the same."""
    length = min(TOKENS, model.max_sequence_length)
    return torch.randint(0, model.vocab_size, (ROWS, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def theirs(folder: str, ids: Tensor, head: str) -> Tensor:
    """What transformers computes in fp32 from a folder for `ids` [b, s]: logits [b, s, V], or scores [b, s, n]."""
    import transformers

    kind = transformers.AutoModelForCausalLM if head == "lm" else transformers.AutoModelForSequenceClassification
    options = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    network: Any = kind.from_pretrained(folder, **options).eval()
    if head == "lm":
        return network(ids).logits
    return network.score(network.base_model(ids).last_hidden_state)


@torch.no_grad()
def ours(place: str, model: Model, ids: Tensor, layout: Layout) -> Tensor:
    """The same by the engine, from the weights below `place`, on all processes of `layout` together."""
    source = checkpoint.Checkpoint(place, Manifest(kind="checkpoint"), model)
    network = checkpoint.load_model(source, layout).eval()
    rows, length = ids.shape
    plan = pack([length] * rows, device=layout.device)
    flat = ids.reshape(1, -1).to(layout.device)
    width = model.vocab_size if model.head == "lm" else model.head_size
    out = torch.empty(rows, length, width, device=layout.device)
    said = stages.through(
        network,
        lambda: network(flat, plan.positions, None, packed_seq_params=plan, runtime_gather_output=True),
        rows * length,
    )
    if said is not None:
        out.copy_(said.reshape(rows, length, -1)[..., :width])
    stages.share(network, out)
    return out.cpu()


def main() -> None:
    """One job from standard input; its figures, as one line of JSON, to standard output."""
    import transformers

    job = json.load(sys.stdin)
    model = parse(Model, job["model"])
    ids = sample_ids(model)
    expected = theirs(job["folder"], ids, model.head)
    gc.collect()
    found = ours(job["place"], model, ids, parallel.start(Parallel()))
    told = {
        "difference": (found - expected).abs().max().item(),
        "greatest": expected.abs().max().item(),
        "tokens": ids.numel(),
        "transformers": transformers.__version__,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
