"""Luigi's parsers of the command line are made once, for the tasks that are registered."""

from __future__ import annotations

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.task_register import Register

import pipelines.cli.parsers  # noqa: F401 - for its effect


def test_a_parser_is_made_once_while_no_other_task_is_registered() -> None:
    build = CmdlineParser._build_parser
    plain, of_import = build(), build(root_task="Import")
    assert build() is plain and build("Import") is of_import is not plain
    assert build(help_all=True) is not plain
    assert "prompts" not in vars(plain.parse_args([]))

    class Newcomer(luigi.Task):
        wanted = luigi.Parameter(default="")

    try:
        assert build().parse_args(["--Newcomer-wanted", "x"]).Newcomer_wanted == "x"
        assert build() is build() is not plain
        assert build("Newcomer").parse_args(["Newcomer", "--wanted", "y"]).wanted == "y"
    finally:
        Register._reg.remove(Newcomer)
    assert build() is not plain and "Newcomer_wanted" not in vars(build().parse_args([]))
