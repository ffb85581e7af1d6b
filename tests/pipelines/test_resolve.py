"""Where results lie: stages in between and other experiments never match the glob of a result; checkpoints have a
folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import permutations
from pathlib import Path

import duckdb
import pytest
from commands import REST
from commands import luigi as command
from luigi.configuration import get_config

from datakit.io import Reversal
from pipelines.commands.iterations import AlignmentIteration
from pipelines.graph.node import Node
from pipelines.graph.order import ordered
from pipelines.graph.plan import Plan
from pipelines.recipes import RejectionSamplingIteration, RestIteration
from pipelines.setups import own
from schemas.errors import ConfigError
from tests.trainers.weights import tiny

PAIRS = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(4)]
REMOTE = "s3://bucket/data"


@pytest.fixture(scope="module", autouse=True)
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A file for the setup `preferences`."""
    place = tmp_path_factory.mktemp("places") / "pairs.jsonl"
    place.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    config = get_config()
    config.set("preferences", "files", json.dumps([str(place)]))
    yield
    config.remove_option("preferences", "files")


def planned(recipe: type[AlignmentIteration], **given: object) -> list[Node]:
    task = recipe(**given)
    return ordered(task.build(Plan("unused")))


def caught(nodes: list[Node]) -> list[tuple[str, str]]:
    """Pairs of labels of which the glob of the first takes in results of the second."""
    places = {node.label: node.url for node in nodes if node.made}
    return [(one, other) for one, other in permutations(places, 2) if fnmatchcase(places[other], f"*/{one}-*")]


@pytest.mark.parametrize("recipe", [RestIteration, RejectionSamplingIteration])
@pytest.mark.parametrize("setup", ["digits", "preferences"])
def test_the_glob_of_a_result_matches_no_other_stage(recipe: type[AlignmentIteration], setup: str) -> None:
    nodes = planned(recipe, iteration=2, setup=setup)
    assert len(nodes) > 40
    assert caught(nodes) == []


@pytest.mark.slow
def test_the_glob_of_answers_reads_answers_alone(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tiny.write("llama", tmp_path / "hf")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w8 w9"}\n{"prompt": "w10"}\n')
    asked = ("Generate", "--policy", "hf", "--prompts", "prompts.jsonl", "--max-new-tokens", "4", "--template", "text")
    done = command(tmp_path, *asked, module="pipelines")
    assert done.returncode == 0, done.stderr
    made = sorted(path.name[:-9] for path in tmp_path.glob("quiver-data/generate/*-????????"))
    assert made == ["prompts", "prompts.texts", "prompts.tokens"]
    glob = f"{tmp_path}/quiver-data/generate/prompts-*/*.parquet"
    assert len(duckdb.sql(f"SELECT response, sample_id FROM read_parquet('{glob}')").fetchall()) == 2


def samples_of(nodes: list[Node]) -> set[str]:
    return {node.label.rpartition("/iter=")[0] for node in nodes if "/iter=" in node.label}


def test_an_experiment_is_a_folder_that_defaults_to_the_title_of_the_setup() -> None:
    assert samples_of(planned(RestIteration, setup="digits")) == {"rest/digits"}
    assert samples_of(planned(RestIteration, setup="preferences")) == {"rest/preferences"}
    assert samples_of(planned(RejectionSamplingIteration, setup="digits")) == {"rejection-sampling/digits"}
    mine = planned(RestIteration, setup="digits", experiment="warm_0.7")
    assert samples_of(mine) == {"rest/warm_0.7"}
    shared = {node.url for node in mine} & {node.url for node in planned(RestIteration, setup="digits")}
    assert {url.rsplit("/", 1)[-1].rsplit("-", 1)[0] for url in shared} >= {"policy", "reward-model", "tokenizer"}


@pytest.mark.parametrize("name", ["a/b", "..", "iter=1", "a*", ".hidden", "two words"])
def test_an_experiment_is_the_name_of_one_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="bad-parameter") as refused:
        planned(RestIteration, setup="digits", experiment=name)
    assert refused.value.next


@pytest.mark.parametrize(
    ("policy", "reward", "title"),
    [
        ("models/llama-3.1-8b", "my_reward:score", "llama-3.1-8b+my_reward-score"),
        ("models/llama-3.3-70b/", "rewards.polite:score", "llama-3.3-70b+rewards.polite-score"),
        ("s3://bucket/policy-0a1b2c3d", "judges/rm=2", "policy-0a1b2c3d+rm-2"),
    ],
)
def test_your_own_experiment_is_called_after_policy_and_reward(policy: str, reward: str, title: str) -> None:
    assert own(policy=policy, reward=reward)._title() == title
    assert own(policy=policy, reward=reward, title="chosen")._title() == "chosen"


def test_a_checkpoint_below_a_remote_root_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = command(tmp_path, *REST, "--quiver-root", REMOTE, module="pipelines")
    assert done.returncode == 2, done.stderr
    assert "error[2/remote-checkpoint]" in done.stderr and REMOTE in done.stderr
    assert "--quiver-root ./quiver-data" in done.stderr and "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "log" not in path.name]


def test_datasets_alone_may_lie_below_a_remote_root() -> None:
    assert Plan(REMOTE).table("rows", Reversal(rows=8)).url.startswith(f"{REMOTE}/rows-")
