"""Task setups: where an iteration gets prompts, original data, tokenizer, first policy and reward model from.

A setup is a section of the configuration; `setup = digits` in a recipe's section names it. One file each; this list
is the registry. All are made of the same nodes as everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luigi.freezing import recursively_unfreeze

from pipelines.runtime.settings import configured
from pipelines.setups.digits import digits as digits
from pipelines.setups.own import own as own
from pipelines.setups.preferences import preferences as preferences
from pipelines.setups.setup_config import SetupConfig as SetupConfig
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from trainers.config import merged

SETUPS: Mapping[str, type[SetupConfig]] = {kind.__name__: kind for kind in (digits, preferences, own)}
"""Setups by name."""


def setup_of(name: str, changes: Mapping[str, Mapping[str, Any]]) -> SetupConfig:
    """The setup of that name, configured, with `changes` over its settings in JSON, by name; `ConfigError` if there
    is none.
    """
    section = configured(setup_kind(name))
    changed = {key: merged(recursively_unfreeze(getattr(section, key)), change) for key, change in changes.items()}
    return section.clone(**changed) if changed else section


def setup_kind(name: str) -> type[SetupConfig]:
    """The section that is the setup of that name; `ConfigError` if there is none."""
    if name not in SETUPS:
        near = nearest(name, SETUPS)
        raise ConfigError(
            "unknown-setup",
            f"there is no setup {printable(name)}",
            expected=", ".join(SETUPS),
            kept="nothing was started",
            next=f"--setup {near or next(iter(SETUPS))}",
            wrong=(name,),
            nearest=near,
        )
    return SETUPS[name]
