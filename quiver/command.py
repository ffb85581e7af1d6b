"""One command behind `quiver`: what it takes and means, and what answers it."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.process import terminal


@dataclass(frozen=True, kw_only=True)
class Command:
    """The function in `module` that has the command's name answers in lines, given the command and the words behind its
    name; the module is imported only then. `flags`, each with its meaning: `--rows N` has a value, `--mask` has none.
    """

    usage: str
    meaning: str
    module: str
    flags: Mapping[str, str] = field(default_factory=dict)
    live: bool = False
    """Each line is shown as it comes, and what was shown stays where a later one fails."""

    @property
    def call(self) -> str:
        """What is typed, without words that differ from call to call: `quiver show`."""
        return " ".join(self.usage.split()[:2])

    @property
    def short(self) -> str:
        """The usage without flags that may be left out."""
        return self.usage.partition(" [--")[0]

    def lines(self, arguments: Sequence[str]) -> Iterable[str]:
        """The answer to `arguments`; `ConfigError` where they are others than `usage` says."""
        answer: Callable[[Command, Sequence[str]], Iterable[str]]
        answer = getattr(importlib.import_module(self.module), self.call.split()[1])
        return answer(self, arguments)

    def help(self) -> list[str]:
        """Usage, meaning and flags, in lines of the terminal's width."""
        flags = ["", *terminal.table(self.flags.items(), "  ")] if self.flags else []
        return [terminal.wrapped(f"usage: {self.usage}", "  "), "", terminal.wrapped(f"  {self.meaning}", "  "), *flags]

    def parsed(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Plain words, and values of flags by name (of one that has none: empty); `ConfigError` for other flags."""
        takes_value = {flag.split()[0][2:]: " " in flag for flag in self.flags}
        words: list[str] = []
        options: dict[str, str] = {}
        waiting = list(arguments)
        while waiting:
            word = waiting.pop(0)
            if not word.startswith("--"):
                words.append(word)
                continue
            name, given, text = word[2:].partition("=")
            if name not in takes_value:
                from schemas.nearest import suggestion

                near = suggestion(f"--{name}", [f"--{flag}" for flag in takes_value])
                raise self.wrong(" ".join(arguments), what=f"has no flag --{name}{near}")
            if name in options:
                raise self.wrong(" ".join(arguments), what=f"is given --{name} twice")
            if (takes_value[name] and not given and not waiting) or (given and not takes_value[name]):
                raise self.wrong(" ".join(arguments))
            options[name] = text if given or not takes_value[name] else waiting.pop(0)
        return words, options

    def repaired(self, arguments: Sequence[str], next: str) -> str:
        """What an error says to do `next`; flags alone take their place in the command of these `arguments`."""
        if not next.startswith("--"):
            return next
        words, options = self.parsed(arguments)
        given = [
            f"--{name}={text}" if text else f"--{name}" for name, text in options.items() if f"--{name}" not in next
        ]
        return f"{self.call} {shlex.join([*words, *given])} {next}"

    def at_most(self, number: int, arguments: Sequence[str]) -> int:
        """How many words there are; `ConfigError` where they are too many."""
        if len(arguments) > number:
            raise self.wrong(" ".join(arguments))
        return len(arguments)

    def wrong(self, words: str, next: str = "", what: str = "is asked for with other words") -> Exception:
        """The error of other `words` than the usage says, `what` is wrong with them, and the command to run instead."""
        from schemas.errors import ConfigError, printable

        return ConfigError(
            "bad-parameter",
            f"{self.call} {printable(what)}",
            expected=self.usage,
            found=printable(words),
            kept="nothing was started",
            next=next or f"{self.call} --help",
        )


def is_count(text: str) -> bool:
    """Whether `text` is a number of rows that there can be."""
    return text.isdecimal() and len(text) < 19
