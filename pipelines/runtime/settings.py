"""Settings: the packaged `luigi.cfg` under everything else, Luigi made safe, and no key that nobody reads.

Precedence, lowest first: `pipelines/luigi.cfg`, `/etc/luigi/luigi.cfg`, `luigi.cfg` in the current folder, the file
named by LUIGI_CONFIG_PATH, the command line. Luigi leaves unsafe what is forced here: exit code 0 when a task fails,
a task without output that counts as done, children started by fork under live threads, a lock that makes a second
command end with "success", a scheduler daemon that has to be running.
"""

from __future__ import annotations

import configparser
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import luigi
import luigi.configuration
import luigi.interface
from luigi.parameter import ParameterException
from luigi.task_register import Register

from datakit.template import Rendering
from pipelines.cli import invocation
from pipelines.cli.config_files import check_values, stated_at
from pipelines.cli.near_flags import near_key
from pipelines.cli.parameters import ListParameter, Number, Whole, older_names
from pipelines.cli.refusals import readable, stated, unreadable, wrong_flags
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.settings import parse
from schemas.store.storage import lasting
from trainers.launch.settings import Launch

PACKAGED = Path(__file__).parents[1] / "luigi.cfg"
T = TypeVar("T", bound=luigi.Config)

_REMOTE = ("scheduler_host", "scheduler_port", "scheduler_url")


class _Place(luigi.Parameter):
    """A folder or URL; `~` at its beginning is the home folder."""

    def normalize(self, x: str) -> str:
        """The place with the home folder's name in it; `ConfigError` for one that is gone with this process."""
        return os.path.expanduser(x) if not x.startswith("memory://") else lasting(x)


class quiver(luigi.Config):
    """The `[quiver]` section: where data lies and how much of the machine is used."""

    root = _Place(description="folder or fsspec URL under which every dataset and checkpoint lies")
    processes = Whole(least=0, description="worker processes of one data stage; 0: one per core", significant=False)
    seed = Whole(least=0, description="seed of every random choice that has none of its own")
    verify = luigi.ChoiceParameter(choices=["full", "size", "off"], description="check of inputs", significant=False)
    max_rejected = Number(
        least=0,
        most=1,
        description="share of an input's rows that may fail in one stage before it stops",
        significant=False,
    )

    date = luigi.Parameter(description="date that chat templates write, YYYY-MM-DD; empty: one that asks for it fails")

    hang_seconds = Number(
        least=0, description="a worker of a data stage that is silent for so long has failed", significant=False
    )

    executor = luigi.ChoiceParameter(
        choices=["local", "ray", "slurm"],
        significant=False,
        description="data stages in processes of this machine, on a Ray cluster (extra ray), or in Slurm's job arrays",
    )
    slurm_options = ListParameter(
        significant=False,
        description="sbatch options of these arrays, as a JSON list",
    )
    ray_address = luigi.Parameter(
        significant=False,
        description="HOST:PORT of a running Ray cluster; empty: RAY_ADDRESS, or one of this machine for the command",
    )

    @property
    def workers(self) -> int:
        """Processes of one data stage on this machine."""
        return self.processes or available_cores()


class launch(luigi.Config):
    """The `[launch]` section: how training runs start, and for how long they may be silent."""

    launcher = luigi.ChoiceParameter(choices=["local", "slurm"], description="ranks on this machine, or sbatch")
    ranks = Whole(least=0, description="processes of a training run; 0: the fewest that its parallel sizes fill")
    threads = Whole(least=0, description="threads of a rank; 0: its share of the cores")
    hang_seconds = Number(least=0, description="a rank that gets nowhere for so long ends the run")
    start_seconds = Number(least=0, description="the same before its first step")
    collective_seconds = Number(least=0, description="a collective operation that takes longer is an error")
    save_seconds = Number(least=0, description="time to save for a run that is asked to stop")
    environment = ListParameter(description="more variables to hand on, as a JSON list; a name may end in *")
    partition = luigi.Parameter(description="Slurm: partition")
    account = luigi.Parameter(description="Slurm: account")
    qos = luigi.Parameter(description="Slurm: quality of service")
    nodes = Whole(least=0, description="Slurm: nodes; the ranks are dealt over them evenly")
    gpus_per_node = Whole(least=0, description="Slurm: GPUs of a node; 0: none asked for")
    cpus_per_rank = Whole(least=0, description="Slurm: cores of a rank; 0: the cluster's default")
    time = luigi.Parameter(description="Slurm: time limit, such as 4:00:00")
    signal_seconds = Whole(least=0, description="Slurm: how long before it the run is asked to save; 0: never")
    requeue = luigi.BoolParameter(
        parsing=luigi.BoolParameter.EXPLICIT_PARSING, description="Slurm: queue again after that, and go on"
    )
    lines = ListParameter(description="Slurm: more sbatch options, as a JSON list")
    image = luigi.Parameter(description="Slurm: container image for srun")
    mounts = ListParameter(description="Slurm: its mounts FROM:TO, as a JSON list")
    poll_seconds = Number(least=0, description="Slurm: how often the job's state is asked for")


def launching() -> Launch:
    """The `[launch]` section as `trainers.launch` takes it."""
    section = configured(launch)
    values = {name: getattr(section, name) for name, _ in launch.get_params()}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    own = {field.name for field in fields(Launch)}
    slurm = {name: value for name, value in values.items() if name not in own}
    given = {name: value for name, value in values.items() if name in own}
    return parse(Launch, {**given, "slurm": slurm}, where="section [launch] of the configuration")


def templating() -> Rendering:
    """What `[quiver]` says of templating; `ConfigError` for a date that there is not."""
    date = quiver_config().date or None
    try:
        return Rendering(date=date)
    except ConfigError as error:
        error.where, error.next = "[quiver] date", "correct [quiver] date in luigi.cfg"
        raise


@contextmanager
def own_settings(params: Mapping[str, Any]) -> Iterator[None]:
    """Around what reads `params` of an operation: the error about one that belongs to `[quiver]` says so."""
    try:
        yield
    except ConfigError as fault:
        ours = [key for key in params if key in dict(quiver.get_params()) and key in fault.wrong]
        if ours and fault.slug == "unknown-key":
            own = ", ".join(invocation.flag_of(f"quiver_{key}") for key in ours)
            fault.sentence += f": it is set by {own}, or in section [quiver] of luigi.cfg"
            fault.nearest = ""
            fault.expected = "a share of the rows, from 0 to 1" if "max_rejected" in ours else ""
            flags = [word for key in ours for word in (invocation.flag_of(f"quiver_{key}"), str(params[key]))]
            fault.next = invocation.replaced("--params", *_without(ours), *flags)
        raise


def _without(keys: Sequence[str]) -> list[str]:
    """`--params` as the command gives it, less these keys."""
    try:
        rest = {key: value for key, value in json.loads(invocation.value("--params")).items() if key not in keys}
    except (ValueError, AttributeError):
        return []
    return ["--params", json.dumps(rest)] if rest else []


_below: list[str] = []
"""The root that stands for the configured one, while there is one."""


def quiver_config() -> quiver:
    """The `[quiver]` section; `ConfigError` for a value that cannot be read."""
    section = configured(quiver)
    return section.clone(root=_below[-1], processes=1, executor="local") if _below else section


def stated_values() -> dict[str, dict[str, str]]:
    """Every setting of `[quiver]` and `[launch]` as it stands in this process, whatever stated it."""
    sections: tuple[luigi.Config, ...] = (quiver_config(), configured(launch))
    return {
        type(section).__name__: {name: one.serialize(getattr(section, name)) for name, one in section.get_params()}
        for section in sections
    }


def take(values: Mapping[str, Mapping[str, str]]) -> None:
    """Work by the settings of another process (`stated_values`), which stand above all files."""
    config = luigi.configuration.get_config()
    for section, texts in values.items():
        for name, text in texts.items():
            config.set(section, name, text.replace("%", "%%"))


@contextmanager
def below(root: str) -> Iterator[None]:
    """Everything goes below `root` meanwhile, by one process a stage, whatever is configured."""
    _below.append(root)
    try:
        yield
    finally:
        _below.pop()


def configured(section: type[T]) -> T:
    """A section with its values; `ConfigError` names the section, or the flags, of values that are missing or cannot be
    read.
    """
    try:
        return section()
    except (ParameterException, ValueError) as fault:
        if isinstance(fault, ConfigError):
            raise
        message = ": ".join(str(part) for part in (fault, fault.__cause__) if part)
        title = section.__name__
        flags = {name: invocation.flag_of(f"{title}_{name}") for name, _ in section.get_params()}
        given = {name: text for name, flag in flags.items() if (text := invocation.value(flag))}
        error = ConfigError(
            "bad-setting",
            unreadable(section, given, f"{title}_") or printable(message, 300),
            where="" if given else stated(section, given) or f"section [{title}] of the configuration",
            kept="nothing was started",
            next=readable(section, given, f"{title}_") if given else "",
        )
        error.flags = wrong_flags(section, given, f"{title}_")
        raise error from None


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def install() -> None:
    """Lay the packaged defaults under the user's configuration; called once, when `pipelines` is imported."""
    config = luigi.configuration.get_config()
    if isinstance(config, configparser.ConfigParser):
        check_values(config)
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
    flags = tuple(invocation.flag_of(name) for name in _REMOTE)
    return any(argument.split("=")[0] in flags for argument in sys.argv[1:])


def check() -> None:
    """Raise `ConfigError` for a key or section that resembles ours and that nothing reads."""
    config = luigi.configuration.get_config()
    _check_workers()
    if not isinstance(config, configparser.ConfigParser):
        return
    families = {name: task for name, task in Register._get_reg().items() if task != Register.AMBIGUOUS_CLASS}
    ours = {name: task for name, task in families.items() if task.__module__.split(".")[0] == "pipelines"}
    general = set(config.defaults())
    for section in config.sections():
        keys = set(config.options(section)) - general
        if section in ours:
            _check_keys(section, keys, {*older_names(ours[section]), *(name for name, _ in ours[section].get_params())})
        elif section not in families and (near := _near_section(section, ours)):
            raise ConfigError(
                "unknown-section",
                f"no section [{section}]",
                expected=f"[{near}]",
                found=f"[{section}]",
                where=stated_at(section, ""),
                kept="nothing was started",
                next=f"rename [{section}] to [{near}] in luigi.cfg",
            )
    templating()
    launching()


def _near_section(section: str, ours: Iterable[str]) -> str:
    """Which of `ours` the `section` is misspelt for; empty for a longer name, which is one of other tasks."""
    near = nearest(section, ours, 0.7)
    return near if abs(len(near) - len(section)) < 2 else ""


def _check_workers() -> None:
    """Luigi itself does nothing with fewer than one worker, and calls that a success."""
    workers = configured(luigi.interface.core).workers
    if workers < 1:
        raise ConfigError(
            "bad-parameter",
            f"workers: {workers} is below 1, the least there can be",
            expected="tasks at the same time, from 1",
            kept="nothing was started",
            next=invocation.replaced("--workers", "--workers", "1"),
        )


def _check_keys(section: str, keys: set[str], known: set[str]) -> None:
    for key in sorted(keys):
        if key.replace("-", "_") in known:
            continue
        near = near_key(key, known)
        raise ConfigError(
            "unknown-key",
            f"unknown key {key} in section [{section}]",
            expected=f"did you mean {near}?" if near else ", ".join(sorted(known)),
            found=key,
            where=stated_at(section, key),
            kept="nothing was started",
            next=f"correct [{section}] {key} in luigi.cfg",
        )
