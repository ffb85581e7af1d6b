"""`--config FILE`: the flags of a command from a YAML or JSON file, as a user of TRL keeps them.

    model: ./my-model
    data: rows.jsonl
    lr: 1e-5
    learning: {optim: {schedule: cosine, warmup_steps: 10}, save_every: 100}

What the file says lies over `luigi.cfg` and under the command line: settings of a training are merged one by one,
whether they are given as flags, in `learning` or in `set`. Every key and value is read before anything starts; all
faults are listed at once, each with its line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import luigi
import luigi.configuration
from luigi.cmdline_parser import CmdlineParser
from luigi.freezing import recursively_unfreeze
from luigi.parameter import ParameterException
from luigi.task_register import Register

from pipelines.cli import invocation
from pipelines.cli.flag_words import parameters_of, words_of
from pipelines.cli.learning import AssignmentsParameter, MergedParameter, SettingFlag, assigned_to, setting_flags
from pipelines.cli.near_flags import near_names, others_names, sections
from pipelines.cli.parameters import older_names
from pipelines.cli.refusals import fault_words
from pipelines.cli.yaml_entries import entries_of
from schemas.errors import ConfigError, printable
from schemas.nearest import did_you_mean, nearest
from schemas.settings import assigned, setting_of
from schemas.store.opening import no_such_file
from schemas.store.storage import shown
from schemas.yaml_entries import Entry
from trainers.config import Training, merged


def with_file(arguments: Sequence[str]) -> list[str]:
    """The words of a command with those that its file of flags holds; `ConfigError` for a file that cannot be read, or
    that says what the command does not take.
    """
    words, config = list(arguments), luigi.configuration.get_config()
    if not any("-config" in word for word in words) and not config.has_option(invocation.task(), "config"):
        return words
    given = vars(CmdlineParser(words).known_args)
    family = given["root_task"]
    place = given.get("config") or given.get(f"{family}_config") or config.get(family, "config", "")
    if not place:
        return words
    if not os.path.lexists(place):
        raise no_such_file(place)
    file = _FlagsFile(place, Register.get_task_cls(family), given)
    below, above = file.words()
    invocation.given(arguments, [*below, *above])
    place_of_task = words.index(family) + 1  # the parser looks for it before it knows flags and their values
    return [*words[:place_of_task], *below, *words[place_of_task:], *above]


class _FlagsFile:
    """What the file `place` says to the command `kind`, beside what its command line has `given`."""

    def __init__(self, place: str, kind: type[luigi.Task], given: Mapping[str, Any]) -> None:
        self.place, self.kind, self.given = place, kind, given
        self.family, self.training = kind.get_task_family(), getattr(kind, "training", "learning")
        self.entries, self.flags = entries_of(place), _flags(kind)
        self.faults: list[tuple[str, str]] = []  # the short name of each, and the fault in words
        self.assignments: list[str] = []
        self.trainings: dict[str, dict[str, Any]] = {}

    def words(self) -> tuple[list[str], list[str]]:
        """Flags that the command line does not give; and trainings with all that is said of them, for behind it."""
        below: list[str] = []
        for name, entry in self._named():
            with self._faults(entry.line):
                below += self._read(name, self.flags[name], entry)
        self._refuse()
        for name, values in self._assigned().items():
            self.trainings[name] = merged(self.trainings.get(name, {}), values)
        above = {name: self._under_given(name, values) for name, values in self.trainings.items()}
        return below, [f"{invocation.flag_of(name)}={json.dumps(values)}" for name, values in above.items()]

    def _named(self) -> Iterator[tuple[str, Entry]]:
        """Parameters that the file gives a value; keys that are none are faults."""
        lines: dict[str, int] = {}
        for key, entry in self.entries.items():
            name = key.replace("-", "_")
            if name not in self.flags:
                fault = f"line {entry.line}: unknown key {printable(key)}{did_you_mean(self._near(name))}"
                self.faults.append(("unknown-key", fault))
            elif name in lines:
                self.faults.append(("bad-setting", f"line {entry.line}: {name} again, after line {lines[name]}"))
            elif entry.text is None or entry.value is not None:
                lines[name] = entry.line
                yield name, entry

    def _read(self, name: str, parameter: luigi.Parameter[Any], entry: Entry) -> list[str]:
        """The flag, unless the command line gives it; what is about a training is put with the others of its kind."""
        if isinstance(parameter, MergedParameter):
            self.trainings[name] = self._nested(name, parameter, entry)
        elif isinstance(parameter, AssignmentsParameter):
            self.assignments += self._assignments(entry)
        elif isinstance(parameter, SettingFlag):
            (word,) = self._words(name, parameter, entry)
            if luigi.configuration.get_config().has_option(self.family, name):  # which would lie over `learning`
                return [] if self._is_given(name) else [word]
            if not self._is_given(name):
                self.assignments.append(f"{parameter.setting}={word.partition('=')[2]}")
        else:
            words = self._words(name, parameter, entry)
            return [] if self._is_given(name) else words
        return []

    def _words(self, name: str, parameter: luigi.Parameter[Any], entry: Entry) -> list[str]:
        """The flag as on a command line; `ValueError` for a value that it does not take."""
        if isinstance(parameter, luigi.BoolParameter) and not isinstance(entry.value, bool):
            raise ValueError(f"{name}: {printable(entry.value)} is not true or false")
        text = None if isinstance(parameter, luigi.BoolParameter) else entry.text
        words = words_of(self.family, self.flags, name, entry.value if text is None else text)
        for word in words:
            if "=" in word:
                _parse(name, parameter, word.partition("=")[2])
        return words

    def _nested(self, name: str, parameter: MergedParameter, entry: Entry) -> dict[str, Any]:
        """Settings of a training, each looked at where it stands."""
        if entry.text is not None:
            return dict(recursively_unfreeze(parameter.parse(entry.text)))
        if not isinstance(entry.value, dict):
            raise ValueError(f"{name}: {printable(entry.value)} is not a mapping")
        leaves = [(f"{path}={json.dumps(leaf.value)}", leaf.line) for path, leaf in entry.leaves()]
        for text, line in leaves:
            with self._faults(line):
                assigned(parameter.kind, [text])
        return {} if self.faults else assigned(parameter.kind, [text for text, _ in leaves])

    def _assignments(self, entry: Entry) -> list[str]:
        """Texts `key=value` of a mapping, or as they are."""
        leaves = [(f"{path}={json.dumps(leaf.value)}", leaf.line) for path, leaf in entry.leaves()]
        texts = leaves or [(str(text), entry.line) for text in _listed(entry.value)]
        for text, line in texts:
            with self._faults(line):
                assigned_to([text], self.training, *self._sections())
        return [text for text, _ in texts]

    def _assigned(self) -> dict[str, dict[str, Any]]:
        """What flags and assignments of the file say of trainings, by the flag of each."""
        own = dict(self.kind.get_params())
        sections = [section for section in self._sections() if section is not self.kind]
        return {
            next((f"{one.get_task_family()}_{name}" for one in sections if name not in own), name): values
            for name, values in assigned_to(self.assignments, self.training, *self._sections()).items()
        }

    def _sections(self) -> list[type[luigi.Task]]:
        """Where trainings have their parameters: the command, and the setup that it stands on."""
        setup, entry = dict(self.kind.get_params()).get("setup"), self.entries.get("setup")
        if setup is None:
            return [self.kind]
        name = self.given.get("setup") or (entry.text if entry else None) or setup._get_value(self.family, "setup")
        section = Register._get_reg().get(str(name))
        return [section, self.kind] if section in sections().values() else [self.kind]

    def _under_given(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """`values` with what the command line says of the same training."""
        options = _object(self.given.get("options")) if name == self.training else {}
        if options and isinstance(values.get("settings"), dict):
            rest = {key: value for key, value in values["settings"].items() if key not in options}
            values = {**values, "settings": rest}
        return merged(values, _object(self.given.get(name) or self.given.get(f"{self.family}_{name}")))

    def _is_given(self, name: str) -> bool:
        """Whether the command line gives that flag."""
        return any(self.given.get(one) not in (None, False) for one in (name, f"{self.family}_{name}"))

    def _near(self, name: str) -> str:
        """The key that was likely meant; empty where that is open."""
        path = setting_of(Training, name)
        direct = [flag for flag, own in setting_flags(self.flags).items() if path and own == path]
        nested = [f"{self.training}.{path}"] if path and self.training in self.flags else []
        near = [name for name in [*others_names(name), *direct] if name in self.flags] + nested
        near += filter(None, [nearest(name, near_names(self.family, name))])
        return near[0] if near else ""

    @contextmanager
    def _faults(self, line: int) -> Iterator[None]:
        """Put what the block refuses with the faults of the file."""
        try:
            yield
        except (ParameterException, ValueError) as fault:
            slug, words = (fault.slug, fault.what) if isinstance(fault, ConfigError) else ("bad-setting", str(fault))
            self.faults.append((slug, f"line {line}: {words}"))

    def _refuse(self) -> None:
        """`ConfigError` with all faults, where there are any."""
        if not self.faults:
            return
        page = invocation.typed(f"{self.family} --help")
        raise ConfigError(
            "unknown-key" if {slug for slug, _ in self.faults} == {"unknown-key"} else "bad-setting",
            "; ".join(fault for _, fault in self.faults),
            expected=f"flags of {self.family}, with - or _, and values that they take ({page})",
            where=shown(self.place),
            kept="nothing was started",
            next=f"correct {shown(self.place)}, then run the same command again",
        )


def _flags(kind: type[luigi.Task]) -> dict[str, luigi.Parameter[Any]]:
    """What a file may set: parameters of `kind` and of our sections, and the number of tasks at the same time."""
    own = {*older_names(kind), *(name for name, _ in kind.get_params())} - {"config"}
    of_sections = {f"{family}_{name}" for family, one in sections().items() for name, _ in one.get_params()}
    every = parameters_of(kind.get_task_family())
    return {name: every[name] for name in every if name in {*own, *of_sections, "workers"}}


def _object(text: str | None) -> dict[str, Any]:
    """The JSON object of a flag; none where there is none, or where the parser will refuse it."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _parse(name: str, parameter: luigi.Parameter[Any], text: str) -> None:
    try:
        parameter.parse(text)
    except (ParameterException, ValueError) as fault:
        raise ValueError(f"{name}: {fault_words(parameter, fault)}") from None
