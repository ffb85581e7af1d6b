"""The script for GPU machines, at toy sizes on the CPU."""

from __future__ import annotations

from tests.gpu.report import NETWORKS, apart, environment, measured


def test_a_measurement_in_a_process_of_its_own() -> None:
    task = {"model": NETWORKS["llama"], "lengths": [31, 64, 17], "steps": 2}
    one, other = measured(task, cpu=True), measured({**task, "micro_batch_tokens": 64}, cpu=True)
    assert one["tokens_per_second"] > 0 and len(one["losses"]) == 2
    assert apart(one, other) < 1e-5
    assert "GPU" in next(environment())


def test_what_cannot_run_is_told_in_its_place() -> None:
    task = {"model": NETWORKS["llama"], "lengths": [31], "steps": 1, "implementation": "te"}
    assert "Transformer Engine is not usable here" in measured(task, cpu=True)["error"]
