"""Which flag was meant by one that a command does not have: what other programs call it, what the setup calls it, or
what is written alike; and the command that was given with that.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import luigi
from luigi.parameter import ParameterException
from luigi.task_register import Register

from pipelines.cli import invocation
from pipelines.cli.invocation import flag_of
from pipelines.cli.known_commands import commands
from pipelines.cli.learning import setting_flags
from schemas.errors import printable
from schemas.nearest import nearest
from schemas.setting_faults import AND
from schemas.settings import every_setting, setting_of
from trainers.config import Training
from trainers.registry import settings_by_name

Flags: TypeAlias = Mapping[str, luigi.Parameter[Any]]

_OTHER_NAMES = {
    "data": "dataset dataset_name dataset_path train_data train_dataset train_file data_path data_files file files",
    "prompts": "data dataset prompt_data prompt_dataset prompt_file questions",
    "files": "file data dataset input inputs",
    "model": "model_name model_path model_name_or_path base_model pretrained_model_name_or_path student init",
    "reward": "rm reward_model reward_model_path reward_fn reward_function reward_funcs scorer",
    "teacher": "teacher_model teacher_model_name_or_path",
    "original": "data dataset original_data sft_data",
    "eval_data": "eval_dataset eval_file validation_data validation_file valid_data test_data",
    "eval_share": "test_size val_size validation_split val_split",
    "max_length": "max_seq_length max_seq_len seq_length seq_len cutoff_len",
    "max_new_tokens": "max_tokens max_completion_length max_response_length response_length",
    "samples_per_prompt": "num_generations num_samples num_return_sequences n_samples n",
    "template": "chat_template chat_template_path prompt_template",
    "tokenizer": "tokenizer_name tokenizer_path tokenizer_name_or_path",
    "algorithm": "loss loss_type method",
    "batch_size": "bs",
    "experiment": "name run_name experiment_name exp_name",
    "name": "run_name experiment experiment_name exp_name",
    "setup": "task env environment",
    "quiver_root": "output_dir output out out_dir out_path save_dir save_path root data_dir",
    "quiver_processes": "num_proc num_workers dataset_num_proc",
}
"""Flags here, and what transformers, TRL, NeMo-Aligner and others call the same."""

_ADAPTERS = ("use_lora", "use_peft", "lora", "peft", "lora_rank", "lora_dim")
"""What others call the adapters' rank, or having any."""
_RANK = 8


def hint(task: str | None, given: str) -> tuple[str, str, str]:
    """The words that were meant by the flag `given` of `task`, without the user's value, and the command with them,
    both empty where that is not certain; and to which commands such a flag belongs: then the command is without it.
    """
    name = given.lstrip("-").replace("-", "_")
    own = _own_flags(task)
    words = _setting(own, name) or _other_name(task or "", own, name) or _of_algorithm(task or "", own, name)
    if words:
        return _without_value(words), invocation.replaced(given, *words), ""
    having = {owner for owner, _, one, _ in Register.get_all_params() if one == name}
    owners = [owner for owner in commands() if owner in having]
    if owners and task:
        more = f" and {len(owners) - 6} more" if len(owners) > 6 else ""
        return "", invocation.without(given), f" of {printable(task)}; it belongs to {', '.join(owners[:6])}{more}"
    near = nearest(name, near_names(task, name))
    return (flag_of(near), invocation.replaced(given, flag_of(near), "{}"), "") if near else ("", "", "")


def assigned(task: str, wrong: str, paths: str) -> str:
    """The command that was given with the settings of its algorithm at `paths` in place of `--set wrong=...`; empty
    where it has no such words, or where these are other settings.
    """
    words = _assigned(_own_flags(task), paths)
    return invocation.reassigned(wrong, *words) if words else ""


def of_python(task: str, name: str) -> str:
    """The keyword of `pipelines.run` that was meant by `name`; empty where that is open."""
    own = _own_flags(task)
    flags = [word[2:] for word in [*_setting(own, name)[:1], *_other_name(task, own, name)[-2:-1]] if word != "--set"]
    return flags[0].replace("-", "_") if flags else nearest(name, near_names(task, name))


def others_names(name: str) -> list[str]:
    """What is called `name` in other programs, likeliest first."""
    return [ours for ours, theirs in _OTHER_NAMES.items() if name in theirs.split()]


def near_names(task: str | None, name: str) -> list[str]:
    """The flags that `name` may be written for, with underscores: those of `task`, and those of a section whose name it
    begins with. Luigi's own are none that a person means by another.
    """
    return [*_own_flags(task), *(flag for section, flag in _section_flags() if name.startswith(f"{section}_"))]


def near_key(name: str, known: Iterable[str]) -> str:
    """The one of the keys `known` of a section that was meant by `name`; empty where that is open."""
    path, keys = setting_of(Training, name), sorted(known)
    flags = setting_flags({flag: parameter for _, _, flag, parameter in Register.get_all_params()})
    direct = [flag for flag, setting in flags.items() if setting == path]
    return next((one for one in [*direct, *others_names(name)] if one in keys), "") or nearest(name, keys, 0.5)


def _own_flags(task: str | None) -> Flags:
    return dict(Register.get_task_cls(task).get_params()) if task in commands() else {}


def sections() -> dict[str, type[luigi.Config]]:
    """Our sections of the configuration, by name."""
    kinds = {name: kind for name, kind in Register._get_reg().items() if inspect.isclass(kind)}
    ours = {name: kind for name, kind in kinds.items() if kind.__module__.startswith("pipelines.")}
    return {name: kind for name, kind in ours.items() if issubclass(kind, luigi.Config)}


def _section_flags() -> Iterator[tuple[str, str]]:
    """The flags of our sections: the section's name, the flag with it in front."""
    for name, kind in sections().items():
        yield from ((name, f"{name}_{one}") for one, _ in kind.get_params())


def _setting(own: Flags, name: str) -> list[str]:
    """The words for a setting of the training, where the command has one."""
    path = "lora.rank" if name in _ADAPTERS else setting_of(Training, name)
    if "set" not in own or path not in {*dict(every_setting(Training)), "lora.rank", "lora.alpha"}:
        return []
    direct = next((flag for flag, setting in setting_flags(own).items() if setting == path), "")
    if direct:
        return [flag_of(direct), "{}"]
    return _lora(name, path) if path in ("lora.rank", "lora.alpha") else ["--set", f"{path}={{}}"]


def _of_algorithm(task: str, own: Flags, name: str) -> list[str]:
    """The words for a setting of the algorithm of the command, which may be called otherwise elsewhere."""
    if "algorithm" not in own or "set" not in own:
        return []
    algorithm = invocation.value("--algorithm") or own["algorithm"].task_value(task, "algorithm")
    return _assigned(own, settings_by_name(algorithm).get(name, ""))


def _assigned(own: Flags, paths: str) -> list[str]:
    """The words for settings of an algorithm at `paths`, each by the flag that the command has for it."""
    words = list[str]()
    for path in paths.split(AND):
        above, _, name = path.partition(".")
        if above != "settings":
            return []
        words += [flag_of(name), "{}"] if name in own else ["--set", f"{path}={{}}"]
    return words


def _lora(name: str, path: str) -> list[str]:
    """Rank and alpha of adapters: neither goes without the other, and where one alone is given, alpha is twice the
    rank.
    """
    flags = (flag_of(name), f"--{name}")
    value = next(filter(None, map(invocation.value, flags)), "")
    number = int(value) if value.isdecimal() and int(value) else _RANK
    both = {"lora.rank": number, "lora.alpha": 2 * number}
    if path == "lora.alpha":
        both = {"lora.rank": max(1, number // 2), "lora.alpha": number}
    others = [word for word in invocation.again() if "lora" in word and word.partition("=")[0] not in flags]
    return [word for one in ([path] if others else both) for word in ("--set", f"{one}={both[one]}")]


def _other_name(task: str, own: Flags, name: str) -> list[str]:
    """The words for a flag that others call `name`, of the command or of a setup that it may name."""
    direct = next((flag for flag in others_names(name) if flag in own or flag.startswith("quiver_")), "")
    if direct:
        return [flag_of(direct), "{}"]
    if "setup" not in own:
        return []
    asked, value = invocation.value("--setup"), invocation.value(flag_of(name))
    usual = asked or own["setup"].task_value(task, "setup")
    for section, flags in _setups(usual):
        plain = name.removeprefix(f"{section}_")
        likely = [plain, *others_names(plain)]
        fitting = next((flag for flag in likely if flag in flags and _takes(flags[flag], value)), "")
        if fitting and asked in ("", section):
            return [*([] if section == usual else ["--setup", section]), flag_of(f"{section}_{fitting}"), "{}"]
    return []


def _setups(usual: str) -> Iterator[tuple[str, Flags]]:
    """The setups and their flags: the `usual` one, the user's own, the others."""
    kinds = {name: kind for name, kind in Register._get_reg().items() if hasattr(kind, "task_setup")}
    for name in sorted(kinds, key=lambda name: (name != usual, name != "own")):
        if inspect.isclass(kinds[name]) and issubclass(kinds[name], luigi.Config):
            yield name, dict(kinds[name].get_params())


def _takes(parameter: luigi.Parameter[Any], value: str) -> bool:
    try:
        parameter.parse(value)
    except (ParameterException, ValueError):
        return False
    return True


def _without_value(words: Sequence[str]) -> str:
    """`--model`, `--set optim.lr=...`: the words of a flag without the user's value."""
    shown = [word.partition("=")[0] + "=..." if "=" in word else word for word in words if word != "{}"]
    return " ".join(shown)
