"""Settings: the packaged `luigi.cfg` under everything else, Luigi made safe, and no key that nobody reads.

Precedence, lowest first: `pipelines/luigi.cfg`, `/etc/luigi/luigi.cfg`, `luigi.cfg` in the current folder, the file
named by LUIGI_CONFIG_PATH, the command line. Luigi leaves unsafe what is forced here: exit code 0 when a task fails,
a task without output that counts as done, children started by fork under live threads, a lock that makes a second
command end with "success", a scheduler daemon that has to be running.
"""

from __future__ import annotations

import configparser
import difflib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import TypeVar

import luigi
import luigi.configuration
from luigi.parameter import ParameterException
from luigi.task_register import Register

from schemas.errors import ConfigError, printable

PACKAGED = Path(__file__).with_name("luigi.cfg")
T = TypeVar("T", bound=luigi.Config)

_REMOTE = ("scheduler_host", "scheduler_port", "scheduler_url")


class quiver(luigi.Config):
    """The `[quiver]` section: where data lies and how much of the machine is used."""

    root = luigi.Parameter(description="folder or fsspec URL under which every dataset and checkpoint lies")
    processes = luigi.IntParameter(description="worker processes of one data stage; 0: one per core", significant=False)
    seed = luigi.IntParameter(description="seed of every random choice that has none of its own")
    verify = luigi.ChoiceParameter(choices=["full", "size", "off"], description="check of inputs", significant=False)
    max_rejected = luigi.FloatParameter(
        description="share of an input's rows that may fail in one stage before it stops", significant=False
    )

    @property
    def workers(self) -> int:
        """Processes of one data stage."""
        return self.processes or available_cores()


def held() -> quiver:
    """The `[quiver]` section; `ConfigError` for a value that cannot be read."""
    return configured(quiver)


def configured(section: type[T]) -> T:
    """A section with its values; `ConfigError` names the section of a value that is missing or cannot be read."""
    try:
        return section()
    except (ParameterException, ValueError) as fault:
        if isinstance(fault, ConfigError):
            raise
        raise ConfigError(
            "bad-setting",
            printable(": ".join(str(part) for part in (fault, fault.__cause__) if part), 300),
            where=f"section [{section.__name__}] of the configuration",
            kept="nothing was started",
        ) from None


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def install() -> None:
    """Lay the packaged defaults under the user's configuration; called once, when `pipelines` is imported."""
    config = luigi.configuration.get_config()
    packaged = configparser.ConfigParser(interpolation=None)
    packaged.optionxform = str  # type: ignore[assignment,method-assign]
    packaged.read(PACKAGED, encoding="utf-8")
    for section in packaged.sections():
        for option, value in packaged.items(section):
            if not config.has_option(section, option):
                config.set(section, option, value)
    if not _remote_scheduler(config) and not config.has_option("core", "local_scheduler"):
        config.set("core", "local_scheduler", "true")
    if multiprocessing.get_start_method(allow_none=True) != "forkserver":
        multiprocessing.set_start_method("forkserver", force=True)


def _remote_scheduler(config: object) -> bool:
    """Whether a luigid is named, in a configuration file or on the command line."""
    named = (option for name in _REMOTE for option in (name, f"default-{name.replace('_', '-')}"))
    if any(config.has_option("core", option) for option in named):  # type: ignore[attr-defined]
        return True
    flags = tuple("--" + name.replace("_", "-") for name in _REMOTE)
    return any(argument.split("=")[0] in flags for argument in sys.argv[1:])


def check() -> None:
    """Raise `ConfigError` for a key or section that resembles ours and that nothing reads."""
    config = luigi.configuration.get_config()
    if not isinstance(config, configparser.ConfigParser):
        return
    families = {name: task for name, task in Register._get_reg().items() if task != Register.AMBIGUOUS_CLASS}
    ours = {name: task for name, task in families.items() if task.__module__.split(".")[0] == "pipelines"}
    held()
    general = set(config.defaults())
    for section in config.sections():
        keys = set(config.options(section)) - general
        if section in ours:
            _check_keys(section, keys, {name for name, _ in ours[section].get_params()})
        elif section not in families and (near := difflib.get_close_matches(section, ours, 1, 0.8)):
            raise ConfigError(
                "unknown-section",
                f"no section [{section}]",
                expected=f"[{near[0]}]",
                found=f"[{section}]",
                kept="nothing was started",
                next=f"rename [{section}] to [{near[0]}] in luigi.cfg",
            )


def _check_keys(section: str, keys: set[str], known: set[str]) -> None:
    for key in sorted(keys):
        if key.replace("-", "_") in known:
            continue
        near = difflib.get_close_matches(key, known, 1, 0.5)
        raise ConfigError(
            "unknown-key",
            f"unknown key {key} in section [{section}]",
            expected=f"did you mean {near[0]}?" if near else ", ".join(sorted(known)),
            found=key,
            kept="nothing was started",
            next=f"correct [{section}] {key} in luigi.cfg",
        )
