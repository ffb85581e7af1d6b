"""The command `quiver`: lists and a look at a dataset, without Luigi or torch; Luigi's command line by a short name."""

from __future__ import annotations

import trainers  # noqa: F401  # isort: skip - signals end this command quietly from here on

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from schemas import Dataset

from schemas.process import terminal

_HELP = ("-h", "--help", "help")


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
    elif name in _COMMANDS and {*arguments} & {*_HELP}:
        usage, meaning = _MEANINGS[name]
        _print([f"usage: {usage}", "", terminal.wrapped(f"  {meaning}", "  "), *_FLAGS.get(name, ())])
    elif name in _COMMANDS:
        _print(_COMMANDS[name](arguments))
    else:
        raise _unknown(name, arguments)
    return 0


def _unknown(name: str, arguments: Sequence[str]) -> Exception:
    """The error of a command that there is not, with the one that was meant: a list, or a task in another case."""
    from pipelines.runtime.known_commands import commands, near_task
    from schemas.errors import ConfigError, printable
    from schemas.nearest import did_you_mean, nearest

    near = nearest(name, _COMMANDS, 0.7) or near_task(name, list(commands()))
    return ConfigError(
        "unknown-command",
        f"there is no command {printable(name)}{did_you_mean(near)}",
        expected=f"{', '.join(_COMMANDS)}, or the name of a task, as in quiver RestIteration",
        found=printable(name),
        kept="nothing was started",
        next=shlex.join(["quiver", near, *arguments]) if near else "quiver --help",
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
    from quiver import catalog

    yield "usage: quiver COMMAND ...   (COMMAND --help says more)"
    yield from ("", "Lists and looks")
    yield from terminal.table(_MEANINGS.values(), "  ")
    for title, lines in (("Stages", catalog.stages()), ("Recipes", catalog.recipes())):
        yield from ("", terminal.wrapped(f"{title} (the same as luigi --module pipelines NAME ...)"))
        yield from terminal.table([(name, about) for name, _, about in lines], "  ")


def _ops(arguments: Sequence[str]) -> Iterable[str]:
    from quiver import catalog, single

    if not _at_most(arguments, 1, "quiver ops [NAME]"):
        return catalog.table(catalog.operations())
    from datakit.registry import kind_of

    return single.operation(kind_of(arguments[0]))


def _formats(arguments: Sequence[str]) -> Iterable[str]:
    from quiver import catalog, single

    if not _at_most(arguments, 1, "quiver formats [NAME]"):
        return catalog.table(catalog.formats())
    from datakit.formats.rows import named_form

    with _listed("formats"):
        return single.file_format(named_form(arguments[0]))


def _algorithms(arguments: Sequence[str]) -> Iterable[str]:
    from quiver import catalog, single

    if not _at_most(arguments, 1, "quiver algorithms [NAME]"):
        return catalog.table(catalog.algorithms())
    from trainers.registry import algorithm_of

    with _listed("algorithms"):
        return single.algorithm(algorithm_of(arguments[0]), arguments[0])


@contextmanager
def _listed(command: str) -> Iterator[None]:
    """What follows a name that there is not: the list of those that there are."""
    from schemas.errors import ConfigError
    from schemas.nearest import meant

    try:
        yield
    except ConfigError as error:
        error.next = f"quiver {command} {meant(error.what)}".rstrip()
        raise


def _recipes(arguments: Sequence[str]) -> Iterable[str]:
    from quiver import catalog

    if _at_most(arguments, 1, "quiver recipes"):
        raise _usage("quiver recipes", arguments[0], f"quiver {shlex.quote(arguments[0])} --help")
    return catalog.table(catalog.recipes())


def _show(arguments: Sequence[str]) -> Iterable[str]:
    from quiver import show
    from schemas import Dataset

    usage = "quiver show URL [--rows N] [--mask [--tokenizer FOLDER]]"
    words, options = _options(arguments, ("rows", "tokenizer"), usage, flags=("mask",))
    count = options.get("rows", "3")
    if len(words) != 1 or not _is_count(count) or ("tokenizer" in options and "mask" not in options):
        place = shlex.quote(words[0]) if words else "."
        raise _usage(usage, " ".join(arguments) or "no dataset", f"quiver show {place}")
    return (
        _masked(Dataset.open(words[0]), int(count), options) if "mask" in options else show.lines(words[0], int(count))
    )


def _masked(dataset: Dataset, rows: int, options: Mapping[str, str]) -> Iterable[str]:
    from datakit.tokenizers.masked_text import masked_text
    from datakit.tokenizers.tokenizer import Tokenizer
    from schemas import Dataset
    from schemas.store.commit import read_manifest
    from schemas.store.storage import normal

    place = options.get("tokenizer")
    tokenizer = None
    if place is not None:
        manifest = read_manifest(normal(place))
        stored = manifest is not None and manifest.kind == "dataset"
        tokenizer = Tokenizer.of_dataset(Dataset.open(place)) if stored else Tokenizer.of_folder(place)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return [masked_text(dataset, rows, tokenizer).text(colour)]


def _export(arguments: Sequence[str]) -> Iterable[str]:
    from datakit.formats.exports.write import export, free_name
    from quiver import catalog
    from schemas import Dataset
    from schemas.store.storage import lasting

    usage = "quiver export URL --to FORMAT --out FILE [--keep COLUMN,...] [--max-rejected N]"
    if not arguments:
        return catalog.table(catalog.exports())
    words, options = _options(arguments, ("to", "out", "keep", "max-rejected"), usage)
    most = options.get("max-rejected", "0")
    if len(words) != 1 or not {"to", "out"} <= options.keys() or not _is_count(most):
        given = {"to": "trl", "out": free_name("rows.jsonl")} | options
        flags = [f"--{name} {shlex.quote(value)}" for name, value in given.items() if name != "max-rejected"]
        complete = f"quiver export {shlex.quote(words[0])} {' '.join(flags)}" if words else ""
        raise _usage(usage, " ".join(arguments), complete)
    lasting(options["out"])
    keep = [name for name in options.get("keep", "").split(",") if name]
    with _whole("export", words[0], options):
        return [str(export(Dataset.open(words[0]), options["to"], options["out"], keep, int(most)))]


@contextmanager
def _whole(command: str, place: str, options: Mapping[str, str]) -> Iterator[None]:
    """Flags that an error names become the command that was given, with them."""
    from schemas.errors import QuiverError

    try:
        yield
    except QuiverError as error:
        if error.next.startswith("--"):
            name, _, value = error.next[2:].partition(" ")
            flags = [f"--{one} {shlex.quote(text)}" for one, text in options.items() if one != name]
            error.next = f"quiver {command} {shlex.quote(place)} {' '.join([*flags, f'--{name} {value}'])}"
        raise


_MEANINGS = {
    "ops": ("quiver ops [NAME]", "operations; of one of them its settings and columns"),
    "formats": ("quiver formats [NAME]", "what the records of a file may be; of one of them its keys and columns"),
    "algorithms": (
        "quiver algorithms [NAME]",
        "ways of learning, and the rows they learn from; of one of them its settings",
    ),
    "recipes": ("quiver recipes", "arrangements of many stages"),
    "export": (
        "quiver export URL --to FORMAT --out FILE",
        "rows as another toolkit's file; without more, the formats",
    ),
    "show": (
        "quiver show URL [--rows N] [--mask]",
        "what is in a dataset (with its first rows), a checkpoint or a folder; --mask: with what is learnt in colour",
    ),
}
_FLAGS = {
    "export": (
        "",
        "  --to FORMAT         one that quiver export lists, or a toolkit's name",
        "  --out FILE          a new file: nothing is overwritten",
        "  --keep COLUMN,...   columns that become keys of their own",
        "  --max-rejected N    rows that may have no place in the format (0)",
    ),
    "show": (
        "",
        "  --rows N            first rows that are printed (3)",
        "  --mask              print them as tokens, with what is learnt in colour",
        "  --tokenizer FOLDER  with --mask: another tokenizer than the rows' own",
    ),
}
"""The flags of a command, for its help."""
_COMMANDS: dict[str, Callable[[Sequence[str]], Iterable[str]]] = {
    "ops": _ops,
    "formats": _formats,
    "algorithms": _algorithms,
    "recipes": _recipes,
    "show": _show,
    "export": _export,
}


def _options(
    arguments: Sequence[str], names: Sequence[str], usage: str, flags: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The plain words of a command, its `--name value` options and its flags; `ConfigError` for other ones."""
    words: list[str] = []
    options: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            words.append(word)
            continue
        name, given, text = word[2:].partition("=")
        if word[2:] in flags and word[2:] not in options:
            options[name] = ""
            continue
        if name not in names or name in options or not (given or waiting):
            raise _usage(usage, " ".join(arguments))
        options[name] = text if given else waiting.pop(0)
    return words, options


def _is_count(text: str) -> bool:
    """Whether `text` is a number of rows that there can be."""
    return text.isdecimal() and len(text) < 19


def _at_most(arguments: Sequence[str], number: int, usage: str) -> int:
    """How many words there are behind a command; `ConfigError` where they are too many."""
    if len(arguments) > number:
        raise _usage(usage, " ".join(arguments))
    return len(arguments)


def _usage(usage: str, words: str, command: str = "") -> Exception:
    from schemas.errors import ConfigError, printable

    return ConfigError(
        "bad-parameter",
        f"{_name(usage)} is asked for with other words",
        expected=usage,
        found=printable(words),
        kept="nothing was started",
        next=command or f"{_name(usage)} --help",
    )


def _name(usage: str) -> str:
    return usage.split("[", maxsplit=1)[0].split(" URL", maxsplit=1)[0].strip()


def _print(lines: Iterable[str]) -> None:
    sys.stdout.write("\n".join(lines).rstrip("\n") + "\n")
