"""Every recipe of the registry by one contract: parameters, planning, names, a tiny run, a second one without work."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import luigi
import pytest
from commands import ROOT, digests, environment

from datakit.registry import OPS
from pipelines import recipes
from pipelines.cli.learning import MergedParameter
from pipelines.commands.iterations import SampledIteration
from pipelines.commands.one_shot import OneShot
from pipelines.commands.recipe import Recipe, SetupRecipe
from pipelines.graph.plan import Plan
from pipelines.recipes import DraftPlus, PreferenceOptimization
from pipelines.setups import setups
from schemas.errors import ConfigError
from tests import pages
from tests.pipelines import hollow_diffusion, small_model
from trainers.architecture import ModelConfig
from trainers.config import Training
from trainers.images.config import ImageTraining
from trainers.registry import algorithms

RECIPES: dict[str, type[Recipe[Any]]] = {
    name: kind for name, kind in vars(recipes).items() if inspect.isclass(kind) and issubclass(kind, Recipe)
}
PAIRS = [{"prompt": f"Say {n}.", "chosen": f"It is {n}, please.", "rejected": f"No, not {n}."} for n in range(60)]
ROWS = [{"prompt": f"Say {n}.", "response": f"It is {n}, please."} for n in range(60)]
QUESTIONS = [{"prompt": row["prompt"]} for row in ROWS]
FILES = {"pairs.jsonl": PAIRS, "rows.jsonl": ROWS, "questions.jsonl": QUESTIONS}
NETWORK = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 2, "num_query_groups": 2}
LEARNING = {"max_steps": 2, "global_batch_size": 16, "optim": {"lr": 1e-3, "warmup_steps": 1}}
SMALL: dict[type, dict[str, Any]] = {
    Training: LEARNING,
    ImageTraining: {"max_steps": 2, "global_batch_size": 2, "sampler": {"steps": 2}, "lora": {"rank": 2}},
}
TINY: dict[str, Any] = {
    "digits_digits": 3,
    "digits_demonstrations": 384,
    "digits_wrong_share": 0.2,
    "digits_prompts": 160,
    "digits_held_out": 24,
    "digits_pair_prompts": 48,
    "digits_pairs_per_prompt": 2,
    "digits_max_length": 48,
    "digits_model": NETWORK,
    "digits_base": {"epochs": 12, "global_batch_size": 16, "optim": {"lr": 5e-3}},
    "preferences_title": "toy",
    "preferences_files": ["pairs.jsonl"],
    "preferences_vocabulary": 300,
    "preferences_held_out": 0.25,
    "preferences_model": NETWORK,
    **{f"{setup}_{name}": LEARNING for setup in ("digits", "preferences") for name in ("reward", "improve")},
    "preferences_base": LEARNING,
}
"""Settings of the setups; what a recipe itself sets follows from the kinds of its parameters."""


def given(kind: type[Recipe[Any]]) -> dict[str, Any]:
    """Settings without which a recipe has nothing to work on, in a folder made by `furnish`."""
    files = {"completions": "rows.jsonl", "preferences": "pairs.jsonl", "prompts": "questions.jsonl"}
    places = {"model": "model", "teacher": "model", "reward": "judges:letters"}
    places |= {"model": "diffusion", "reward": "judges:bright"} if kind is DraftPlus else {}
    needed: tuple[str, ...] = getattr(kind, "needed", ())
    return {name: files[kind.usual_format] if name == "data" else places[name] for name in needed}  # type: ignore[attr-defined]


def tiny(kind: type[Recipe[Any]]) -> dict[str, Any]:
    """Settings with which a recipe runs in seconds."""
    own = {
        "prompts_per_iteration": 48,
        "prompts_per_step": 4,
        "samples_per_prompt": 4,
        "eval_share": 0.25,
        "max_new_tokens": 8,
        "temperature": 1.0,
    }
    parameters = dict(kind.get_params())
    chosen = {name: value for name, value in own.items() if name in parameters}
    merged = {name: one for name, one in parameters.items() if isinstance(one, MergedParameter)}
    chosen |= {name: SMALL.get(one.kind, LEARNING) for name, one in merged.items()}
    idle = () if kind.training == "improve" else ("_improve",)
    idle += ("_reward",) if kind is PreferenceOptimization else ()
    setup = {name: value for name, value in TINY.items() if not name.endswith(idle)} if idle else TINY
    return {**(setup if issubclass(kind, SetupRecipe) else {}), **chosen, **given(kind)}


def furnish(folder: Path) -> None:
    """Puts the files that recipes and setups are given into `folder`."""
    for name, rows in FILES.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> type[Recipe[Any]]:
    return RECIPES[request.param]


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Files for the setups and recipes that need some, and a configuration that names them."""
    place = tmp_path_factory.mktemp("files")
    furnish(place)
    small_model.write(place / "model")
    hollow_diffusion.write(place / "diffusion")
    config = luigi.configuration.get_config()
    sections = {
        name: {key: file if ":" in file else str(place / file) for key, file in given(kind).items()}
        for name, kind in RECIPES.items()
    }
    sections["preferences"] = {"files": json.dumps([str(place / "pairs.jsonl")])}
    for section, settings in sections.items():
        for name, value in settings.items():
            config.set(section, name, value)
    yield place, sections
    for section, settings in sections.items():
        for name in settings:
            config.remove_option(section, name)


def test_a_recipe_is_one_file_with_all_its_defaults(recipe: type[Recipe[Any]]) -> None:
    module = importlib.import_module(recipe.__module__)
    assert module.__name__.startswith("pipelines.recipes.") and inspect.getdoc(module) and recipe.__doc__
    assert not inspect.isabstract(recipe)
    for name, parameter in recipe.get_params():
        assert parameter.description, name
        assert parameter.has_task_value(recipe.get_task_family(), name), f"{name} has no default"
    assert not issubclass(recipe, SetupRecipe) or recipe().setup in setups()


def test_the_graph_is_made_with_the_plan_that_is_given(recipe: type[Recipe[Any]], tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    results = recipe(**dict.fromkeys(("iteration",) if "iteration" in dict(recipe.get_params()) else (), 2)).results(
        plan
    )
    made = set(map(id, plan.nodes.values()))
    named = [*results.datasets.values(), *results.checkpoints.values(), *results.figures.values()]
    assert results.targets and results.checkpoints and results.figures
    for node in (*named, *results.targets):
        assert all(id(one) in made for one in node.ancestors()), node.label
        assert node.root == plan.root
    assert all(node.kind == "dataset" for node in results.datasets.values())
    assert all(node.kind == "checkpoint" for node in results.checkpoints.values())
    assert {node.schema.name for node in results.figures.values() if node.schema} == {"reports"}
    reached = {id(one) for node in results.targets for one in node.ancestors()}
    assert all(id(node) in reached for node in named), "what has a name is made"
    assert not list(tmp_path.iterdir())


PLANNED = """
import json, os, sys, time, luigi, pipelines
from pipelines.graph.plan import Plan
from pipelines.recipes import PreferenceOptimization
sections, names = json.loads(sys.argv[1])
for section, settings in sections.items():
    for name, value in settings.items():
        luigi.configuration.get_config().set(section, name, value)
def seconds(recipe):
    began = time.process_time()
    results = recipe().results(Plan("data"))
    [node.url for target in results.targets for node in target.ancestors()]
    return time.process_time() - began
for name in names:
    if not os.fork():
        least = min(seconds(getattr(pipelines.recipes, name)) for _ in range(3))
        loaded = [name for name in ("torch", "megatron", "polars") if name in sys.modules]
        print(json.dumps([name, least, loaded]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
"""Plans every recipe in a fork of a process that has made none."""


@pytest.fixture(scope="module")
def planned(files: Any) -> dict[str, tuple[float, list[str]]]:
    """By recipe: the least seconds that its planning takes, and what should not be loaded after it but is."""
    place, sections = files
    command = [sys.executable, "-c", PLANNED, json.dumps([sections, list(RECIPES)])]
    done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (seconds, loaded) for name, seconds, loaded in answers}


def test_it_is_planned_without_torch_in_a_third_of_a_second(
    recipe: type[Recipe[Any]], planned: dict[str, tuple[float, list[str]]]
) -> None:
    seconds, loaded = planned[recipe.__name__]
    assert seconds < 0.3 and loaded == []


CHANGES = {Training: "optim.lr=0.0123", ImageTraining: "optim.lr=0.0123", ModelConfig: "num_layers=7"}


def keys(recipe: Recipe[Any]) -> set[str]:
    """The keys of all that it would make."""
    return {node.task_key for target in recipe.results(Plan("data")).targets for node in target.ancestors()}


def keys_or_fault(recipe: Recipe[Any]) -> set[str] | ConfigError:
    try:
        return keys(recipe)
    except ConfigError as fault:
        return fault


def test_a_change_of_any_training_moves_a_key_or_is_refused(recipe: type[Recipe[Any]], files: Any) -> None:
    place, _ = files
    own = {"model": str(place / "model"), "prompts": str(place / "rows.jsonl"), "original": str(place / "rows.jsonl")}
    given = {f"own_{name}": file for name, file in {**own, "reward": "judges:letters", "max_new_tokens": "8"}.items()}
    config, changed = luigi.configuration.get_config(), 0
    for name, value in given.items():
        config.set("own", name.removeprefix("own_"), value)
    try:
        chosen = [{"setup": name} for name in setups()] if issubclass(recipe, SetupRecipe) else [{}]
        fewer = {"prompts_per_iteration": 8} if issubclass(recipe, SampledIteration) else {}
        for setup in ({**setup, **fewer} for setup in chosen):
            planned = recipe(**setup)
            if isinstance(planned, PreferenceOptimization) and setup["setup"] != "preferences":
                continue
            plain = keys(planned)
            trainings = {
                name: CHANGES[one.kind]
                for section in planned.sections
                for name, one in section.get_params()
                if isinstance(one, MergedParameter)
            }
            for name, change in {"": CHANGES[Training], **trainings}.items():
                path = f"{name}.{change}" if name else change
                made = keys_or_fault(recipe(**setup, set=[path]))
                if isinstance(made, ConfigError):
                    assert name and made.what.startswith(f"--set {path} changes nothing"), made
                    made = keys(recipe(**setup, set=[change]))
                assert made != plain, path
                changed += 1
        assert changed
    finally:
        for name in given:
            config.remove_option("own", name.removeprefix("own_"))


def test_what_its_page_names_is_there(recipe: type[Recipe[Any]]) -> None:
    page = f"{inspect.getdoc(importlib.import_module(recipe.__module__))}\n{inspect.getdoc(recipe)}"
    families = {name.partition(".")[0] for name in OPS}
    for family, name in re.findall(r"`(\w+)\.(\w+)`", page):
        if family in families:
            assert f"{family}.{name}" in OPS
        if family == "train":
            assert name in algorithms()
    names = set(dict(recipe.get_params())) | set(recipe().results(Plan("data")).datasets)
    columns = {name for node in recipe().results(Plan("data")).datasets.values() for name in node.schema.names}  # type: ignore[union-attr]
    for name in re.findall(r"`(\w+)`", page):
        assert name in names | columns | set(algorithms()), f"{name} is neither a parameter, a dataset nor a column"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(rf"(?:luigi --module pipelines|quiver) {recipe.__name__}\b(.*?)(?:  #|\n)", readme)
    assert commands, "the README has no command for it"
    flags = {name.replace("_", "-") for name in dict(recipe.get_params())}
    flags |= {f"{setup}-{name}".replace("_", "-") for setup, kind in setups().items() for name, _ in kind.get_params()}
    for flag in re.findall(r"--([\w-]+)", " ".join(commands)):
        assert flag in flags, flag


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tiny_run_and_a_second_one_without_work(recipe: type[Recipe[Any]], tmp_path: Path) -> None:
    furnish(tmp_path)
    if issubclass(recipe, OneShot):
        pages.model(tmp_path / "model", max_position_embeddings=2048)
    if recipe is DraftPlus:
        pages.diffusion(tmp_path / "diffusion")
    (tmp_path / "program.py").write_text(
        f"""
import json, sys, time
import pipelines
if __name__ == "__main__":
    began = time.monotonic()
    result = pipelines.run({recipe.__name__!r}, **json.load(open("settings.json")))
    seconds = time.monotonic() - began
    rows = {{name: dataset.num_rows for name, dataset in result.datasets.items()}}
    tables = [table.records() for table in result.tables]
    print(json.dumps([seconds, rows, dict(result.checkpoints), dict(result.figures), tables, repr(result)]))
"""
    )
    (tmp_path / "settings.json").write_text(json.dumps(tiny(recipe)))
    (_, rows, checkpoints, figures, tables, shown), made = _run(tmp_path), digests(tmp_path)
    assert rows and all(count > 0 for count in rows.values())
    assert all((Path(place) / "_manifest.json").is_file() for place in checkpoints.values())
    assert (
        figures and all(figures.values()) and tables[0] and all(str(place) in shown for place in checkpoints.values())
    )
    began = time.monotonic()
    again = _run(tmp_path)
    assert again[1:] == [rows, checkpoints, figures, tables, shown] and digests(tmp_path) == made
    assert again[0] < 3, f"nothing to do took {again[0]:.1f} s, {time.monotonic() - began:.1f} s with imports"


def _run(folder: Path) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return results
