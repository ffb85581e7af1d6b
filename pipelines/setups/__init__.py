"""Task setups: where an iteration gets prompts, original data, tokenizer, first policy and reward model from.

A setup is a section of the configuration; `setup = digits` in a recipe's section names it. One file each, and one
line here. All are made of the same nodes as everything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from luigi.freezing import recursively_unfreeze
from luigi.task_register import Register

from pipelines.runtime.settings import configured
from pipelines.setups.digits import digits as digits
from pipelines.setups.own import own as own
from pipelines.setups.preferences import preferences as preferences
from pipelines.setups.setup_config import SetupConfig as SetupConfig
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from trainers.config import merged


def setups() -> Mapping[str, type[SetupConfig]]:
    """Setups by name: those above, and what a module of the user's defines (`--module`)."""
    kinds = {name: kind for name, kind in Register._get_reg().items() if isinstance(kind, type)}
    return {
        name: kind
        for name, kind in kinds.items()
        if issubclass(kind, SetupConfig) and not inspect.isabstract(kind) and not name.startswith("_")
    }


def setup_of(name: str, changes: Mapping[str, Mapping[str, Any]]) -> SetupConfig:
    """The setup of that name, configured, with `changes` over its settings in JSON, by name; `ConfigError` if there
    is none.
    """
    section = configured(setup_kind(name))
    changed = {key: merged(recursively_unfreeze(getattr(section, key)), change) for key, change in changes.items()}
    return section.clone(**changed) if changed else section


def setup_kind(name: str) -> type[SetupConfig]:
    """The section that is the setup of that name; `ConfigError` if there is none."""
    known = setups()
    if name not in known:
        near = nearest(name, known)
        raise ConfigError(
            "unknown-setup",
            f"there is no setup {printable(name)}",
            expected=", ".join(known),
            kept="nothing was started",
            next=f"--setup {near or next(iter(known))}",
            wrong=(name,),
            nearest=near,
        )
    return known[name]
