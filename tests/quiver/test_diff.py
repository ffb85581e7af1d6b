"""`quiver diff`, as a terminal shows it and as other programs read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quiver import console
from schemas import SAMPLES
from schemas.errors import ConfigError
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.quiver.answers import answer


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    make = Maker(tmp_path / "quiver-data")
    for number in (1, 2):
        folder = f"rest/digits/iter={number}"
        drawn = make(
            f"{folder}/samples-0000000{number}", SAMPLES, samples(9), op="generate.complete", params={"t": number}
        )
        rewards = [number / 3 + one for one in range(9)]
        make(f"{folder}/rewards-0000000{number}", REWARDED, rewarded(samples(9), rewards), drawn, op="label.reward")
    return make


def test_a_difference_fits_eighty_columns_and_is_whole_as_json(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("rest/digits/iter=1", "rest/digits/iter=2/")
    text = answer(capsys, "diff", *names)
    assert max(map(len, text.splitlines())) <= 80
    heads = [line.split() for line in text.splitlines() if line.startswith(("stage", "scorer"))]
    assert ["scorer", "prompts", "B", "-", "A", "low", "high", "B", "wins", "ties", "A", "wins", "B", "rate"] in heads
    assert "…" not in text, "names and heads are whole"
    for part in (
        "rows, by what they are of",
        "rewards",
        "B rate",
        "lengths",
        "finish reasons",
        "settings that differ",
    ):
        assert part in text
    result = json.loads(answer(capsys, "diff", *names, "--json"))
    assert result["a"]["kind"] == "folder" and len(result["b"]["results"]) == 2
    [reward] = result["rewards"]
    assert reward["difference"] == pytest.approx(1 / 3)
    assert (reward["wins_b"], reward["win_rate_b"]) == (reward["prompts"], 1.0)
    assert result["settings"] == [{"stage": "samples", "setting": "t", "a": 1, "b": 2}]


def test_a_wrong_name_has_the_near_one(workspace: Maker) -> None:
    with pytest.raises(ConfigError, match="nothing is called") as caught:
        console.run(["diff", "rest/digits/iter=1/sampels", "rest/digits/iter=2/samples"])
    assert caught.value.nearest == "rest/digits/iter=1/samples"
    with pytest.raises(ConfigError, match="asked for with other words"):
        console.run(["diff", "rest/digits/iter=1"])


def test_it_loads_neither_luigi_nor_torch(workspace: Maker) -> None:
    code = (
        "import sys; from quiver import console\n"
        "console.run(['diff', 'rest/digits/iter=1', 'rest/digits/iter=2'])\n"
        "print('loaded', *(sys.modules.keys() & {'luigi', 'torch', 'polars'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"
