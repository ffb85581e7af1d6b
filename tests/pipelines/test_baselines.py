"""The judges without a network of `docs/examples/hh`: right where the answers tell, as in the run's own table."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from commands import ROOT, environment

from datakit.apply import apply
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.stages.rewards import baselines
from schemas import PREFERENCES
from schemas.dataset import Attempt, Dataset
from schemas.manifest import Manifest

SCRIPT = ROOT / "docs" / "examples" / "hh" / "baselines.py"


def pairs(url: str, count: int, seed: int) -> Dataset:
    """Pairs whose better answer says `please`, and is the longer one in three of four."""
    rng = np.random.default_rng(seed)
    table = PREFERENCES.example(count)
    words = [" ".join(rng.choice(["the", "a", "of", "to", "and"], 12)) for _ in range(2 * count)]
    chosen = [f"please {text}" for text in words[:count]]
    rejected = [text if row % 4 else f"{text} and so on and so on" for row, text in enumerate(words[count:])]
    for name, texts in (("chosen", chosen), ("rejected", rejected)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(texts, pa.string()))
    attempt = Attempt.begin(url, PREFERENCES)
    with attempt.shard(0) as writer:
        writer.write(PREFERENCES.conform(table))
        return attempt.commit([writer.finish()])


def test_the_script_tells_all_three_judges(tmp_path: Path) -> None:
    pairs(str(tmp_path / "pairs.train-00000000"), 200, 0)
    pairs(str(tmp_path / "pairs.held-out-00000000"), 40, 1)
    (tmp_path / "reward-model-00000000").mkdir()
    facts = {"stats": {"val_accuracy": 0.625}}
    (tmp_path / "reward-model-00000000" / "_manifest.json").write_bytes(
        Manifest(kind="checkpoint", facts=facts).to_bytes()
    )
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], env=environment(), capture_output=True, text=True, check=True
    )
    printed = dict(line.rsplit("  ", 1) for line in done.stdout.splitlines()[1:])
    assert done.stdout.splitlines()[0] == "40 held-out pairs, 200 to learn from; in the right order:"
    assert [name.strip() for name in printed] == ["reward model", "longer answer", "bag of words"]
    figures = [float(text.split("%")[0]) / 100 for text in printed.values()]
    assert figures[0] == 0.625
    assert 0.6 < figures[1] < 0.9
    assert figures[2] == 1.0


def test_equal_scores_are_no_order_as_for_a_reward_model() -> None:
    """Two of four differences point the right way, one the wrong way, and one pair has the same words on both sides."""
    script = runpy.run_path(str(SCRIPT))
    columns = {"good": 0, "bad": 1}
    bags = [script["bags"](texts) for texts in (("good", "good", "bad", "good"), ("bad", "", "good", "good"))]
    rows = script["differences"](*bags, columns)
    assert script["right"](rows, np.array([1.0, -1.0], np.float32)) == 0.5


def test_the_script_says_what_is_missing(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    with pytest.raises(SystemExit, match=r"holds no finished pairs\.train"):
        script["main"]([str(tmp_path)])


def test_the_run_has_the_longer_answer_among_its_own_figures(tmp_path: Path) -> None:
    given = pairs(str(tmp_path / "given"), 40, 1)
    node = baselines(plan := Plan(str(tmp_path / "root")), "p", plan.existing(given.url, "dataset"))
    for made in node.ancestors():
        if isinstance(made, Table):
            apply(made.op, [Dataset.open(one.url) for one in made.inputs], made.url, task_key=made.task_key)
    chosen, rejected = (given.read([name])[name].to_pylist() for name in ("chosen", "rejected"))
    wins = [(len(good) > len(bad)) + (len(good) == len(bad)) / 2 for good, bad in zip(chosen, rejected, strict=True)]
    printed = Dataset.open(node.url).read().to_pylist()
    assert printed[0]["metric"] == "longer_chosen.mean"
    assert printed[0]["value"] == pytest.approx(np.mean(wins))
