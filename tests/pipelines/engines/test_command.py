"""An engine from the command line: what it stands on is made first and once, and its answers are held against nothing
but what was found.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from schemas.dataset import Dataset
from tests.pipelines.commands import PATH, luigi
from tests.pipelines.engines.conftest import PUBLISHED, Own

pytestmark = pytest.mark.slow
ENGINES = os.pathsep.join([PATH, str(PUBLISHED)])


def test_answers_and_log_probabilities_of_an_engine_through_commands(own: Own, tmp_path: Path) -> None:
    """A checkpoint: exported, known, asked; the same again makes nothing; where it differs the run ends with 11."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Question {n}"}) + "\n" for n in range(6)))
    model = f"vllm:{own.checkpoint}"
    asked = ("Generate", "--model", model, "--prompts", "prompts.jsonl", "--greedy", "--max-new-tokens", "8")
    done = luigi(tmp_path, *asked, module="pipelines", PYTHONPATH=ENGINES)
    assert done.returncode == 0, done.stderr
    samples = Dataset.open(done.stdout.split()[-1])
    own_done = luigi(tmp_path, "Generate", "--model", own.checkpoint, *asked[3:], module="pipelines")
    ours = Dataset.open(own_done.stdout.split()[-1])
    names = ["prompt_id", "response", "response_ids", "finish_reason"]
    assert samples.read(names).sort_by("prompt_id") == ours.read(names).sort_by("prompt_id")
    assert samples.manifest.facts["generator"] != ours.manifest.facts["generator"]
    [compared] = samples.manifest.runtime_info["checks"]["generator"]
    assert (
        compared["engine"].startswith("vllm")
        and compared["given"]["greatest"] < compared["given"]["tolerance"]["greatest"]
    )
    assert "checks" not in ours.manifest.runtime_info
    made = sorted(
        path.parent.name.rpartition("-")[0] for path in tmp_path.glob("quiver-data/engines/*/*/_manifest.json")
    )
    assert made == ["folder", "known"] and "may answer otherwise another time" in done.stderr

    scored = luigi(
        tmp_path, "Label", "--data", samples.url, "--op", "logprobs", "--model", f"{model},workers=1",
        module="pipelines", PYTHONPATH=ENGINES,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    again = luigi(tmp_path, *asked, module="pipelines", PYTHONPATH=ENGINES)
    assert again.returncode == 0 and "engines/" not in again.stdout + again.stderr.replace(model, ""), again.stderr
    missing = luigi(tmp_path, *asked, module="pipelines")
    assert missing.returncode == 2 and "vllm, which is not installed" in missing.stderr
