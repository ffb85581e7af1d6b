"""What a real vLLM does when it is late, asleep, gone, or another one: as `datakit/clients/http/asking.py` says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datakit.clients import Sampling
from datakit.clients.http import Limits
from datakit.tokenizers.tokenizer import Tokenizer
from pipelines.graph.backend import backend_of, model_at
from pipelines.graph.plan import Plan
from schemas.dataset import Dataset
from schemas.errors import IntegrityError, ServiceError
from tests.pipelines.commands import luigi, started, while_running
from tests.servers.conftest import asking
from tests.servers.test_vllm_answers import prompts, seeds
from tests.servers.vllm_server import VllmServer

pytestmark = pytest.mark.timeout(1800)
Asked = Callable[..., list[dict[str, Any]]]
SHORT = Sampling(max_new_tokens=8)
ROWS = 64
"""As many as make one chunk, whose answers lie in one journal until it is whole."""


@pytest.fixture(scope="module")
def asked(vllm: VllmServer, tokenizer: Tokenizer) -> Asked:
    """What our client makes of the answers of vLLM alone."""
    return asking(vllm.reference, tokenizer)


def test_a_server_that_hangs_is_given_up_and_one_that_wakes_goes_on(vllm: VllmServer, asked: Asked) -> None:
    """While it is paused, requests are taken and never answered."""
    rows, calm = prompts(4), asked(prompts(4), SHORT, seeds(4))
    vllm.post("/pause")
    try:
        with pytest.raises(ServiceError, match="does not answer, asked 2 times") as fault:
            asked(rows, SHORT, seeds(4), limits=Limits(total=2.0, tries=2, backoff=0.1))
        assert fault.value.code == 13 and "no whole answer within 2 s" in fault.value.found
        waker = threading.Timer(3.0, vllm.post, ("/resume",))
        waker.start()
        late = asked(rows, SHORT, seeds(4), limits=Limits(total=2.0, tries=9, backoff=0.5))
        waker.join()
    finally:
        vllm.post("/resume")
    assert late == calm


def test_answers_that_it_was_made_to_break_off_are_asked_for_again(vllm: VllmServer, asked: Asked) -> None:
    """`/pause` ends what is under way with "abort", as a server that goes down does: such an answer is none."""
    rows, long = prompts(8), Sampling(max_new_tokens=190)
    calm, late = asked(rows, long, seeds(8)), []
    asking = threading.Thread(target=lambda: late.extend(asked(rows, long, seeds(8), limits=Limits(tries=99))))
    asking.start()
    while vllm.broken_off == 0 and asking.is_alive():
        time.sleep(0.2)
        vllm.post("/pause")
        vllm.post("/resume")
    asking.join()
    assert late == calm and {one["finish_reason"] for one in late} <= {"stop", "length"}
    assert vllm.broken_off > 0


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_before_a_run_it_is_known_by_its_models_and_its_answers(api: str, vllm: VllmServer, tmp_path: Path) -> None:
    plan = Plan(str(tmp_path / "data"))
    for _ in range(2):
        model = model_at(plan, f"{vllm.reference},api={api},determinism=exact", "generator")
        backend_of(model).health(model)
    [place] = (tmp_path / "data" / "_servers").iterdir()
    was = json.loads(place.read_text())
    assert was["model"] == vllm.model and len(set(was["answers"])) > 1
    place.write_text(json.dumps({**was, "answers": [*was["answers"][:7], "another"]}))
    with pytest.raises(IntegrityError, match="answers 1 of 8 probes otherwise"):
        backend_of(model).health(model)
    strange = model_at(plan, f"{vllm.root}/v1#another", "generator")
    with pytest.raises(ServiceError, match="serves no another"):
        backend_of(strange).health(strange)


def test_a_server_that_is_killed_stops_the_run_and_the_next_one_goes_on(
    vllm: VllmServer, folder: Path, tmp_path: Path
) -> None:
    """Exit 13; what was answered is not asked again, nothing is lost or there twice, and all is what it would be."""
    lines = [json.dumps({"prompt": f"What comes after {number}?"}) for number in range(ROWS)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    model = f"{vllm.reference},tokenizer={folder},concurrency=4"
    command = ("Generate", "--model", model, "--prompts", "prompts.jsonl", "--max-new-tokens", "190")
    run = started(tmp_path, *command, module="pipelines")
    while answered(tmp_path) < 16 and run.poll() is None:
        time.sleep(0.02)
    vllm.kill()
    _, errors = run.communicate(timeout=120)
    kept = answered(tmp_path)
    assert run.returncode == 13 and "does not answer, asked 4 times" in errors, errors
    assert 16 <= kept < ROWS
    none = luigi(tmp_path, *command, module="pipelines")
    assert none.returncode == 13 and "does not answer" in none.stderr and answered(tmp_path) == kept
    vllm.start()
    done = luigi(tmp_path, *command, module="pipelines")
    assert done.returncode == 0, done.stderr
    assert vllm.finished == ROWS - kept + 8  # the probes
    calm = luigi(tmp_path, *command, "--quiver-root", str(tmp_path / "calm"), module="pipelines")
    assert calm.returncode == 0, calm.stderr
    broken, whole = (Dataset.open(one.stdout.split()[-1]) for one in (done, calm))
    assert broken.num_rows == len(set(broken.read()["sample_id"].to_pylist())) == ROWS
    assert broken.content_digest == whole.content_digest


def answered(place: Path) -> int:
    """Answers that a run in `place` has written down so far."""
    return sum(path.read_bytes().count(b'"choices"') for path in while_running(place, "quiver-data/**/*.answers"))
