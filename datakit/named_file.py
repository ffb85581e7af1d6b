"""The text of a small file that a setting names: a user's, or one that comes with the project under that name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.untrusted import exact_json

_LARGEST = 1 << 20


@dataclass(frozen=True)
class NamedFiles:
    """Files of one kind: `what` they are called, the folder of those that are `shipped` (`*.json`), the error's `code`,
    and what a file should look like (`expected`).
    """

    what: str
    code: str
    expected: str
    shipped: Path | None = None

    def place(self, name: str) -> Path:
        """Where the file `name` is; `ConfigError` where there is none."""
        known = {path.stem: path for path in sorted(self.shipped.glob("*.json"))} if self.shipped else {}
        place = Path(os.path.expanduser(name))
        file = known.get(name) if not place.is_file() else place
        if file is None:
            near = nearest(name, known)
            raise ConfigError(
                self.code, f"there is no {self.what} {printable(name, 200)}", kept="nothing was started",
                expected=f"a JSON file, or one of {', '.join(known)}" if known else "a JSON file", found="no such file",
                wrong=(name,) if near else (), nearest=near,
            )  # fmt: skip
        return file

    def text_of(self, name: str) -> str:
        """The text of the file `name`; `ConfigError` where that cannot be read."""
        file = self.place(name)
        try:
            if file.stat().st_size > _LARGEST:
                raise ValueError(f"more than {_LARGEST:,} bytes")
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as fault:
            raise self.unreadable(name, printable(fault, 200)) from fault

    def json_of(self, name: str) -> dict[str, Any]:
        """The JSON object in the file `name`; `ConfigError` for anything else."""
        text = self.text_of(name)
        try:
            read = exact_json(text)
        except (ValueError, RecursionError) as fault:
            raise self.unreadable(name, printable(fault, 200)) from fault
        if not isinstance(read, dict):
            raise self.unreadable(name, "no JSON object")
        return read

    def unreadable(self, name: str, why: str) -> ConfigError:
        """The error for a file `name` that holds something else."""
        return ConfigError(
            self.code, f"the {self.what} {printable(name, 200)} cannot be read: {why}", expected=self.expected,
            where=printable(self.place(name), 200), kept="nothing was started",
        )  # fmt: skip
