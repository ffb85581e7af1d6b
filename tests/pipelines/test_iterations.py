"""How iterations stand on each other, and what their results are called: planned only."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.commands.iterations import Iterations
from pipelines.graph.plan import Plan
from pipelines.recipes import RestIteration
from pipelines.report import suggestions
from pipelines.stages.iteration import iteration_seed
from schemas import PROMPTS
from schemas.dataset import Attempt
from schemas.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterations:
    return RestIteration(iteration=2, thresholds=[0.1, 0.2]).results(Plan(str(tmp_path_factory.mktemp("data"))))


def test_the_last_iteration_has_plain_names(twice: Iterations) -> None:
    first, last = twice.steps
    assert twice.datasets["samples"] is last.samples and twice.datasets["iter=1/samples"] is first.samples
    assert twice.datasets["kept"] is twice.datasets["step=2/kept"] is last.kept[1]
    assert twice.checkpoints["policy"] is last.policy and twice.checkpoints["iter=1/policy"] is first.policy
    assert list(twice.figures) == ["first", "iter=1", "iter=2"] and twice.folder == "rest/digits"


def test_runs_with_other_seeds_draw_from_other_streams_in_all_iterations(twice: Iterations) -> None:
    """Sums of seed and number would meet: seed 0's second iteration was seed 1's first."""
    seeds = {(seed, number): iteration_seed(seed, number) for seed in range(40) for number in range(1, 40)}
    assert len(set(seeds.values())) == len(seeds) and all(0 <= seed < 1 << 31 for seed in seeds.values())
    assert [step.samples.seed for step in twice.steps] == [
        iteration_seed(RestIteration().settled_seed, number) for number in (1, 2)
    ]


def test_an_iteration_samples_from_the_policy_of_the_one_before(twice: Iterations) -> None:
    first, last = twice.steps
    assert last.samples.parents["generator"] is first.policy and first.policy in last.policy.ancestors()
    assert twice.checkpoints["first"] in twice.before.answers.ancestors()
    assert first.policy not in twice.before.answers.ancestors()


def test_without_the_last_it_is_the_iteration_before(twice: Iterations) -> None:
    earlier = twice.without_last()
    assert earlier.datasets["samples"] is twice.steps[0].samples
    assert earlier.targets == (twice.steps[0].evaluation.figures, twice.steps[0].policy)


def test_prompts_of_an_iteration_are_used_in_no_other(twice: Iterations) -> None:
    shares = [
        next(one for one in step.samples.ancestors() if one.name == "prompts" and "iter=" in one.label)
        for step in twice.steps
    ]
    assert [share.op.part for share in shares] == ["1", "2"]
    assert [share.op.counts for share in shares] == [(1024, -1), (1024, 1024, -1)]


def test_an_experiment_is_one_folder() -> None:
    with pytest.raises(ConfigError, match="is no name of one folder") as fault:
        RestIteration(experiment="a/b").results(Plan("data"))
    assert fault.value.next.endswith("--experiment a-b")


def test_prompts_that_do_not_suffice_are_an_error_of_the_plan(tmp_path: Path) -> None:
    def planned(iteration: int, prompts: int) -> Iterations:
        recipe = RestIteration(iteration=iteration, prompts_per_iteration=prompts, thresholds=[0.5])
        return recipe.results(Plan(str(tmp_path)))

    first = planned(1, 4)
    attempt = Attempt.begin(first.task_setup.prompts.url, PROMPTS)
    with attempt.shard(0) as writer:
        writer.write(PROMPTS.conform(PROMPTS.example(7)))
        attempt.commit([writer.finish()])
    with pytest.raises(DataError, match="2 iterations of 4 prompts need 8") as caught:
        planned(2, 4)
    assert caught.value.next == "--prompts-per-iteration 3" and "7 prompts" in caught.value.found
    assert planned(2, 3).steps[1].number == 2
    text = suggestions.section(first.task_setup, first.steps[-1], 4, "--prompts-per-iteration")
    assert "prompts left for iteration 2: 3 of the 4" in text and "--iteration 2" not in text
    assert "prompts left" not in suggestions.section(first.task_setup, first.steps[-1], 3, "--prompts-per-iteration")
