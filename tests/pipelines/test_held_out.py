"""Rows to judge by: a share of few prompts is one prompt, a share of 0 is none, and an empty set is named."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from luigi.cmdline_parser import CmdlineParser

from datakit.apply import apply
from datakit.blend import Split, Unpair
from pipelines.commands.online import Online
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.recipes import (
    DecisionTransformer,
    Distill,
    Preference,
    PreferenceOptimization,
    RejectionSamplingIteration,
    RestIteration,
    RewardModel,
    Sft,
    SpinIteration,
    SteerLm,
)
from pipelines.setups.own import own
from pipelines.setups.preferences import preferences
from schemas import STEERLM_ATTRIBUTES
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.manifest import MANIFEST, Manifest
from tests import pages
from trainers.architecture import OUTPUT_NAMES

README = (pages.ROOT / "README.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| \[`(\w+)`\]\(docs/methods/\S+\) \|.*\| `(quiver [^`]*)` \|$", README, re.MULTILINE))
"""The commands of README's table of recipes, by recipe."""
ONE_SHOT = {"sft": Sft, "preference": Preference, "reward-model": RewardModel, "distill": Distill}


def furnished(folder: Path, recipe: str) -> None:
    """README's own files, and a student and a reward model beside the model that is there."""
    [files] = [block for block in pages.blocks(pages.ROOT / "README.md") if block.text.startswith("cat > rows.jsonl")]
    pages.execute(files, folder)
    for name in ("student", "my-reward-model"):
        shutil.copytree(folder / "my-model", folder / name)
    (folder / "my-reward-model/config.json").unlink()
    names = [*STEERLM_ATTRIBUTES] if recipe.startswith("SteerLm") else ["reward"]
    shape = {"max_sequence_length": 64, "head": "scalar", "head_size": len(names)}
    (folder / "my-reward-model/model.json").write_text(json.dumps(shape))
    manifest = Manifest(kind="checkpoint", facts={OUTPUT_NAMES: names}, task_key="0" * 64)
    (folder / "my-reward-model" / MANIFEST).write_bytes(manifest.to_bytes())


def splits(targets: Any) -> list[Table]:
    nodes = {one.task_key: one for end in targets for one in end.ancestors()}.values()
    return [node for node in nodes if isinstance(node, Table) and isinstance(node.op, Split) and node.op.shares]


def made(node: Node, folder: Path) -> Dataset:
    """The rows of a node, made as the plan says, what it is made of first."""
    assert isinstance(node, Table)
    place = folder / node.task_key
    if place.exists():
        return Dataset.open(str(place))
    return apply(node.op, [made(given, folder) for given in node.inputs], str(place), seed=node.seed, processes=1)


def sizes(node: Table, folder: Path) -> int:
    """Rows of a part."""
    return made(node, folder).num_rows


def questions(rows: Dataset) -> set[str]:
    """The first questions of `rows`."""
    return {turns[0]["content"] for turns in rows.read()["messages"].to_pylist()}


@pytest.mark.parametrize("name", [name for name, line in ROWS.items() if "my-diffusion" not in line])
def test_the_table_of_readme_holds_a_prompt_of_readmes_files_out(name: str, place: Path) -> None:
    (place / "model").rename(place / "my-model")
    furnished(place, name)
    with CmdlineParser.global_instance(shlex.split(ROWS[name])[1:]) as parser:
        results = parser.get_task_obj().results(Plan(str(place / "out")))
    parts = {part.op.part: part for part in splits(results.targets)}  # type: ignore[attr-defined]
    rows = {part: sizes(node, place / "made") for part, node in parts.items()}
    assert {*rows} == {"train", "held-out"} and all(rows.values())
    assert not isinstance(results, Online) or results.policy.step.prompts == rows["train"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name",
    [
        "Sft",
        "Preference",
        "RewardModel",
        "Distill",
        "Grpo",
        "Reinforce",
        "ReinforcePp",
        "OnlineDpo",
        "OnlineRejectionSampling",
        "Ppo",
    ],
)
def test_the_table_of_readme_runs_on_readmes_files(name: str, tmp_path: Path) -> None:
    pages.model(tmp_path / "my-model")
    furnished(tmp_path, name)
    pages.execute(pages.Block(pages.ROOT / "README.md", 0, "sh", ROWS[name], ""), tmp_path)
    [figures, *_] = (tmp_path / "quiver-data").glob("**/evaluation-*")
    assert Dataset.open(str(figures)).num_rows


@pytest.mark.parametrize("title", ONE_SHOT)
def test_a_share_of_nothing_judges_nothing(title: str, place: Path) -> None:
    pair = {"chosen": "a", "rejected": "q"}
    (place / "pairs.jsonl").write_text("".join(json.dumps({"prompt": p, **pair}) + "\n" for p in "aq"))
    data = "pairs.jsonl" if title in ("preference", "reward-model") else "rows.jsonl"
    more = {"teacher": "model"} if title == "distill" else {}
    results = ONE_SHOT[title](model="model", data=data, eval_share=0.0, **more).results(Plan(str(place / "out")))
    assert not splits(results.targets) and not {*results.figures} - {"learnt"}
    [policy] = [node for name, node in results.checkpoints.items() if name != "first"]
    assert policy.validation is None  # type: ignore[attr-defined]


@pytest.mark.slow
def test_all_rows_are_learnt_from_where_nothing_is_held_out(tmp_path: Path) -> None:
    pages.model(tmp_path / "my-model")
    furnished(tmp_path, "Sft")
    command = f"{ROWS['Sft']} --eval-share 0 > printed"
    pages.execute(pages.Block(pages.ROOT / "README.md", 0, "sh", command, ""), tmp_path)
    printed = (tmp_path / "printed").read_text()
    assert "trained tokens" in printed and "held-out" not in printed
    [tokens] = (tmp_path / "quiver-data/sft/rows").glob("train.tokens-*")
    assert Dataset.open(str(tokens)).num_rows == 3


def test_a_single_prompt_is_refused_before_anything_runs(place: Path) -> None:
    (place / "one.jsonl").write_text('{"prompt": "q", "response": "a"}\n{"prompt": "q", "response": "q"}\n')
    for recipe, cure in (
        (Sft(model="model", data="one.jsonl"), "--eval-share 0"),
        (SteerLm(model="model", data="one.jsonl", reward="judge"), "--eval-data FILE"),
    ):
        with pytest.raises(DataError, match=r"one.jsonl has 1 prompt: too few to learn from some and judge") as fault:
            recipe.results(Plan(str(place / "out")))
        assert (fault.value.slug, fault.value.next) == ("too-few-prompts", cure)
    assert Sft(model="model", data="one.jsonl", eval_share=0.0).results(Plan(str(place / "out"))).targets


def test_a_dataset_of_a_single_prompt_is_refused_too(place: Path) -> None:
    data = "one.jsonl"
    (place / data).write_text('{"prompt": "q", "response": "a"}\n')
    made = Sft(model="model", data=data, eval_share=0.0).rows(Plan(str(place / "out")), data)
    there = apply(made.op, [], str(place / "there"))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="there has 1 prompt"):
        Sft(model="model", data=there.url).results(Plan(str(place / "out")))


def test_questions_that_levels_are_asked_of_have_to_be_there(place: Path) -> None:
    with pytest.raises(ConfigError, match="--eval-share 0 leaves nothing to judge by"):
        SteerLm(model="model", data="rows.jsonl", reward="judge", eval_share=0.0).results(Plan(str(place / "out")))


@pytest.mark.parametrize(("share", "nothing"), [(0.0, "judge by"), (1.0, "learn from")])
def test_setups_name_the_flag_of_a_share_that_leaves_nothing(
    share: float, nothing: str, place: Path, with_settings: Callable[..., None]
) -> None:
    (place / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    given = {"policy": "model", "prompts": "prompts.jsonl", "reward": "judge", "held_out": share, "max_new_tokens": 8}
    with_settings(own, **given)
    with pytest.raises(ConfigError, match=f"--own-held-out {share:g} leaves nothing to {nothing}") as fault:
        RestIteration(setup="own", prompts_per_iteration=1).results(Plan(str(place / "out")))
    assert fault.value.next == "--own-held-out 0.1"


def test_setups_hold_one_of_few_prompts_out(place: Path, with_settings: Callable[..., None]) -> None:
    """Eight questions, a tenth: with most seeds none was drawn."""
    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"{n}"}) + "\n" for n in range(8)))
    given = {"policy": "model", "prompts": "prompts.jsonl", "reward": "judge", "max_new_tokens": 8}
    with_settings(own, **given)
    for seed in range(4):
        recipe = RestIteration(setup="own", prompts_per_iteration=1, seed=seed)
        [held_out] = [
            node for node in splits(recipe.results(Plan(str(place / "out"))).targets) if node.name == "held-out"
        ]
        assert sizes(held_out, place / f"{seed}") >= 1


def test_setups_of_pairs_hold_one_of_few_questions_out(place: Path, with_settings: Callable[..., None]) -> None:
    rows = ({"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(3))
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with_settings(preferences, files=["pairs.jsonl"])
    parts = splits(PreferenceOptimization().results(Plan(str(place / "out"))).targets)
    assert {part.name: sizes(part, place / "made") > 0 for part in parts} == {
        "pairs.train": True,
        "pairs.held-out": True,
    }


ITERATED = [
    (RestIteration, {"score_original": True, "original_share": 0.0}),
    (RestIteration, {}),
    (RejectionSamplingIteration, {}),
    (SpinIteration, {}),
]


@pytest.mark.parametrize(("recipe", "settings"), ITERATED)
def test_no_original_answer_to_a_held_out_prompt_is_learnt(
    recipe: Any, settings: dict[str, Any], place: Path, with_settings: Callable[..., None]
) -> None:
    """60 answers to 20 questions that are the prompts too: a tenth is held out of all that any of the recipes reads."""
    rows = [{"prompt": f"question {n % 20}", "response": f"answer {n}"} for n in range(60)]
    (place / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"policy": "model", "prompts": "answers.jsonl", "original": "answers.jsonl", "reward": "judge"}
    with_settings(own, **given, max_new_tokens=8)
    results = recipe(setup="own", prompts_per_iteration=4, **settings).results(Plan(str(place / "out")))
    judged = questions(made(results.task_setup.eval_setup.held_out, place / "made"))
    learnt = results.task_setup.original
    original = made(learnt, place / "made")
    assert judged and questions(original) == {f"question {n}" for n in range(20)} - judged
    gone = original.read_rejected()
    assert gone.num_rows == 60 - original.num_rows == 3 * len(judged) and {*gone["reason"].to_pylist()} == {"held-out"}
    nodes = {one.task_key: one for end in results.targets for one in end.ancestors()}.values()
    [read] = learnt.inputs[:1]
    assert [one for one in nodes if isinstance(one, Table) and read in one.inputs] == [learnt]


def test_no_pair_of_a_held_out_question_is_learnt(place: Path) -> None:
    """20 questions of the rows, and the same 20 of the pairs."""
    rows = [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(20)]
    pairs = [{"prompt": f"question {n}", "chosen": "a", "rejected": "q"} for n in range(20)]
    for name, some in (("rows.jsonl", rows), ("pairs.jsonl", pairs)):
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    given: dict[str, Any] = {"model": "model", "data": "rows.jsonl", "reward": "judge", "max_new_tokens": 8}
    recipe = DecisionTransformer(**given, pairs="pairs.jsonl", eval_share=0.2)
    plan = Plan(str(place / "out"))
    nodes = {one.task_key: one for end in recipe.results(plan).targets for one in end.ancestors()}.values()
    [apart] = [one for one in nodes if isinstance(one, Table) and isinstance(one.op, Unpair)]
    judged = questions(made(recipe.one_shot_setup(plan).judged, place / "made"))
    assert judged and questions(made(apart, place / "made")) == {f"question {n}" for n in range(20)} - judged
