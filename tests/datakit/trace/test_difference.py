"""Two sides held against each other, by numbers that are worked out by hand or by numpy from the same rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.catalog.ask import workspace_process
from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import named
from datakit.catalog.workspace import read_workspace
from datakit.trace.difference import Difference, difference
from schemas import SAMPLES, Column, Dataset
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples


def between(make: Maker, a: str, b: str) -> Difference:
    workspace = read_workspace(str(make.root))
    lineage = Lineage(workspace.entries)
    last = last_run(lineage)
    with workspace_process(str(make.root)) as process:
        return difference(lineage, process, named(lineage, a, last), named(lineage, b, last), last)


def put(rows: pa.Table, **columns: list[Any]) -> pa.Table:
    """`rows` with other values in some columns."""
    for name, values in columns.items():
        place = rows.column_names.index(name)
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, pa.array(values, field.type))
    return rows


def iteration(make: Maker, number: int, rows: pa.Table, rewards: list[float], seed: int) -> None:
    folder = f"rest/own/iter={number}"
    drawn = make(f"{folder}/samples-0000000{number}", SAMPLES, rows, op="generate.complete", params={"seed": seed})
    make(f"{folder}/rewards-0000000{number}", REWARDED, rewarded(rows, rewards), drawn, op="label.reward")


def test_a_win_is_counted_by_common_prompts(make: Maker) -> None:
    """Prompt p: 1 against 3, B wins; q: 2 against 2 (the mean of 1 and 3), a tie; r and s are of one side alone."""
    first = put(samples(4), prompt_id=["p", "q", "r", "r"], response=["a", "bb", "cc", "dddd"],
                response_ids=[[1], [1, 2], [1], [1]], finish_reason=["stop", "stop", "stop", "length"])  # fmt: skip
    second = put(samples(4, 4), prompt_id=["p", "q", "q", "s"], response=["a", "a", "a", "a"],
                 response_ids=[[1]] * 4, finish_reason=["stop"] * 4)  # fmt: skip
    iteration(make, 1, first, [1.0, 2.0, 9.0, 9.0], seed=1)
    iteration(make, 2, second, [3.0, 1.0, 3.0, -9.0], seed=2)
    result = between(make, "rest/own/iter=1", "rest/own/iter=2")
    [reward] = result.rewards.to_pylist()
    assert (reward["stage"], reward["scorer"], reward["samples_a"], reward["samples_b"]) == ("rewards", "reward", 4, 4)
    assert (reward["mean_a"], reward["mean_b"]) == (5.25, -0.5)
    assert reward["spread_a"] == pytest.approx(np.std([1, 2, 9, 9]))
    assert (reward["prompts"], reward["difference"]) == (2, 1.0)
    assert (reward["low"], reward["high"]) == (0.0, 2.0), "of two prompts either may be drawn twice"
    assert (reward["wins_a"], reward["ties"], reward["wins_b"], reward["win_rate_b"]) == (0, 1, 1, 0.75)
    rows = {row["key"]: (row["only_a"], row["common"], row["only_b"]) for row in result.rows.to_pylist()}
    assert rows == {"prompt_id": (1, 2, 1), "sample_id": (4, 0, 4)}
    characters = {row["unit"]: (row["mean_a"], row["most_a"], row["mean_b"]) for row in result.lengths.to_pylist()}
    assert characters == {"characters": (2.25, 4, 1.0), "tokens": (1.25, 2, 1.0)}
    ends = {row["finish_reason"]: (row["share_a"], row["share_b"]) for row in result.finish_reasons.to_pylist()}
    assert ends == {"length": (0.25, 0.0), "stop": (0.75, 1.0)}
    assert result.settings == [{"stage": "samples", "setting": "seed", "a": 1, "b": 2}]
    assert result.stages == []


def test_rewards_agree_with_numpy(make: Maker) -> None:
    random = np.random.default_rng(7)
    drawn: list[tuple[list[str], list[float]]] = []
    for number in (1, 2):
        prompts = [f"p{one}" for one in random.integers(0, 60, 300)]
        rewards = [float(one) for one in random.integers(0, 4, 300) / 4]
        iteration(make, number, put(samples(300, 300 * number), prompt_id=prompts), rewards, seed=3)
        drawn.append((prompts, rewards))
    means = []
    for prompts, rewards in drawn:
        by_prompt: dict[str, list[float]] = defaultdict(list)
        for prompt, value in zip(prompts, rewards, strict=True):
            by_prompt[prompt].append(value)
        means.append({prompt: float(np.mean(values)) for prompt, values in by_prompt.items()})
    common = sorted(means[0].keys() & means[1].keys())
    differences = np.array([means[1][one] - means[0][one] for one in common])
    ties = np.isclose(differences, 0, atol=1e-9)
    [reward] = between(make, "rest/own/iter=1", "rest/own/iter=2").rewards.to_pylist()
    assert (reward["prompts"], reward["ties"]) == (len(common), ties.sum())
    assert reward["wins_b"] == (differences[~ties] > 0).sum() and ties.sum() > 0
    assert reward["difference"] == pytest.approx(differences.mean())
    assert reward["mean_b"] == pytest.approx(np.mean(drawn[1][1]))


def test_datasets_are_held_by_their_keys_and_by_what_was_measured_of_their_rows(make: Maker) -> None:
    rows = rewarded(samples(6), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    drawn = make("rest/own/iter=1/samples-00000001", SAMPLES, samples(6), op="generate.complete")
    scored = make("rest/own/iter=1/rewards-00000001", REWARDED, rows, drawn, op="label.reward")
    for name, part in (("some", rows[1:4]), ("more", rows[3:])):
        make(f"rest/own/iter=1/{name}-00000002", REWARDED, part, scored, op="filter.where", params={"predicate": name})
    result = between(make, "rest/own/iter=1/some", "rest/own/iter=1/more")
    [by_sample] = [row for row in result.rows.to_pylist() if row["key"] == "sample_id"]
    assert [by_sample[one] for one in ("rows_a", "rows_b", "only_a", "common", "only_b")] == [3, 3, 2, 1, 2]
    assert [(one["setting"], one["a"], one["b"]) for one in result.settings] == [("predicate", "some", "more")]
    [reward] = result.rewards.to_pylist()
    assert (reward["mean_a"], reward["mean_b"], reward["ties"], reward["prompts"]) == (2.0, 4.0, 1, 1)


def test_numbers_that_are_none_are_not_counted(make: Maker) -> None:
    loose = SAMPLES.adding(Column("reward", pa.float64(), "higher is better"))
    for number, last in ((1, float("nan")), (2, float("inf"))):
        make(f"rest/own/iter={number}/rewards-00000001", loose, rewarded(samples(3), [1.0, 2.0, last]))
    [reward] = between(make, "rest/own/iter=1", "rest/own/iter=2").rewards.to_pylist()
    assert (reward["samples_a"], reward["samples_b"], reward["mean_a"], reward["spread_b"]) == (2, 2, 1.5, 0.5)


def test_a_name_of_a_hostile_manifest_is_text(make: Maker) -> None:
    """Names of folders come into the SQL as literals."""
    for number, quote in ((1, "it's"), (2, 'a"); DROP')):
        make(f"{quote}/rows-0000000{number}", SAMPLES, samples(2))
    result = between(make, "it's", 'a"); DROP')
    assert {row["common"] for row in result.rows.to_pylist()} >= {2}
    with pytest.raises(ConfigError, match="nothing is called"):
        between(make, "it's", "its not there")


NETWORK = {"num_layers": 2, "rope": {"base": 10000.0}, "head": "lm", "head_size": 1, "tie_embeddings": True}


def trained(make: Maker, place: str, model: dict[str, Any] | None, *init: Dataset, lr: float = 0.1) -> Dataset:
    """A training of `model`, or of what the checkpoint `init` has; a manifest is all that is asked of it."""
    made = make(place, SAMPLES, samples(2), op="train.sft", params={"model": model, "lr": lr})
    manifest = replace(made.manifest, kind="checkpoint", parents=tuple(one.as_parent("init") for one in init))
    Path(make.root, place, MANIFEST).write_bytes(manifest.to_bytes())
    return Dataset(made.url, manifest)


def test_a_network_that_came_with_a_checkpoint_is_no_other_setting(make: Maker) -> None:
    """But for its head, which is the algorithm's. Two that began as the same or as others, and one that has its own."""
    first = trained(make, "a/policy-00000001", NETWORK)
    second = trained(make, "a/second-00000002", None, first, lr=0.2)
    trained(make, "a/third-00000003", None, second)
    wide = trained(make, "a/wide-00000004", NETWORK | {"num_layers": 4, "head": "scalar"})
    trained(make, "a/wider-00000005", None, wide)
    lost = trained(make, "a/lost-00000006", NETWORK)
    trained(make, "a/orphan-00000007", None, lost)
    Path(lost.url, MANIFEST).unlink()
    layers = {"stage": "", "setting": "model.num_layers"}

    lineage, differ = Lineage(read_workspace(str(make.root)).entries), {}
    pairs = [("policy", "second"), ("policy", "third"), ("third", "wider"), ("wider", "policy"), ("policy", "orphan")]
    with workspace_process(str(make.root)) as process:
        for a, b in [*pairs, ("policy", "wide")]:
            both = (named(lineage, f"a/{one}", ()) for one in (a, b))
            differ[a, b] = difference(lineage, process, *both, ()).settings
    assert differ["policy", "second"] == [{"stage": "", "setting": "lr", "a": 0.1, "b": 0.2}]
    assert differ["policy", "third"] == differ["policy", "orphan"] == []
    assert differ["third", "wider"] == [layers | {"a": 2, "b": 4}]
    assert differ["wider", "policy"] == [layers | {"a": 4, "b": 2}]
    assert [one["setting"] for one in differ["policy", "wide"]] == ["model.num_layers", "model.head"]
