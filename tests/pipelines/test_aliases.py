"""Older names of commands, flags and settings: the same graph, to the key; `--model` names a model everywhere."""

from __future__ import annotations

import configparser
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.cmdline_parser import CmdlineParser

import pipelines
from datakit.io import Reversal
from datakit.tokenize import Train as TrainTokenizer
from pipelines.commands import models, stages
from pipelines.commands.command import Command
from pipelines.commands.evaluation import Evaluate
from pipelines.graph.plan import Plan
from pipelines.runtime import settings
from pipelines.setups.digits import digits
from pipelines.setups.own import own
from pipelines.stages.iteration import OWN_TEMPLATE
from schemas.errors import ConfigError

SHAPE = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}

PAIRS: dict[str, tuple[Callable[..., Command], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "Generate": (stages.Generate, {"prompts": "prompts.jsonl"}, {"model": "model"}, {"policy": "model"}),
    "Evaluate": (Evaluate, {"prompts": "prompts.jsonl"}, {"model": "model"}, {"policy": "model"}),
    "Label": (stages.Label, {"data": "rows.jsonl", "op": "reward"}, {"model": "judge"}, {"reward_model": "judge"}),
    "ExportModel": (
        models.ExportModel,
        {},
        {"model": "model", "family": "llama"},
        {"checkpoint": "model", "architecture": "llama"},
    ),
    "MergeModel": (models.MergeModel, {}, {"model": "model"}, {"adapters": "model"}),
}


def urls(command: Command) -> list[str]:
    return [node.url for node in command.build(Plan("data"))]


@pytest.mark.parametrize("name", PAIRS)
def test_an_older_flag_asks_for_the_same(place: Path, name: str) -> None:
    command, common, new, old = PAIRS[name]
    assert urls(command(**common, **new)) == urls(command(**common, **old)) == urls(command(**common, **new, **old))
    with pytest.raises(ConfigError, match="are the same flag"):
        urls(command(**common, **{**new, "model": "elsewhere"}, **old))
    with pytest.raises(ConfigError, match=f"{name} needs --model"):
        urls(command(**common))


def test_an_imported_model_has_the_label_and_key_that_an_adopted_one_had(place: Path) -> None:
    assert urls(models.ImportModel(folder="model")) == urls(models.AdoptModel(folder="model"))
    assert urls(models.ImportModel(folder="model"))[0].startswith(f"{place}/data/adopted/model-")


def test_a_model_that_is_never_asked_is_refused(place: Path) -> None:
    length: dict[str, Any] = {"data": "rows.jsonl", "op": "length", "params": {"column": "response"}}
    assert urls(stages.Label(**length))
    with pytest.raises(ConfigError, match=r"label\.length asks no model"):
        urls(stages.Label(**length, model="model"))


def test_training_starts_from_a_model_or_from_an_architecture(place: Path, tmp_path: Path) -> None:
    from tests.pipelines.test_tokenizer_check import make

    plan = Plan(str(tmp_path))
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    data = make(rows, tmp_path).url
    tokenizer = make(plan.table("tokenizer", TrainTokenizer(vocab_size=280), rows), tmp_path).url
    given: dict[str, Any] = {"data": data, "tokenizer": tokenizer}
    for wrong, text in (
        ({}, "Train needs --model"),
        ({"model": json.dumps(SHAPE)}, "is --architecture"),
        ({"model": "model", "architecture": SHAPE}, "one of --model and --architecture"),
        ({"model": "json:dumps"}, "has no weights here"),
    ):
        with pytest.raises(ConfigError, match=text):
            urls(stages.Train(**given, **wrong))


def test_the_policy_and_the_networks_of_task_setups_have_older_names(place: Path) -> None:
    assert own(policy="model", reward="a:b").first == own(model="model", reward="a:b").first == "model"
    plan = Plan("data")
    keys = {
        digits(**{name: {**SHAPE, "num_attention_heads": 4}}).task_setup(plan, 0, OWN_TEMPLATE).policy.task_key
        for name in ("architecture", "model")
    }
    assert len(keys) == 1 and digits().task_setup(plan, 0, OWN_TEMPLATE).policy.task_key not in keys


def test_the_setup_of_a_recipe_has_an_older_flag_and_key(place: Path) -> None:
    def setup_of(*flags: str) -> str:
        with CmdlineParser.global_instance(["RestIteration", *flags]) as parser:
            return str(parser.get_task_obj().setup)

    assert setup_of() == "digits" and setup_of("--source", "own") == setup_of("--setup", "own") == "own"
    assert setup_of("--source", "preferences", "--setup", "own") == "own"
    with pytest.raises(ConfigError, match="there is no setup digts"):
        pipelines.run("RestIteration", source="digts")
    config = luigi.configuration.get_config()
    assert isinstance(config, configparser.ConfigParser)
    try:
        config.set("RestIteration", "source", "preferences")
        settings.check()
        assert setup_of() == "preferences" and setup_of("--setup", "own") == "own"
        config.set("RestIteration", "setup", "own")
        assert setup_of() == "own" and setup_of("--source", "digits") == "digits"
    finally:
        config.remove_section("RestIteration")
