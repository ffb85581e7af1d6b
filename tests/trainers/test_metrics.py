"""What people read while a run goes, and how fast it says it is."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from schemas.settings import parse
from tests.trainers import toys
from trainers.architecture import Experts
from trainers.config import Run
from trainers.engine.megatron.parallel import Layout
from trainers.engine.reporting.metrics import Journal, Progress
from trainers.engine.reporting.report import by_source
from trainers.engine.reporting.results import StepResult
from trainers.engine.reporting.speed import Speed, peak_of
from trainers.tensors import active_weights


def outcome(tokens: int, places: int, pairs: float) -> StepResult:
    return StepResult(
        loss=1.0,
        weight=1.0,
        metrics={},
        tokens=tokens,
        padded_tokens=places,
        pairs=pairs,
        sources={},
        rows_RN=np.empty((0, 2)),
        stop=False,
    )


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA A10G", None),
        ("Tesla V100-SXM2-16GB", None),
        ("", None),
    ],
)
def test_peaks_by_name(device: str, peak: float | None) -> None:
    assert peak_of(device) == peak


def test_weights_that_a_token_meets() -> None:
    """2 layers: q and o 32 x 32 each, k and v 32 x 16, gated MLP 3 x 32 x 64; head 60 x 32."""
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert active_weights(toys.model()) == 2 * layer + 60 * 32
    assert active_weights(toys.model(head="scalar", head_size=5)) == 2 * layer + 5 * 32
    mixture = toys.model(experts=Experts(number=8, per_token=2))
    assert active_weights(mixture) == 2 * (layer + 3 * 32 * 64 + 32 * 8) + 60 * 32


def test_model_flops_after_palm(tmp_path: Path) -> None:
    """Appendix B: 6 N + 12 L H Q T per token, here with two sequences of 10 and 30 tokens."""
    run = parse(Run, toys.config(tmp_path))
    speed = Speed.of(run, toys.model(), Layout())
    assert speed.peak is None and "mfu" not in speed.figures(outcome(40, 50, 1000.0), 2.0)
    known = Speed(speed.per_token, speed.per_pair, peak=1e9)
    figures = known.figures(outcome(40, 50, 10.0**2 + 30.0**2), 2.0)
    flops = 40 * 6 * active_weights(toys.model()) + 12 * 2 * 4 * 8 * (10 * 10 + 30 * 30)
    assert figures["tokens_per_second"] == 20 and math.isclose(figures["padding"], 0.2)
    assert math.isclose(figures["mfu"], flops / 2.0 / 1e9)


def test_the_line_of_progress() -> None:
    stream = io.StringIO()
    progress = Progress(3, 5, stream)
    figures = {"loss": 1.25, "lr": 1e-4, "tokens": 1000.0, "seconds": 0.5, "padding": 0.125}
    progress.step(4, figures)
    progress.step(5, {**figures, "mfu": 0.456})
    first, last = stream.getvalue().splitlines()
    assert first.startswith("step 4/5  loss 1.2500  lr 1.00e-04  ") and "0.5 s/step  padding 12.5%  0:00:0" in first
    assert last.startswith("step 5/5") and "MFU 45.6%" in last and last.endswith("0:00:00 left")


def test_a_journal_goes_back_and_remembers_the_best(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Journal(path, 0, best_by="val_loss")
    for step, loss in enumerate((3.0, 1.0, 2.0, 0.5), 1):
        first.write({"step": step, "val_loss": loss})
    assert first.last_written == 0 and first.best == (0.5, 4)
    first.close()
    second = Journal(path, 3, best_by="val_loss")
    assert second.last_written == 4 and second.best == (1.0, 2)
    second.write({"step": 4, "loss": 9.0})
    second.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    third = Journal(path, 4, best_by="-val_loss")
    third.close()
    assert third.best == (3.0, 1) and Journal(None, 4, best_by="val_loss").best is None


@pytest.mark.parametrize(
    "damage",
    [
        (b'"val_loss": 1.5', b'"val_loss": 0.5'),
        (b'"step": 2', b'"step": 3'),
        (b'"step": 2', b'"stdp": 2'),
        (b'{"step": 2, "val_loss": 1.5}', b"[" * 28),
        (b'"step": 2', b'"step": "'),
    ],
)
def test_a_line_that_was_altered_is_noticed(
    damage: tuple[bytes, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Journal(path, 0, best_by="val_loss")
    for step, loss in enumerate((1.0, 1.5, 2.0), 1):
        first.write({"step": step, "val_loss": loss})
        first.record_digest()
    first.write({"step": 4, "val_loss": 0.25})
    first.close()
    written = path.read_bytes()
    whole = Journal(path, 3, best_by="val_loss")
    whole.close()
    assert whole.best == (1.0, 1) and whole.last_written == 4 and capsys.readouterr().err == ""
    path.write_bytes(written.replace(*damage))
    for _ in range(2):
        second = Journal(path, 3, best_by="val_loss")
        second.write({"step": 4, "val_loss": 0.125})
        second.record_digest()
        second.close()
    assert second.best is None and capsys.readouterr().err.startswith(f"warning: {path} is not as it was written")


def test_sources_that_begin_alike_keep_figures_of_their_own() -> None:
    names = ["web", "x" * 80 + "one", "x" * 80 + "two"]
    means = by_source("loss", {0: 1.0, 1: 2.0, 2: 3.0}, names)
    assert means == {"loss/web": 1.0, f"loss/{'x' * 80}~1": 2.0, f"loss/{'x' * 80}~2": 3.0}
