"""Forty kills at random moments of a GRPO run of twenty steps: the same curve and digests, no answer drawn twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from datakit.label import GroupAdvantage
from datakit.tokenize import Drawn
from pipelines.online import config
from pipelines.online.__main__ import execute
from tests.pipelines import judges
from tests.pipelines.commands import environment
from tests.pipelines.online import runs
from tests.pipelines.online.kills import placed
from tests.trainers import online

STEPS, CHUNK = 20, 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forty_kills_change_nothing_and_draw_nothing_twice(tmp_path: Path) -> None:
    online.init(tmp_path)
    runs.prompts(tmp_path)
    sys.modules.setdefault("judges", judges)
    rows = (Drawn(), GroupAdvantage())
    changes = {"algorithm": "policy_gradient", "max_steps": STEPS, "save_every": 2}
    whole = runs.online_run(tmp_path, "whole", rows=rows, **changes)
    with runs.watched(tmp_path):
        execute(whole)
    expected, drawn = runs.outcome(whole), runs.draws(tmp_path)
    assert len(drawn) == len({*drawn}) == STEPS * runs.PROMPTS_OF_STEP
    file = tmp_path / "config.json"
    config.write(file, whole)
    command = [sys.executable, "-m", "tests.pipelines.online.kills", str(file), "40", "7"]
    here = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=here, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kills, in_flight = 0, 0
    for line in done.stdout.splitlines():
        cut = json.loads(line)
        assert runs.outcome(placed(whole, cut["name"])) == expected, "curve, facts and rollouts, bit for bit"
        stored: set[str] = set()
        for attempt in cut["attempts"]:
            again = stored & {*attempt["drawn"]}
            assert not again, f"{len(again)} answers were drawn a second time that an attempt before had kept"
            kills += attempt["killed"]
            end = len(attempt["drawn"]) - CHUNK if attempt["killed"] else None
            stored |= {*attempt["drawn"][:end]}
        every = [one for attempt in cut["attempts"] for one in attempt["drawn"]]
        assert {*every} == {*drawn}
        in_flight += len(every) - len({*every})
    assert kills == 40 and in_flight <= 40 * CHUNK, f"{in_flight} prompts stood in a chunk that was in flight"
    print(f"{kills} kills; {in_flight} prompts were asked again, all in the chunk that was in flight")
