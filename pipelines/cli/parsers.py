"""Luigi's parsers of the command line, made once: a command asks for each of them several times, and each has all flags
of all tasks.
"""

from __future__ import annotations

import argparse
from typing import Any

from luigi.cmdline_parser import CmdlineParser
from luigi.task_register import Register


def install() -> None:
    """Keep what `CmdlineParser` builds for as long as no other task is registered; to be called behind all who change
    what it builds.
    """
    build = CmdlineParser._build_parser
    kept: dict[Any, argparse.ArgumentParser] = {}
    tasks: list[Any] = []

    def parser(root_task: str | None = None, help_all: bool = False) -> argparse.ArgumentParser:
        if tasks != Register._reg:
            kept.clear()
            tasks[:] = Register._reg
        asked = root_task, help_all
        if asked not in kept:
            kept[asked] = build(root_task=root_task, help_all=help_all)
        return kept[asked]

    CmdlineParser._build_parser = staticmethod(parser)  # type: ignore[method-assign,assignment]
