"""What `--help` lists: every command in one line, every flag once with its default, operations, formats, settings."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from commands import luigi

import pipelines
from datakit.formats.forms import FORMS
from datakit.registry import OPS
from pipelines.cli import invocation
from pipelines.cli.known_commands import commands, near_task
from pipelines.commands import usage
from pipelines.commands.stages import Filter, Import, Train
from pipelines.recipes import Preference, RestIteration
from pipelines.setups import setups
from quiver import inventory
from schemas.errors import ConfigError
from trainers import registry


def flags(text: str) -> Counter[str]:
    """How often each flag stands at the beginning of a line."""
    return Counter(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(invocation, "_given", [])


def test_without_a_task_the_commands_are_listed_and_nothing_is_started(tmp_path: Path) -> None:
    bare = luigi(tmp_path, module="pipelines", COLUMNS="80")
    assert bare.returncode == 2 and not bare.stderr
    lines = bare.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("RestIteration", "Import", "Generate", "Train", "AdoptModel", "PreferenceOptimization"):
        assert len([line for line in lines if line.split()[:1] == [name] and len(line.split()) > 2]) == 1
    asked = luigi(tmp_path, "Filter", "--op", "where", "--help", module="pipelines", COLUMNS="80")
    assert asked.returncode == 0 and "predicate (needed)" in asked.stdout
    assert not list(tmp_path.iterdir())
    words = " ".join(bare.stdout.split())
    assert all(f" {name} {about} " in f"{words} " for name, _, about in (*inventory.recipes(), *inventory.stages()))


def test_a_stage_shows_each_flag_once_with_its_default_and_the_names_that_flags_take() -> None:
    text = "\n".join(usage.page(Filter))
    counts = flags(text)
    assert set(counts.values()) == {1} and {"--data", "--op", "--params", "--format", "--quiver-root"} <= set(counts)
    assert "--Filter-op" not in text and max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "with or without its family [needed]" in flat and "[default: ./quiver-data]" in flat
    for name in OPS:
        assert (f"\n  {name.partition('.')[2]} " in text) is name.startswith("filter."), name
    assert all(re.search(rf"\b{name}\b", text) for name in FORMS)
    page = "\n".join(usage.page(Import))
    assert all(f"\n  {name}" in page for name in FORMS)


def test_a_training_shows_its_own_defaults_and_no_flags_of_files_that_it_does_not_read() -> None:
    shown = "\n".join(usage.page(Train))
    assert not {"--format", "--columns", "--keep", "--ignore", "--source-name"} & {*flags(shown)}
    assert "Formats of files" not in shown
    settings = shown.partition("Settings of training")[2]
    for line in ("optim.lr                default: 1e-05", "global_batch_size       default: 64"):
        assert f"  {line}\n" in settings
    assert "  optim.lr                default: 1e-06\n" in "\n".join(usage.page(Preference))


def test_a_recipe_shows_the_settings_of_the_setup_that_is_asked_for() -> None:
    for name, section in setups().items():
        invocation.given(["RestIteration", "--setup", name, "--help"])
        counts = flags("\n".join(usage.page(RestIteration)))
        settings = [f"--{name}-{key.replace('_', '-')}" for key, _ in section.get_params()]
        assert all(counts[flag] == 1 for flag in settings)
        assert not [flag for other in setups() if other != name for flag in counts if flag.startswith(f"--{other}-")]
    invocation.given(["RestIteration", "--help"])
    assert "Settings of the setup digits" in "\n".join(usage.page(RestIteration))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("RestIteraton", "RestIteration"), ("restiteration", "RestIteration"), ("rest", "RestIteration"),
     ("generate", "Generate"), ("Tokenise", "Tokenize"), ("xyzzy", ""),
     ("Fst", "Sft"), ("Stf", "Sft"), ("fst", "Sft")],
)  # fmt: skip
def test_an_unknown_command_is_answered_with_the_near_one(given: str, meant: str) -> None:
    assert near_task(given, sorted(commands())) == meant


def test_a_choice_names_its_values_always_in_the_same_order() -> None:
    text = " ".join("\n".join(usage.page(RestIteration)).split())
    assert "what thresholds are: absolute or quantile [default: quantile]" in text


def test_bases_of_commands_are_none_themselves() -> None:
    with pytest.raises(ConfigError, match="there is no task Nothing") as fault:
        pipelines.run("Nothing")
    listed = fault.value.expected.split(", ")
    assert listed == list(commands()) and {"Label", "RestIteration"} < {*listed}
    assert not {"_Operation", "StageCommand", "Recipe", "OneShot"} & {*listed}


PAIRED = ("DpoIteration", "SpinIteration", "PreferenceOptimization")
COMPARING = {name for name, algorithm in registry.algorithms().items() if algorithm.implicit_reward}
"""Algorithms that prefer one answer over another; dpo and kto at least."""
assert {"dpo", "kto"} < COMPARING


@pytest.mark.parametrize(
    ("name", "first", "algorithms"),
    [
        ("Sft", ["model", "data"], {"sft"}),
        ("Distill", ["model", "data", "teacher"], {"kd", "kd_ranked"}),
        ("RewardModel", ["model", "data"], {"rm", "rm_margin"}),
        ("Preference", ["model", "data"], COMPARING),
        ("SteerLm", ["model", "data", "reward"], {"sft"}),
        *((name, [], COMPARING) for name in PAIRED),
    ],
)
def test_needed_flags_come_first_and_only_algorithms_that_fit_are_listed(
    name: str, first: list[str], algorithms: set[str]
) -> None:
    lines = list(usage.page(commands()[name]))
    flags = [line.split()[0][2:] for line in lines if line.startswith("  --")]
    assert sorted(flags[: len(first)]) == sorted(first)
    begin = next(place for place, line in enumerate(lines) if line.startswith("\nAlgorithms of "))
    end = next(place for place in range(begin + 1, len(lines)) if lines[place].startswith("\n"))
    assert {line.split()[0] for line in lines[begin + 1 : end] if line[:3].strip()} == algorithms
    needed = " ".join(" ".join(lines).split())
    assert needed.count("[needed]") >= len(first)
