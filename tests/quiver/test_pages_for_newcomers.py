"""What the pages for users of other toolkits, and the pages of methods, name: every command, flag, setting, operation,
algorithm and format is there under that name.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from luigi.task_register import Register

import pipelines  # noqa: F401  # registers every command
from datakit.formats.forms import FORMS
from datakit.io import Npy
from datakit.registry import OPS
from pipelines.cli.flag_words import parameters_of
from pipelines.cli.known_commands import commands
from pipelines.cli.learning import MergedParameter
from pipelines.graph.backend import backends
from schemas.settings import defaults, every_setting
from tests.conftest import ROOT
from trainers.config import Training
from trainers.images import registry as images
from trainers.images.config import ImageTraining
from trainers.registry import algorithms, presets

PAGES = [ROOT / "docs/from-nemo-aligner.md", ROOT / "docs/from-trl.md", ROOT / "docs/differences.md"]
PAGES += sorted((ROOT / "docs/methods").glob("*.md"))
COMMANDS = commands()
FLAGS = {name: {flag.replace("_", "-") for flag in parameters_of(name)} for name in COMMANDS}
OVER_IMAGES = images.algorithms()
LEARNT = {*algorithms(), *presets(), *OVER_IMAGES, *(name for one in OVER_IMAGES.values() for name in one.presets)}
SETTINGS = {name for one in (*algorithms().values(), *OVER_IMAGES.values()) for name in defaults(one.settings)}
TRAINING = {path for kind in (Training, ImageTraining) for path, _ in every_setting(kind)}
MERGED = [name for _, _, name, one in Register.get_all_params() if isinstance(one, MergedParameter)]
FILE_FORMATS = {*FORMS, *get_args(get_type_hints(Npy)["format"])}
OURS = re.compile(rf"(?:{'|'.join(sorted({name.partition('.')[0] for name in OPS}))})\.[a-z_]+")
FILES = {"py", "md", "json", "jsonl", "yaml", "npy", "npz", "cfg", "txt"}


def spans(page: Path) -> Iterator[str]:
    """Texts in backticks; of a table's rows all but those of its first column, where another toolkit's names stand."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\|.*$", text, re.MULTILINE)
    others = page.parent.name == "docs"
    for part in (
        re.sub(r"^\|.*$", "", text, flags=re.MULTILINE),
        *(row.split("|", 2)[2] if others else row for row in rows),
    ):
        yield from re.findall(r"`([^`]+)`", part)


def faults(span: str) -> Iterator[str]:
    try:
        words = shlex.split(span)
    except ValueError:
        words = span.split()
    named = [word for word in words if word in COMMANDS]
    taken = set().union(*(FLAGS[name] for name in named or COMMANDS))
    for word, value in zip(words, [*words[1:], ""], strict=True):
        flag, equals, inner = word.partition("=")
        if word.startswith("--"):
            yield from [] if flag[2:] in {*taken, "to", "out", "mask", "rows"} else [f"no flag {flag}"]
            yield from wrong_value(flag[2:], inner if equals else value)
        elif OURS.fullmatch(word) and word.rpartition(".")[2] not in FILES and word not in OPS:
            yield f"no operation {word}"
    if words[:1] == ["quiver"] and words[1:2] and words[1][:1].isupper() and words[1] not in {*COMMANDS, "NAME"}:
        yield f"no command {words[1]}"


def wrong_value(flag: str, value: str) -> Iterator[str]:
    if flag == "set" and "=" in value and "KEY" not in value:
        path = value.partition("=")[0]
        inner = path.partition(".")[2] if path.partition(".")[0] in MERGED else path
        known = inner in TRAINING or (inner.removeprefix("settings.") in SETTINGS and inner.startswith("settings."))
        yield from [] if known else [f"no setting {path}"]
    names = {"algorithm": LEARNT, "format": FILE_FORMATS}.get(flag)
    if names is not None and value and value.islower():
        yield from [] if value in names else [f"no {flag} {value}"]
    if flag == "op" and value and value.islower():
        yield from (
            [] if any(name in (value, f"{name.partition('.')[0]}.{value}") for name in OPS) else [f"no op {value}"]
        )
    if flag in ("options", "learning") and value.startswith("{"):
        yield from (f"no setting {key}" for key in json.loads(value) if key not in {*SETTINGS, *TRAINING, "optim"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_everything_that_a_page_names_is_there(page: Path) -> None:
    wrong = [f"{span}: {fault}" for span in spans(page) for fault in faults(span)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "span",
    [
        "Sft --no-such-flag 1",
        "Sft --iteration 2",
        "--set optim.lrr=1",
        "--set settings.gama=1",
        "--algorithm ppoo",
        "--format nothing",
        "Label --op rewards",
        "label.rewards",
        "quiver Ppo --model x",
        """--options '{"betta": 1}'""",
    ],
)
def test_a_wrong_name_would_be_seen(span: str) -> None:
    assert list(faults(span))


RECIPES = {name for name, kind in COMMANDS.items() if kind.__module__.startswith("pipelines.recipes.")}
THERE = {
    *(name.removesuffix("Iteration").lower() for name in RECIPES),
    *LEARNT,
    *(kind.kind for kind in backends()),
    *(scheme for kind in backends() for scheme in kind.schemes),
}
"""What nobody may say is not here: recipes, algorithms and their presets, backends."""


def denied(row: str) -> set[str]:
    """What a table's row says is not here yet although it is."""
    if not re.search(r"\bnot (?:here )?yet\b", row):
        return set()
    words = {word.lower().removesuffix("trainer") for word in re.findall(r"[^\W_]+", row)}
    return words & THERE


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_no_row_denies_what_is_here(page: Path) -> None:
    rows = re.findall(r"^\|.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {row: denied(row) for row in rows if denied(row)} == {}


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("| TensorRT-LLM, HTTP servers | not yet | not yet |", {"http"}),
        ("| `train_gpt_ppo_actor.py`, `serve_ppo_critic.py` | not here yet |", {"ppo"}),
        ("| `train_gpt_reinforce_actor.py` | not here yet |", {"reinforce"}),
        ("| `GRPOTrainer`, `RLOOTrainer`, `PPOTrainer` | not here yet |", {"grpo", "ppo"}),
        ("| `OnlineDPOTrainer` | not here yet |", {"onlinedpo"}),
    ],
)
def test_a_row_that_denies_would_be_seen(row: str, names: set[str]) -> None:
    assert denied(row) == names


def test_a_trainer_with_the_name_of_a_recipe_is_that_recipe() -> None:
    text = (ROOT / "docs/from-trl.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)Trainer`[^|]*\|(.*)\|$", text, re.MULTILINE))
    same = {name: trainer for name in RECIPES for trainer in rows if trainer.lower() == name.lower()}
    assert {"OnlineDpo", "Grpo", "Ppo", "Sft"} <= {*same}
    assert [name for name, trainer in same.items() if f"quiver {name} " not in rows[trainer]] == []


def test_every_iteration_and_recipe_has_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "methods")
    assert [name for name in RECIPES if f"`{name}`" not in text] == []
