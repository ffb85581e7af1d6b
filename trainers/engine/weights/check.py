"""The proof of a conversion: the same ids through transformers and through the engine, logits held side by side.

What is compared, and how, is in `comparison`; here its program is started and its figures are judged.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from schemas.canonical import plain
from schemas.errors import ConfigError, DataError, WorkerError, printable
from schemas.installed import with_extra
from schemas.process.interpreter import importable, module
from schemas.store.storage import shown
from trainers.adapter_folder import AdapterFolder
from trainers.architecture import ModelConfig
from trainers.launch.child import gone_with_parent

Check = Literal["auto", "on", "off"]

TOLERANCE = 1e-4
"""Of the greatest difference, for logits up to 1; beyond that, of the greatest logit."""

_SPARE = 1 << 30

LAYERS = 2
"""How many layers are run over long sequences."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a comparison: a line to print, what is always so (`fact`), and the figures of this machine."""

    line: str
    fact: Mapping[str, Any]
    figures: Mapping[str, Any]


def compare(
    folder: str,
    place: str,
    model: ModelConfig,
    check: Check,
    numel: int,
    *,
    scores: bool = False,
    rounded: str | None = None,
    adapters: AdapterFolder | None = None,
) -> CheckResult:
    """Hold the Hugging Face folder against the weights of `model` in `place`, a checkpoint's folder; `DataError` if
    their logits differ. numel: numbers in all tensors. scores: also those of a padded batch, as a reward model's users
    get them from the folder. rounded: torch's name of the type that the folder's weights were rounded to; the
    checkpoint's are rounded alike, so that the tolerance stays that of fp32 and hides no fault. adapters: PEFT's, on
    the folder's model.
    """
    reason = _reason(check, numel)
    if reason is not None:
        if check == "on":
            raise ConfigError("no-check", f"logits cannot be compared: {reason}", next="check=auto or check=off")
        return CheckResult(f"logits not compared: {reason}", {"logits": "not compared"}, {"reason": reason})
    with_scores = scores and model.head == "scalar"
    job = {"folder": folder, "place": place, "model": plain(model), "scores": with_scores, "rounded": rounded}
    figures = _run({**job, "adapters": None if adapters is None else plain(adapters)})
    _judge(figures, "logits", folder)
    theirs = f"{'PEFT ' + figures['peft'] + ' on ' if 'peft' in figures else ''}transformers {figures['transformers']}"
    line = f"logits of {figures['tokens']} tokens equal {theirs}: max difference "
    line += f"{figures['difference']:.3g}{f' (weights in {rounded})' if rounded else ''}"
    fact = {"logits": "equal", "tolerance": TOLERANCE}
    if beyond := figures["beyond"]:
        line += "; " + _past(beyond, model, folder)
        fact["beyond"] = "not compared" if "reason" in beyond else beyond["tokens"]
    if figures["scores"]:
        _judge(figures["scores"], "scores", folder)
        line += f"; scores of {figures['scores']['rows']} padded rows: {figures['scores']['difference']:.3g}"
        fact["scores"] = "equal"
    return CheckResult(line, fact, figures)


def _judge(figures: Mapping[str, Any], what: str, folder: str) -> None:
    """`DataError` if the greatest difference of the `what` is beyond what rounding explains."""
    difference, greatest = float(figures["difference"]), float(figures["greatest"])
    if not difference <= TOLERANCE * max(1.0, greatest):
        raise DataError(
            f"{what}-differ",
            "the network does not compute what transformers computes from the same folder",
            expected=f"{what} within {TOLERANCE:g} of each other (greatest: {greatest:.4g})",
            found=f"a difference of {difference:.4g}",
            where=shown(folder),
            kept="nothing was written",
        )


def _past(beyond: Mapping[str, Any], model: ModelConfig, folder: str) -> str:
    """What was seen beyond the first tokens, and what was not; `DataError` if the logits there differ."""
    parts = ["all learned positions"] if model.position == "learned" else []
    parts += [f"the window of {model.window:,}"] if model.window and model.window < beyond["tokens"] else []
    scaling = model.rope_scaling
    if scaling is not None and scaling.original_length < beyond["tokens"]:
        parts.append(f"rope past {scaling.original_length:,}")
    acts = " and ".join(parts) or "the longest text"
    if "reason" in beyond:
        return f"not exercised: {acts} ({beyond['reason']})"
    _judge(beyond, "logits", folder)
    layers = min(LAYERS, model.num_layers)
    rest = f" (not in layers {layers + 1} to {model.num_layers})" if model.num_layers > layers else ""
    return f"{acts}, first {layers} layers at token {beyond['tokens']:,}: {beyond['difference']:.3g}{rest}"


def _reason(check: Check, numel: int) -> str | None:
    """Why there is no comparison; None when there is one."""
    if check == "off":
        return "switched off"
    if importlib.util.find_spec("transformers") is None:
        return f"transformers is not installed: {with_extra('hf')}"
    import psutil

    needed, there = int(4.4 * numel) + _SPARE, psutil.virtual_memory().available
    if needed > there:
        return f"a network in fp32 needs {needed / 2**30:.1f} GiB, {there / 2**30:.1f} GiB are free"
    return None


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment |= {"PYTHONPATH": importable(), "PYTHONSAFEPATH": "1"}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        environment.pop(name, None)
    command = module("trainers.engine.weights.comparison", options=("-W", "ignore"))
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, env=environment, check=False,
        preexec_fn=gone_with_parent(signal.SIGKILL),
    )  # fmt: skip
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
