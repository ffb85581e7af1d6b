"""What a checkpoint of adapters says of itself in `lora.json`, and where the base it belongs to is found.

The base is known by the digest of its weights. It is looked for where it was when the adapters were written, then at
the same place relative to them (both were moved together); anything else there is refused.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass

from schemas import settings
from schemas.errors import ConfigError, IntegrityError
from schemas.manifest import Manifest
from schemas.store import commit
from schemas.store.storage import shown
from trainers.config import Lora

LORA, BASE = "lora.json", "base"
"""The file; the name of the base among the manifest's parents, and of its relative place in the runtime_info."""


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Settings of the adapters in a checkpoint, and the `weights_digest` of the base they belong to."""

    lora: Lora
    base: str


def parse(text: str, where: str) -> Adapters:
    """The adapters that the text of a `lora.json` describes."""
    return settings.parse(Adapters, json.loads(text), where=where)


def place_of(adapters: Adapters, folder: str, manifest: Manifest) -> str:
    """The folder of the base of the adapters in `folder`; `IntegrityError` when it is gone or has other weights."""
    places = [parent.url for parent in manifest.parents if parent.name == BASE]
    if BASE in manifest.runtime_info:
        places.append(os.path.normpath(os.path.join(folder, str(manifest.runtime_info[BASE]))))
    there = {}
    for place in places:
        if (base := commit.read_manifest(place)) is not None:
            there[place] = str(base.facts.get("weights_digest", f"a {base.kind} without"))
    for place, weights in there.items():
        if weights == adapters.base:
            return place
    raise IntegrityError(
        "base-changed" if there else "base-missing",
        f"the base of the adapters in {shown(folder)} " + ("has other weights by now" if there else "is not there"),
        expected=f"weights {adapters.base[:12]}, in {' or '.join(map(shown, places))}",
        found=f"weights {', '.join(weights[:12] for weights in there.values())}" if there else "no checkpoint",
        where=shown(folder),
        kept="the adapters; nothing was changed",
        next="put the base back there (merging the adapters makes a checkpoint that needs none)",
    )


def check_whole(adapters: Adapters | None, where: str) -> None:
    """Raise `ConfigError` for a checkpoint of adapters, where a whole network is read tensor by tensor."""
    if adapters is not None:
        raise ConfigError(
            "adapters-alone",
            f"{shown(where)} holds adapters, not a whole network",
            expected="a checkpoint of a whole network",
            found=f"adapters of rank {adapters.lora.rank} on the base {adapters.base[:12]}",
            where=shown(where),
            kept="nothing was written",
            next=f"python -m trainers.merge {shlex.quote(shown(where))} OUT",
        )


def check_same(lora: Lora, adapters: Adapters, where: str) -> None:
    """Raise `ConfigError` where training of `lora` cannot go on with these adapters; dropout may differ."""
    have = adapters.lora
    unlike = [
        f"{name} {getattr(have, name)} -> {getattr(lora, name)}"
        for name in ("rank", "alpha")
        if getattr(have, name) != getattr(lora, name)
    ]
    if set(have.targets) != set(lora.targets):
        unlike.append(f"targets {', '.join(have.targets)} -> {', '.join(lora.targets)}")
    if unlike:
        raise ConfigError(
            "other-adapters",
            "init holds adapters of other settings than run.lora",
            expected="the settings of init, or a whole network, as merging makes one",
            found="; ".join(unlike),
            where=shown(where),
            kept="nothing was started",
            next=f"python -m trainers.merge {shlex.quote(shown(where))} OUT",
        )
