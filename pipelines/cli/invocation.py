"""The command that was given, and the commands that follow from it: whole, and with the folder of this environment's
programs in front wherever the shell would not run them by their bare names.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Collection, Sequence

from schemas.installed import as_run, program
from schemas.process.terminal import command_words, from_here
from schemas.setting_faults import AND

_MODULE = ["--module", "pipelines"]
"""The module of Luigi's own command line; `quiver NAME` puts it in front, so one of the user's comes behind it."""
_ROOT = "--quiver-root"
_SECTIONS = ("--quiver-", "--launch-")
_given: list[str] = sys.argv[1:]
_in_file: list[str] = []


def given(arguments: Sequence[str], in_file: Sequence[str] = ()) -> None:
    """From now on `arguments` are those of the command that runs; `in_file` are flags that its file gives."""
    _given[:], _in_file[:] = arguments, in_file


def is_short() -> bool:
    """Whether the command was given as `quiver NAME`, and not to Luigi's own command line."""
    return os.path.basename(sys.argv[0]) == "quiver"


def command(*words: str) -> list[str]:
    """The words of another command of the same program, below the same root of data."""
    return [*_head(), *words, *_own_module(), *_values(_ROOT, [*_given, *_in_file])]


def typed(*words: str) -> str:
    """The command line of `words`, called as this one was."""
    return shlex.join(_head()) + "".join(f" {word}" for word in [*words, *map(shlex.quote, _own_module())])


def completed(example: str) -> str:
    """The command that was given, with those flags of an `example` of it that it lacks, or gives nothing."""
    words, missing = again(), []
    for group in re.split(r" (?=--)", example) if example else ["--help"]:
        flag = group.split(" ")[0]
        if ["", *_values(flag, words)][-1] in ("", f"{flag}="):
            words = _without(flag, words)
            missing.append(group)
    return " ".join([shlex.join(words), *missing])


def flag_of(name: str) -> str:
    """A parameter's name as its flag."""
    return f"--{name.replace('_', '-')}"


def value(flag: str) -> str:
    """What the command gives `flag`; empty where it does not have it."""
    words = _values(flag, [*_given, *_in_file])
    return words[-1].removeprefix(f"{flag}=") if words else ""


def is_in_file(flag: str) -> bool:
    """Whether the file of flags gives `flag`, and the command line does not."""
    return bool(_values(flag, _in_file)) and not _values(flag, _given)


def again(**changed: object) -> list[str]:
    """The words of the command that was given, with other values of some of its parameters."""
    words = list(_given)
    for name, value in changed.items():
        flag = flag_of(name)
        words = [*_without(flag, words), flag, str(value)]
    return [*_head(), *_without("--module", words), *_own_module()]


def _head() -> list[str]:
    """What stands before the name of a command, in the words of the user."""
    return [program("quiver")] if is_short() else [program("luigi"), *(_module() or _MODULE)]


def _own_module() -> list[str]:
    """The flag for a module of the user's where it stands behind the name of a command, as in `quiver NAME`."""
    return _module() if is_short() else []


def _module() -> list[str]:
    """The flag for the module of the user's that the command imports; empty where it imports none."""
    words = [*_given, *_in_file]
    names = [name for word, name in itertools.pairwise(words) if word == "--module"]
    names += [word.partition("=")[2] for word in words if word.startswith("--module=")]
    own = [name for name in names if name != _MODULE[1]]
    return ["--module", own[-1]] if own else []


def before(word: str) -> tuple[str, str]:
    """The flag and its value that stand before `word` in the command that was given; empty where none does."""
    place = _given.index(word) if word in _given else 0
    flag, value = _given[place - 2 : place] if place > 1 else ("", "")
    return (flag, value) if flag.startswith("--") else ("", "")


def replaced(flag: str, *words: str, drop: Sequence[str] = ()) -> str:
    """The command that was given with `words` in place of `flag` and its value, which `{}` in them stands for (behind
    it where a file gives the flag), without those words that are to `drop`.
    """
    given, new = [word for word in again() if word not in drop], []
    if _values(flag, _in_file) and not _values(flag, given):
        given.append(flag)
    while given:
        word = given.pop(0)
        name, equals, value = word.partition("=")
        if name != flag:
            new.append(word)
            continue
        if not equals and given and not given[0].startswith("--"):
            value = given.pop(0)
        new += [one.replace("{}", value) for one in words if one != "{}" or value]
    return shlex.join(new)


def without(*flags: str, **changed: object) -> str:
    """The command that was given without `flags` and their values, with other values of some of its parameters."""
    return shlex.join(dropped(again(**changed), flags))


def dropped(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The `words` of a command without `flags` and their values."""
    rest = list(words)
    for flag in flags:
        rest = _without(flag, rest)
    return rest


def renamed(task: str, other: str) -> str:
    """The command that was given, with the name of another task."""
    return shlex.join(other if word == task else word for word in again())


def task() -> str:
    """The name of the command that was given; empty where there is none."""
    words = _without("--module", _given)
    return words[0] if words and not words[0].startswith("-") else ""


def corrected(wrong: str, right: str) -> str:
    """The command that was given with the setting `right` in place of `wrong`, both dotted paths, where it stands as
    `wrong=...` or as a key of JSON; empty where it does not, or where that is not certain.
    """
    words, (above, _, key), rights = again(), wrong.rpartition("."), right.split(AND)
    for place, word in enumerate(words):
        path, equals, value = word.partition("=")
        if equals and (path == wrong or path.endswith(f".{wrong}")):
            texts = [f"{path[: len(path) - len(wrong)]}{one}={value}" for one in rights]
            words[place : place + 1] = [more for text in texts for more in (words[place - 1], text)][1:]
            return shlex.join(words)
        is_beside = all(one.rpartition(".")[0] == above for one in rights)
        if word.count(f'"{key}"') == 1 and word.startswith("{") and is_beside:
            words[place] = _rekeyed(word, key, [one.rpartition(".")[2] for one in rights])
            return shlex.join(words)
    return ""


def _rekeyed(text: str, key: str, keys: Sequence[str]) -> str:
    """JSON with `keys` in place of `key`, each with its value."""
    if len(keys) == 1:
        return text.replace(f'"{key}"', json.dumps(keys[0]))
    pair = re.search(rf'"{re.escape(key)}"\s*:\s*([^\s,{{}}\[\]]+)', text)
    both = "" if pair is None else ", ".join(f"{json.dumps(one)}: {pair[1]}" for one in keys)
    return text if pair is None else text[: pair.start()] + both + text[pair.end() :]


def reassigned(wrong: str, *words: str) -> str:
    """The command that was given with `words` in place of `--set wrong=VALUE`, which `{}` in them stands for; empty
    where it has no such words.
    """
    given = again()
    for place, word in enumerate(given):
        is_one = word.startswith("--set=")
        text = word.removeprefix("--set=") if is_one or given[place - 1] == "--set" else ""
        if text.startswith(f"{wrong}="):
            value = text[len(wrong) + 1 :]
            given[place - (not is_one) : place + 1] = [one.replace("{}", value) for one in words]
            return shlex.join(given)
    return ""


def with_value(wrong: str, right: str) -> str:
    """The command that was given with `right` in place of the value `wrong` of a flag, or of a text in its JSON; empty
    where none has it.
    """
    words, quoted = again(), json.dumps(wrong)
    for place, word in enumerate(words):
        flag, equals, value = word.rpartition("=")
        if place and value == wrong and (equals or words[place - 1].startswith("--")):
            words[place] = f"{flag}{equals}{right}"
            return shlex.join(words)
        if place and re.match(r"(--[\w-]+=)?[{[]", word) and word.count(quoted) == 1:
            words[place] = word.replace(quoted, json.dumps(right))
            return shlex.join(words)
    return ""


def renamed_within(wrong: str, right: str) -> str:
    """The command that was given with the name `right` for the only `wrong` in the text of a value; empty where it
    stands nowhere, or more than once.
    """
    words, whole = again(), re.compile(rf"\b{re.escape(wrong)}\b", re.IGNORECASE)
    places = [place for place, word in enumerate(words) for _ in whole.finditer(word) if place]
    if len(places) != 1:
        return ""
    words[places[0]] = whole.sub(lambda _: right, words[places[0]])
    return shlex.join(words)


def shared(parameters: Collection[str]) -> list[str]:
    """Those flags of the command, with their values, that give one of `parameters` or a setting of a section."""
    rest, chosen = [*_given, *_in_file], list[str]()
    while rest:
        word = rest.pop(0)
        flag, equals, _ = word.partition("=")
        if flag not in map(flag_of, parameters) and not flag.startswith(_SECTIONS):
            continue
        chosen.append(word)
        if not equals and rest and not rest[0].startswith("--"):
            chosen.append(rest.pop(0))
    return chosen


def names(place: str) -> bool:
    """Whether the command gives the file or folder `place` to a flag, wherever that lies."""
    return any(os.path.basename(word.rpartition("=")[2].rstrip("/")) == place for word in _given)


def runnable(text: str) -> str:
    """A command that an error names, as it works here: flags alone take the place of those that the command had, places
    that the command names stay as they stand there, and another command works below the same root of data.
    """
    words = [*_given, *_in_file]
    text = from_here(text, {shlex.quote(one) for word in words for one in (word, word.partition("=")[2])})
    if text.startswith("--"):
        words = again()
        for word in text.split():
            words = _without(word, words) if word.startswith("--") else words
        return f"{shlex.join(words)} {text}"
    head = re.match(r"luigi --module pipelines (?=[A-Z])|quiver (?=[A-Z])", text)
    if head:
        return " ".join([shlex.join(_head()), text[head.end() :], *_own_module(), *_root_of(text)])
    return as_run(text)


def _root_of(text: str) -> list[str]:
    """The flag that has the command `text` work below the root of the one that was given, where that is needed."""
    words = [word.partition("=")[0] for word in command_words(text)]
    is_there = not words or _ROOT in words or "--config" in words
    return [] if is_there else list(map(shlex.quote, _values(_ROOT, [*_given, *_in_file])))


def _without(flag: str, words: Sequence[str]) -> list[str]:
    rest, skip = [], False
    for word in words:
        if not skip and word != flag and not word.startswith(flag + "="):
            rest.append(word)
        skip = not skip and word == flag
    return rest


def _values(flag: str, words: Sequence[str]) -> list[str]:
    """`flag` and its value, where the command has it."""
    for index, word in enumerate(words):
        if word.startswith(flag + "="):
            return [word]
        if word == flag:
            return list(words[index : index + 2])
    return []
