"""The report for GPU machines: the same code at toy sizes on the CPU, what is cut off, and what disagrees."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.gpu import agreement, report
from tests.gpu.children import ROOT, Child, measure
from tests.gpu.measure import check_room
from tests.gpu.networks import NETWORKS, SHAPES
from tests.gpu.parts import PARTS, Line, Part, Where
from tests.pipelines.commands import REST
from tests.pipelines.engines.conftest import PUBLISHED


def dry_run(folder: Path, parts: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu.report", "--dry-run", "--parts", parts, "--out", str(folder / "out")]
    command += ["--work", str(folder / "work"), *more]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def runs(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.mark.slow
def test_a_dry_run_measures_every_part_that_needs_no_second_folder(tmp_path: Path) -> None:
    for absent in ("polars", "duckdb", "luigi"):
        (tmp_path / f"{absent}.py").write_text("raise ModuleNotFoundError(__name__)\n")
    done = dry_run(tmp_path, "machine,parity,speed,sampler", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {(line["part"], line["name"]): line for line in report.read(tmp_path / "out" / "report.jsonl")}
    assert not [line for line in lines.values() if "error" in line]
    assert lines["machine", "machine"]["version torch"] and lines["machine", "machine"]["matmul_tflops"] > 0
    for what in ("sft", "rm", "sampler"):
        assert lines["parity", f"llama {what}"]["agrees"] is True
    assert lines["parity", "llama sampler"]["answers"] == 6
    assert 0 < lines["parity", "llama sampler"]["read_again"] < 1e-3
    assert lines["speed", "toy, recompute none"]["tokens_per_second"] > 0
    assert lines["sampler", "toy, batch 4"]["tokens"] == 32
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count("###") == 4 and "| llama rm | 0.0e+00 | 0.0e+00 | 2.0e-04 |" in page


@pytest.mark.slow
def test_a_dry_run_of_an_iteration_tells_accuracy_before_and_after(tmp_path: Path) -> None:
    done = dry_run(tmp_path, "digits", "--iteration", *REST[1:], OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = report.read(tmp_path / "out" / "report.jsonl")
    assert 0 <= line["gold_before"] <= 1 and 0 <= line["gold_after"] <= 1 and "error" not in line


@pytest.mark.slow
def test_a_dry_run_holds_engines_against_our_own_network_and_says_which_are_not_there(tmp_path: Path) -> None:
    """vLLM is a stand-in here; the other one is not installed."""
    (tmp_path / "vllm").symlink_to(PUBLISHED / "vllm")
    done = dry_run(tmp_path, "engines", PYTHONPATH=str(tmp_path), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line["name"]: line for line in report.read(tmp_path / "out" / "report.jsonl")}
    assert set(lines) == {"vllm fp32", "vllm bf16", "trtllm"} and "not run: tensorrt_llm" in lines["trtllm"]["error"]
    for precision in ("fp32", "bf16"):
        line = lines[f"vllm {precision}"]
        assert line["agrees"] is True and line["rows"] == 4 and line["given_greatest"] < 1e-4, line


@pytest.mark.slow
def test_an_error_stays_in_its_place_and_the_next_task_goes_on() -> None:
    model = NETWORKS["llama"]
    task = {"do": "train", "algorithm": "sft", "model": model, "vocabulary": 512, "lengths": [9], "steps": 1}
    failed, fine = measure(
        [{**task, "implementation": "te"}, {"do": "machine", "size": 8}], time.monotonic() + 300, gpu=False
    )
    assert "Transformer Engine is not usable here" in str(failed.error) and not failed.steps
    assert fine.error is None and fine.steps[0]["versions"]["megatron-core"]


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_without_a_gpu_the_full_sizes_are_not_tried_on_the_cpu() -> None:
    (answer,) = measure([{"do": "machine", "size": 8192}], time.monotonic() + 300, gpu=True)
    assert "sees no GPU" in str(answer.error)


def test_a_child_out_of_time_leaves_its_lines_and_no_process(tmp_path: Path) -> None:
    child = Child(["bash", "-c", "echo 17; sleep 300 & echo $!; wait"], time.monotonic() + 1.5, cwd=tmp_path, gpu=False)
    first, pid = child.lines()
    assert first == "17" and str(child.error).startswith("out of time")
    end = time.monotonic() + 5
    while runs(int(pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not runs(int(pid))


def test_nothing_starts_after_the_deadline() -> None:
    answers = list(measure([{"do": "machine", "size": 8}] * 2, time.monotonic() - 1, gpu=False))
    assert [answer.error for answer in answers] == ["not run: out of time"] * 2


def test_a_part_that_breaks_or_comes_too_late_keeps_the_figures_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(where: Where, deadline: float) -> Iterator[Line]:
        yield {"name": "first", "tokens_per_second": 1234.5, "memory_b": 3 * 2**30, "mfu": 0.4567}
        raise ValueError("a | b")

    part = Part(breaks, 60, "Broken", ("tokens_per_second", "mfu", "memory_b"))
    monkeypatch.setattr(report, "PARTS", {"broken": part, "late": part})
    (tmp_path / "report.jsonl").write_text('{"part": "late", "name": "older"}\n')
    report.run(["broken"], Where(tmp_path, gpu=False, toy=True), 60, tmp_path)
    with (tmp_path / "report.jsonl").open("a") as file:
        file.write('{"part": "broken", "na')
    lines = report.run(["late"], Where(tmp_path, gpu=False, toy=True), 0, tmp_path)
    page = (tmp_path / "report.md").read_text().splitlines()
    assert [line["name"] for line in lines] == ["older", "first", "all", "all"]
    assert "| first | 1,234 | 45.7% | 3.0 GiB |  |" in page
    assert "| all | - | - | - | ValueError: a / b |" in page and "| all | not run: out of time |" in page


def test_both_sides_are_compared_step_by_step() -> None:
    one = [{"loss": 2.0, "norm": 10.0}, {"loss": 1.0, "norm": 8.0}]
    other = [{"loss": 2.0, "norm": 10.0}, {"loss": 1.0005, "norm": 8.0008}]
    apart = agreement.training(one, other, "fp32")
    assert apart["loss"] == pytest.approx(5e-4) and apart["norm"] == pytest.approx(1e-4) and not apart["agrees"]
    assert agreement.training(one, other, "bf16")["agrees"]


def test_other_greedy_tokens_or_logprobs_disagree() -> None:
    one = {"greedy": [[1, 2], [3]], "drawn": [[4], [5]], "logprobs": [[-0.5, -1.0], [-2.0]]}
    one["read"] = one["logprobs"]
    assert agreement.sampling(one, {**one, "drawn": [[4], [6]]})["agrees"]
    greedy = agreement.sampling(one, {**one, "greedy": [[1, 9], [3]]})
    assert greedy["different_greedy"] == 1 and not greedy["agrees"]
    again = agreement.sampling(one, {**one, "read": [[-0.5, -1.0], [-2.01]]})
    assert again["read_again"] == pytest.approx(0.01) and again["logprobs"] == 0 and not again["agrees"]


def test_what_cannot_fit_is_not_begun() -> None:
    check_room({"model": SHAPES["1b"]}, 80 * 2**30)
    with pytest.raises(MemoryError, match="takes 111 GiB of the 80"):  # 6.6e9 multiplied weights of 18 bytes
        check_room({"model": SHAPES["7b"]}, 80 * 2**30)


def test_every_part_has_a_title_and_ten_minutes_suffice_for_those_of_the_first_folder() -> None:
    needed = ("machine", "parity", "speed", "sampler")
    assert sum(PARTS[name].seconds for name in needed) <= 570
    assert all(part.title for part in PARTS.values())
