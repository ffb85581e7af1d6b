"""The settings of training on a command line, and the one place where they come together: the defaults of a parameter,
`luigi.cfg`, the object of `--learning`, texts of `--set`, and flags such as `--lr`. What comes out is a `Training`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import luigi
import luigi.configuration
from luigi.freezing import recursively_freeze, recursively_unfreeze

from pipelines.cli.parameters import ObjectParameter, OptionalNumber, OptionalWhole
from schemas.errors import ConfigError
from schemas.settings import assigned
from trainers.algorithm import Algorithm
from trainers.config import Training, merged, training_of
from trainers.registry import algorithm_of, algorithms, settings_by_name, spelled_out


class SettingFlag(luigi.Parameter[Any]):
    """A flag that is one setting of the training: `--lr X` is `--set optim.lr=X`. `note` is said of it besides."""

    def __init__(self, *, setting: str, about: str = "", note: str = "", **options: Any) -> None:
        words = (about, f"the same as --set {setting}=...", note)
        super().__init__(description="; ".join(filter(None, words)), **options)
        self.setting = setting


class SettingNumber(SettingFlag, OptionalNumber):
    """A setting that is a number."""


class SettingWhole(SettingFlag, OptionalWhole):
    """A setting that is a whole number."""


class MergedParameter(ObjectParameter):
    """A JSON object over the parameter's default: what it does not name stays what it is there.

    The user's configuration lies over the default in the same way, and the command line over both. `kind` is the
    dataclass whose settings it holds: what `--set` may name.
    """

    def __init__(self, *, default: dict[str, Any], kind: type = Training, **options: Any) -> None:
        super().__init__(default=default, **options)
        self.default, self.kind = default, kind

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self._place = (owner.__name__, name)

    def normalize(self, x: Any) -> Any:
        configured = luigi.configuration.get_config().get(*self._place, "")
        whole: Mapping[str, Any] = self.default
        for layer in (self.parse(configured) if configured else {}, x):
            whole = merged(whole, recursively_unfreeze(layer))
        return recursively_freeze(whole)


class AssignmentsParameter(luigi.Parameter[Any]):
    """Texts `key=value`; the flag may be given again and again."""

    @classmethod
    def _parser_kwargs(cls, param_name: str, task_name: str | None = None) -> dict[str, Any]:
        return {**super()._parser_kwargs(param_name, task_name), "action": "append"}

    def parse(self, x: str | Sequence[str]) -> tuple[str, ...]:
        """The texts; in a configuration file they are a JSON list."""
        return tuple(map(str, json.loads(x))) if isinstance(x, str) else tuple(x)

    def serialize(self, x: Sequence[str]) -> str:
        return json.dumps(list(x))


class Assigns:
    """Of a command with `--set`: what it and the flags of single settings say of each training."""

    training: ClassVar[str] = "learning"
    """The parameter, of the command or of its setup, that `--set optim.lr=...` without a first word is about."""

    set: Any

    @functools.cached_property
    def changes(self) -> dict[str, dict[str, Any]]:
        """What `--set` and the flags say, by the parameter that it is about; `ConfigError` for a setting that two of
        these give.
        """
        elsewhere = settings_by_name(getattr(self, "algorithm", ""))
        flags = flags_given(self)
        return assigned_to(self.set, self.training, *self.sections, flags=flags, elsewhere=elsewhere)

    @property
    def sections(self) -> tuple[Any, ...]:
        """Where the trainings have their parameters."""
        return (type(self),)


class Learns(Assigns):
    """Of a command whose training, `learning`, has flags of its own for what is changed most."""

    lr = SettingNumber(setting="optim.lr", least=0)
    epochs = SettingWhole(setting="epochs")
    batch_size = SettingWhole(setting="global_batch_size", about="rows of an optimizer step")
    eval_steps = SettingWhole(setting="validate_every", about="validate every so many steps")


class ByAlgorithm(Assigns):
    """Of a recipe whose training, `learning`, is by an algorithm that can be chosen."""

    algorithm: Any
    learning: Any
    settled_seed: Any

    options = ObjectParameter(
        default={},
        description="settings of the algorithm, as JSON, over a preset's and its own (quiver algorithms NAME)",
    )

    unfit: ClassVar[str] = "does not learn from these rows"
    fitting: ClassVar[str] = "an algorithm that does"
    """What is said of an algorithm that does not fit, and what would; the names of those that do follow."""

    @staticmethod
    def fits(algorithm: Algorithm) -> bool:
        """Whether the recipe has the rows that `algorithm` learns from."""
        return True

    def _algorithms_that_fit(self) -> str:
        return ", ".join(name for name, one in algorithms().items() if self.fits(one))

    def _check_algorithm(self, algorithm: Algorithm) -> None:
        if not self.fits(algorithm):
            raise ConfigError(
                "bad-setting",
                f"{algorithm.name} {self.unfit}",
                expected=f"{self.fitting}: {self._algorithms_that_fit()}",
                found=f"it reads {', '.join(algorithm.rows.names)}",
                kept="nothing was started",
                next=f"--algorithm {type(self).algorithm._default}",
            )

    def training_for(self, label: str, **below: Any) -> Training:
        """The training that all flags together ask for, over the settings `below`; `ConfigError` for an algorithm that
        does not fit.
        """
        algorithm = algorithm_of(self.algorithm)
        self._check_algorithm(algorithm)
        _, options = spelled_out(self.algorithm, recursively_unfreeze(self.options))
        if settings := {**algorithm.in_recipes, **options}:
            below["settings"] = settings
        return training_asked(self, seed=self.settled_seed, where=f"learning of {label}", below=below)


def assigned_to(
    assignments: Sequence[str],
    own: str,
    *sections: type[luigi.Task],
    flags: Mapping[str, Any] = MappingProxyType({}),
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, dict[str, Any]]:
    """What texts `key=value` say, by the merged parameter of `sections` that they are about: the one that the key
    begins with (`base.optim.lr=1e-3`), otherwise `own`; of that the values of `flags`, by their paths, say more, and an
    unknown key may be one of `elsewhere`.
    """
    kinds = {
        name: parameter.kind
        for section in sections
        for name, parameter in section.get_params()
        if isinstance(parameter, MergedParameter)
    }
    about: dict[str, list[str]] = {}
    for assignment in assignments:
        first, dot, rest = assignment.partition("=")[0].partition(".")
        name = first if dot and rest and first in kinds else own
        about.setdefault(name, []).append(assignment if name == own != first else assignment[len(first) + 1 :])
    about |= {own: about.get(own, [])} if flags else {}
    more: dict[str, Any] = {"values": flags, "elsewhere": elsewhere}
    return {
        name: assigned(kinds[name], texts, where=f"--set of {name}", **(more if name == own else {}))
        for name, texts in about.items()
    }


def setting_flags(parameters: Mapping[str, luigi.Parameter[Any]]) -> dict[str, str]:
    """Those of the `parameters` that are single settings of the training, with the path of each."""
    return {name: one.setting for name, one in parameters.items() if isinstance(one, SettingFlag)}


def flags_given(command: Any) -> dict[str, Any]:
    """What the flags of single settings say, by the path of the setting."""
    flags = setting_flags(dict(command.get_params()))
    given = {path: getattr(command, name) for name, path in flags.items()}
    return {path: value for path, value in given.items() if value is not None}


def learning_of(command: Any, below: Mapping[str, Any] | None = None, name: str = "learning") -> dict[str, Any]:
    """The settings of the command's own training, or of the one whose parameter is `name`: those `below`, over them
    the parameter, over that `--set` and the flags of single settings.
    """
    learning = dict(below or {})
    for given in (recursively_unfreeze(getattr(command, name)), command.changes.get(name, {})):
        learning = merged(learning, given)
    return learning


def training_asked(
    command: Any,
    *,
    seed: int,
    where: str,
    model: Mapping[str, Any] | None = None,
    below: Mapping[str, Any] | None = None,
) -> Training:
    """The training by the command's `--algorithm` with all its settings (`learning_of`), of a fresh `model` or of a
    checkpoint (None).
    """
    return training_of(command.algorithm, learning_of(command, below), seed=seed, model=model, where=where)
