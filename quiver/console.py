"""The command `quiver`: lists and a look at a dataset, without Luigi or torch; Luigi's command line by a short name."""

from __future__ import annotations

import trainers  # noqa: F401  # isort: skip - signals end this command quietly from here on

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from quiver.command import Command
from schemas.process import terminal

_TOGETHER = 1 << 16
"""Characters of an answer that are held, so that a fault among them leaves no half of it."""

_HELP = ("-h", "--help", "help")
ROOT = "where data lies ([quiver] root of luigi.cfg, or quiver-data)"
COMMANDS: Mapping[str, Command] = {
    "ops": Command(
        usage="quiver ops [NAME]",
        meaning="operations; of one of them its settings and columns",
        module="quiver.registries",
    ),
    "formats": Command(
        usage="quiver formats [NAME]",
        meaning="what the records of a file may be; of one of them its keys and columns",
        module="quiver.registries",
    ),
    "algorithms": Command(
        usage="quiver algorithms [NAME]",
        meaning="ways of learning, and the rows they learn from; of one of them its settings",
        module="quiver.registries",
    ),
    "recipes": Command(
        usage="quiver recipes",
        meaning="arrangements of many stages",
        module="quiver.registries",
    ),
    "suites": Command(
        usage="quiver suites",
        meaning="benchmarks of `quiver Evaluate --suite`",
        module="quiver.registries",
    ),
    "show": Command(
        usage="quiver show URL_OR_NAME [--rows N] [--where PREDICATE] [--sample N [--seed S]] [--whole] "
        "[--mask [--tokenizer FOLDER]] [--json] [--root FOLDER]",
        meaning="what is in a dataset (with its first rows), a checkpoint or a folder; --mask: with what is learnt in "
        "colour",
        module="quiver.show",
        flags={
            "--rows N": "first rows that are printed (3)",
            "--where PREDICATE": "the first rows for which it holds: SQL over the columns, as in filter.where",
            "--sample N": "so many rows at random, of those for which the predicate holds where there is one",
            "--seed S": "of that sample (1234): the same seed, the same rows",
            "--whole": "every field in full, however long its line is",
            "--mask": "print them as tokens, with what is learnt in colour",
            "--tokenizer FOLDER": "with --mask: another tokenizer than the rows' own",
            "--json": "as JSON: what made it, its columns, these rows in full; or of a checkpoint all that is known",
            "--root FOLDER": ROOT,
        },
    ),
    "sql": Command(
        usage="quiver sql QUERY [--csv [--formulas]] [--json] [--parquet FILE] [--verify] [--root FOLDER]",
        meaning="one SELECT over the views of all data that is there (quiver catalog names them)",
        module="quiver.sql",
        flags={
            "--csv": "every row as CSV, an apostrophe before texts that a spreadsheet would compute (=, +, -, @, ...)",
            "--formulas": "with --csv: such texts as they are",
            "--json": "every row as JSON",
            "--parquet FILE": "every row into a new file",
            "--verify": "read all files behind its tables first: SHA-256 must be that of the manifests, not size alone",
            "--root FOLDER": ROOT,
        },
    ),
    "ls": Command(
        usage="quiver ls [NAME] [--all] [--json] [--root FOLDER]",
        meaning="datasets and checkpoints by name: of the last run of each recipe; rows, bytes, age, made by",
        module="quiver.ls",
        flags={
            "--all": "every variant, with the key behind its name",
            "--json": "as JSON",
            "--root FOLDER": ROOT,
        },
    ),
    "why": Command(
        usage="quiver why ROW_OR_CHECKPOINT [--key COLUMN] [--withdrawn] [--all] [--json] [--root FOLDER]",
        meaning="what became of a row by its id: made here, scored so, dropped there, learnt in these steps; which "
        "rows fed a checkpoint; --withdrawn: what must be trained again without rows",
        module="quiver.why",
        flags={
            "--key COLUMN": "what the id is: sample_id, prompt_id, pair_id, ...",
            "--withdrawn": "which checkpoints learnt from these rows, and what stands on them, of every variant",
            "--all": "results of every variant, not of the last runs alone",
            "--json": "as JSON, every stage and row",
            "--root FOLDER": ROOT,
        },
    ),
    "diff": Command(
        usage="quiver diff A B [--json] [--root FOLDER]",
        meaning="two iterations, experiments, datasets or checkpoints by name: rows, rewards and who wins on common "
        "prompts, lengths, finish reasons, settings that differ",
        module="quiver.diff",
        flags={"--json": "as JSON, all of it", "--root FOLDER": ROOT},
    ),
    "report": Command(
        usage="quiver report [NAME] [--out FILE] [--root FOLDER]",
        meaning="a page of a run, one HTML file that asks no network: figures, rewards, rows, curves, answers side by "
        "side, lineage; of the last run, or the last one in a folder",
        module="quiver.report",
        flags={"--out FILE": "a new file (report-KEY.html in the run's folder)", "--root FOLDER": ROOT},
    ),
    "du": Command(
        usage="quiver du [NAME] [--json] [--root FOLDER]",
        meaning="what takes the room: bytes by folder and kind, trainings' folders too; how much is of older variants",
        module="quiver.du",
        flags={"--json": "as JSON, every result and folder", "--root FOLDER": ROOT},
    ),
    "prune": Command(
        usage="quiver prune [--yes] [--runs] [--json] [--root FOLDER]",
        meaning="what nothing refers to: variants on which no last run stands, saves of finished trainings, what ended "
        "runs left; it is listed, with --yes removed",
        module="quiver.prune",
        flags={
            "--yes": "remove it",
            "--runs": "folders of finished trainings too, with their figures, logs and curves",
            "--json": "as JSON, every piece with its reason",
            "--root FOLDER": ROOT,
        },
    ),
    "explain": Command(
        usage="quiver explain TASK [FLAGS OF THE TASK] [--json] [--root FOLDER]",
        meaning="what that command would run and why, what it would use again, about how many rows and bytes it would "
        "make; nothing runs",
        module="quiver.explain",
        flags={"--json": "as JSON, with the place of every stage", "--root FOLDER": ROOT},
    ),
    "check": Command(
        usage="quiver check TASK [FLAGS OF THE TASK] [--json] [--root FOLDER]",
        meaning="every fault of that command that can be known before it runs, its stages, about how many rows, tokens "
        "and bytes; nothing runs",
        module="quiver.explain",
        flags={"--json": "as JSON, with the place of every stage", "--root FOLDER": ROOT},
    ),
    "catalog": Command(
        usage="quiver catalog [--root FOLDER]",
        meaning="make catalog.duckdb again, the views over all data that is there, and list them",
        module="quiver.catalog",
        flags={"--root FOLDER": ROOT},
    ),
    "lineage": Command(
        usage="quiver lineage [NAME] [--openlineage] [--root FOLDER]",
        meaning="what a result was made of, back to what was read; without a name: all results of the last runs",
        module="quiver.lineage",
        flags={
            "--openlineage": "as OpenLineage events, a line of JSON each (extra lineage); nothing is sent",
            "--root FOLDER": ROOT,
        },
    ),
    "serve": Command(
        usage="quiver serve MODEL [--reward MODEL] [--name NAME] [--reward-name NAME] [--port N] [--host ADDRESS] "
        "[--open-to-network] [--token-file FILE] [--token-env NAME] [--no-token] [--slots N] [--queue N] [--threads N] "
        "[--template NAME] [--date DAY] [--root FOLDER]",
        meaning="a server on this machine for clients that speak the OpenAI dialect: completions, chat, scores of a "
        "reward model (docs/serving.md); a signal ends it",
        module="quiver.serve",
        flags={
            "--reward MODEL": "a reward model beside the policy; MODEL may be one too, and is then served alone",
            "--name NAME": "what clients call the model (the name of its folder)",
            "--reward-name NAME": "what they call the reward model",
            "--port N": "8000; 0 takes a free one",
            "--host ADDRESS": "127.0.0.1; one that other machines reach needs --open-to-network",
            "--open-to-network": "other machines may ask: nothing is encrypted, and the token goes over the wire",
            "--token-file FILE": "the token that clients send, made where there is none (_serve/token below the root)",
            "--token-env NAME": "it is in the environment variable NAME, or in the file that NAME_FILE names",
            "--no-token": "whoever reaches the port may ask",
            "--slots N": "answers that are decoded at once (64)",
            "--queue N": "answers that wait at most; more are turned away with 429 (256)",
            "--threads N": "of the CPU (those of the environment)",
            "--template NAME": "how conversations become text (the model's own template)",
            "--date DAY": "what templates write that name a date, such as 2025-01-31",
            "--root FOLDER": ROOT,
        },
        live=True,
    ),
    "chat": Command(
        usage="quiver chat MODEL [--system TEXT] [--temperature X] [--top-p X] [--top-k N] [--max-new-tokens N] "
        "[--seed N] [--verbose] [--threads N] [--template NAME] [--date DAY] [--root FOLDER]",
        meaning="talk to what was trained, in the terminal, or with a pipe line by line",
        module="quiver.chat",
        flags={
            "--system TEXT": "the system's turn, before all others",
            "--temperature X": "1; 0 takes the likeliest token",
            "--top-p X": "the nucleus that is drawn from (1: all)",
            "--top-k N": "the likeliest that are drawn from (0: all)",
            "--max-new-tokens N": "the longest answer (512)",
            "--seed N": "of the answers (1234): the same seed, the same answers",
            "--verbose": "behind an answer, each of its tokens with its log-probability",
            "--threads N": "of the CPU (those of the environment)",
            "--template NAME": "how the conversation becomes text (the model's own template)",
            "--date DAY": "what templates write that name a date, such as 2025-01-31",
            "--root FOLDER": ROOT,
        },
        live=True,
    ),
    "export": Command(
        usage="quiver export URL --to FORMAT --out FILE [--keep COLUMN,...] [--max-rejected N]",
        meaning="rows as another toolkit's file; without more, the formats",
        module="quiver.exporting",
        flags={
            "--to FORMAT": "one that quiver export lists, or a toolkit's name",
            "--out FILE": "a new file: nothing is overwritten",
            "--keep COLUMN,...": "columns that become keys of their own",
            "--max-rejected N": "rows that may have no place in the format (0)",
        },
    ),
}
"""All that is answered here: an entry, and what it names, is a command."""


def main() -> NoReturn:
    """What the words behind `quiver` ask for. A name in capitals is a Luigi task; all else is answered here."""
    words = sys.argv[1:]
    if words and words[0][:1].isupper():
        _luigi(words)
    from schemas.process import program

    program.run(lambda: run(words))


def run(words: Sequence[str]) -> int:
    """Answer a lower-case command on standard output; its exit code. `ConfigError` for one that there is not."""
    name, *arguments = words or ["--help"]
    if name in _HELP:
        _print(_overview())
    elif name == "--version":
        from quiver import __version__

        _print([f"quiver {__version__}"])
    elif name in COMMANDS and {*arguments} & {*_HELP}:
        _print(COMMANDS[name].help())
    elif name in COMMANDS:
        _answer(COMMANDS[name], arguments)
    else:
        raise _unknown(name, arguments)
    return 0


def _answer(command: Command, arguments: Sequence[str]) -> None:
    from schemas.errors import QuiverError

    try:
        if command.live:
            for line in command.lines(arguments):
                print(line, flush=True)
            return
        _print(command.lines(arguments))
    except QuiverError as error:
        error.next = _in_same_root(command.repaired(arguments, error.next), command, arguments)
        raise


def _in_same_root(next: str, command: Command, arguments: Sequence[str]) -> str:
    """The command to run `next` with the `--root` of these `arguments`, where it takes one and names none."""
    from quiver.workspace_root import in_root
    from schemas.errors import QuiverError

    named = COMMANDS.get(next.partition(" ")[2].partition(" ")[0]) if next.startswith("quiver ") else None
    if named is None or "--root FOLDER" not in named.flags or {"--root", *_HELP} & {*next.split()}:
        return next
    try:
        return in_root(next, command.parsed(arguments)[1])
    except QuiverError:  # of arguments that are none
        return next


def _unknown(name: str, arguments: Sequence[str]) -> Exception:
    """The error of a command that there is not, with the one that was meant: a list, or a task in another case."""
    from pipelines.cli.known_commands import commands, near_task
    from schemas.errors import ConfigError, printable
    from schemas.nearest import nearest

    near = nearest(name, COMMANDS, 0.7) or near_task(name, list(commands()))
    return ConfigError(
        "unknown-command",
        f"there is no command {printable(name)}",
        expected=f"{', '.join(COMMANDS)}, or the name of a task, as in quiver RestIteration",
        found=printable(name),
        kept="nothing was started",
        next=shlex.join(["quiver", near, *arguments]) if near else "quiver --help",
        wrong=(name,),
        nearest=near,
    )


def _luigi(words: Sequence[str]) -> NoReturn:
    """Luigi's own command line, behind `pipelines`, which looks at the files that Luigi reads as it is imported."""
    sys.argv[1:] = ["--module", "pipelines", *words]
    import pipelines  # noqa: F401  # isort: skip
    from luigi.cmdline import luigi_run

    luigi_run(sys.argv[1:])
    raise SystemExit(0)


def _overview() -> Iterable[str]:
    """All that can stand behind `quiver`."""
    from quiver import inventory

    yield "usage: quiver COMMAND ...   (COMMAND --help says more)"
    yield from ("", "Lists and looks")
    yield from terminal.table([(command.short, command.meaning) for command in COMMANDS.values()], "  ")
    for title, lines in (("Stages", inventory.stages()), ("Recipes", inventory.recipes())):
        yield from ("", terminal.wrapped(f"{title} (the same as luigi --module pipelines NAME ...)"))
        yield from terminal.table([(name, about) for name, _, about in lines], "  ")


def _print(lines: Iterable[str]) -> None:
    """Write `lines`, but empty ones at the end, as they come; what fits `_TOGETHER` only when all of it is there."""
    waiting: list[str] = []
    characters, empty, written = 0, 0, False
    for line in lines:
        if not line.rstrip("\n"):
            empty += len(line) + 1
            continue
        waiting.append("\n" * empty + line)
        characters, empty = characters + len(line), 0
        if characters > _TOGETHER:
            sys.stdout.write("\n".join(waiting) + "\n")
            waiting, characters, written = [], 0, True
    if waiting or not written:
        sys.stdout.write("\n".join(waiting).rstrip("\n") + "\n")
