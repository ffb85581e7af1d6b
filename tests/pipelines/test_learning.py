"""Settings of training on a command line: a flag says itself which setting it is, and all ways of giving one meet."""

from __future__ import annotations

from typing import Any

import luigi
import pytest

import pipelines  # noqa: F401  the commands
from pipelines.cli import invocation, near_flags, refusals
from pipelines.cli.known_commands import commands
from pipelines.cli.learning import (
    Learns,
    MergedParameter,
    SettingNumber,
    SettingWhole,
    flags_given,
    learning_of,
    setting_flags,
    training_asked,
)
from pipelines.cli.parameters import OptionalNumber, as_list
from pipelines.setups import setup_kind, setups
from schemas.errors import ConfigError
from schemas.settings import assigned
from trainers.config import Training, merged, training_of

SIZES = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
MODEL = {**dict.fromkeys(SIZES, 1), "max_sequence_length": 8}


class Warmed(Learns):
    """A command of somebody's own, with a flag for one more setting."""

    algorithm = "sft"
    set: Any = ()
    learning = MergedParameter(default={"epochs": 1, "global_batch_size": 8, "optim": {"lr": 1e-3}})
    warmup = SettingWhole(setting="optim.warmup_steps", least=0, about="steps of warm-up")

    def __init__(self, **given: Any) -> None:
        flags = dict.fromkeys(setting_flags(dict(self.get_params())))
        vars(self).update({**flags, "learning": type(self).learning.default, **given})

    @classmethod
    def get_params(cls) -> list[tuple[str, luigi.Parameter[Any]]]:
        names = (name for name in dir(cls) if isinstance(getattr(cls, name), luigi.Parameter))
        return [(name, getattr(cls, name)) for name in names]


def test_a_flag_of_ones_own_is_its_setting_without_an_entry_elsewhere() -> None:
    asked = training_asked(Warmed(warmup=7, lr=0.5, set=("epochs=3",)), seed=5, where="here").learning
    assert (asked.optim.warmup_steps, asked.optim.lr, asked.epochs, asked.global_batch_size) == (7, 0.5, 3, 8)
    assert asked.seed == 5
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps is given twice"):
        learning_of(Warmed(warmup=7, set=("optim.warmup_steps=8",)))


def test_what_stands_below_gives_way_to_what_was_given() -> None:
    command = Warmed(lr=0.25)
    below = {"settings": {"average": "rows"}, "optim": {"lr": 9.0, "eps": 1e-6}, "max_steps": 4}
    assert learning_of(command, below) == {
        "settings": {"average": "rows"},
        "optim": {"lr": 0.25, "eps": 1e-6},
        "epochs": 1,
        "global_batch_size": 8,
    }
    assert flags_given(command) == {"optim.lr": 0.25} and below["max_steps"] == 4


def trainings() -> dict[str, MergedParameter]:
    """Every training that a command or a setup has defaults for."""
    kinds = {*commands().values(), *(setup_kind(name) for name in setups())}
    return {
        f"{kind.__name__}.{name}": parameter
        for kind in kinds
        for name, parameter in kind.get_params()
        if isinstance(parameter, MergedParameter) and parameter.kind is Training and "optim" in parameter.default
    }


@pytest.mark.parametrize(
    ("given", "path"), [({"optim": {"lr": 1e-7}}, ("optim", "lr")), ({"max_steps": 1}, ("max_steps",))]
)
def test_what_is_given_contradicts_no_default_of_any_recipe(given: dict[str, Any], path: tuple[str, ...]) -> None:
    """A rate below a default `min_lr`, a run shorter than a default warm-up: the default goes, not the run."""
    every = trainings()
    assert len(every) > 8
    for name, parameter in every.items():
        whole = merged({"global_batch_size": 8, "epochs": 1}, merged(parameter.default, given))
        value: Any = whole
        for part in path:
            value = value[part]
        assert value in (1e-7, 1)
        assert not training_of("sft", whole, seed=0, model=MODEL).learning.faults(), name


def test_the_words_about_a_flag_name_its_setting() -> None:
    described = [
        SettingNumber(setting="optim.lr").description,
        Warmed.warmup.description,
        SettingNumber(setting="settings.beta", note="empty: its own").description,
    ]
    assert described == [
        "the same as --set optim.lr=...",
        "steps of warm-up; the same as --set optim.warmup_steps=...",
        "the same as --set settings.beta=...; empty: its own",
    ]


def test_flags_of_every_command_are_settings_that_there_are_and_are_what_a_setting_is_taken_for() -> None:
    checked = 0
    for family, kind in commands().items():
        parameters = dict(kind.get_params())
        for name, path in setting_flags(parameters).items():
            assert assigned(Training, [f"{path}=1"]), (family, name)
            other = path.rpartition(".")[2]
            if other != name and not path.startswith("settings."):
                invocation.given([family, f"--{other}=1"])
                assert near_flags.hint(family, f"--{other}")[0] == f"--{name.replace('_', '-')}"
                checked += 1
    assert checked >= 2 * 6, "batch_size and eval_steps of the commands that train once"


@pytest.mark.parametrize(("text", "shown"), [("0.5", "[0.5]"), ("a b", '["a b"]'), ('"c"', '["c"]'), ("{", '["{"]')])
def test_a_bare_value_is_shown_as_the_list_that_was_meant(text: str, shown: str) -> None:
    assert as_list(text) == shown


def test_a_value_that_a_parameter_refuses_is_named_with_why() -> None:
    numbers = {"lr": OptionalNumber(least=0, most=2)}

    class Measured:
        """What has parameters, as Luigi's tasks have them."""

        @staticmethod
        def get_params() -> list[tuple[str, OptionalNumber]]:
            return list(numbers.items())

    kind: Any = Measured
    for text, why in {"x": "'x' is not a number", "3": "3 is not between 0 and 2"}.items():
        assert refusals.unreadable(kind, {"lr": text}) == f"--lr: {why}"
    assert refusals.unreadable(kind, {"lr": "1e0"}) == ""
