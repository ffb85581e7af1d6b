"""The settings of reading files, as every command that takes a file has them."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.formats.rows import Dialogue
from pipelines.cli.parameters import ObjectParameter
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import names_in, rows_at


class ReadsFiles:
    """Of a command whose rows may be files."""

    usual_format: ClassVar[str] = "completions"
    other_formats: ClassVar[tuple[str, ...]] = ()
    """Formats that a file is read in where it does not fit the usual one and none is given."""

    format = luigi.Parameter(default="", description="format of input files; empty: the command's usual one")
    columns = ObjectParameter(
        default={}, description='names that files use for a format\'s keys, as JSON: {"prompt": "task.question"}'
    )
    keep = luigi.Parameter(default="", description="other keys of files that become columns, divided by commas")
    ignore = luigi.Parameter(default="", description="keys of files that are left out on purpose, divided by commas")
    dialogue = luigi.ChoiceParameter(
        choices=get_args(Dialogue),
        default="plain",
        description="what a file's texts are: one turn (plain), or dialogues in NeMo-Aligner's or Anthropic's marks",
    )
    source_name = luigi.Parameter(default="", description="what stands in `source`; empty: the name of the row's file")

    def rows(self, plan: Plan, place: str) -> Node:
        """The dataset in the folder `place`, or what an import makes of the file `place`."""
        return rows_at(plan, place, self.format or (self.usual_format, *self.other_formats), **self.file_settings)

    @property
    def file_settings(self) -> dict[str, Any]:
        """What the command says of the reading of files, besides their format."""
        given = {
            "columns": recursively_unfreeze(dict(self.columns)),
            "keep": names_in(self.keep),
            "ignore": names_in(self.ignore),
            "dialogue": self.dialogue if self.dialogue != "plain" else None,
            "source": self.source_name or None,
        }
        return {name: value for name, value in given.items() if value}
