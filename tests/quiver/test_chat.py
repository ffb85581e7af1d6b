"""`quiver chat`: answers of a pipe's lines, what is hostile shown inert, log-probabilities, a conversation too long."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from pipelines.serve import models
from pipelines.serve.conversation import Conversation
from quiver import console
from schemas.errors import ConfigError, DataError, escaped
from tests.pipelines.serve.served import POSITIONS, in_process, policy, reward

HELLO = {"role": "user", "content": "Hello."}


class Terminal(io.StringIO):
    """Standard input that a person types into."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "place_at", lambda reference, root: reference)
    monkeypatch.setattr(models, "opened", lambda place, rendering: reward() if place == "./r" else policy())


def chat(monkeypatch: pytest.MonkeyPatch, typed: str, *words: str, terminal: bool = False) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed) if terminal else io.StringIO(typed))
    console.run(["chat", "./m", "--threads", "1", "--max-new-tokens", "9", *words])


def expected(turns: list[dict[str, str]], seed: int, **how: object) -> dict[str, object]:
    return in_process(policy().texts.conversation(turns, answer=True).tolist(), seed, 9, **how)  # type: ignore[arg-type]


def test_lines_of_a_pipe_are_answered_one_after_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk: list[str] = []
    monkeypatch.setattr("quiver.chat.escaped", lambda text: talk.append(text) or text)
    chat(monkeypatch, "Hello.\n\nAnd you?\n/forget\nHello.\n", "--seed", "5", "--system", "Be short.")
    system = {"role": "system", "content": "Be short."}
    first = expected([system, HELLO], 5)
    turns = [system, HELLO, {"role": "assistant", "content": str(first["response"])}]
    second = expected([*turns, {"role": "user", "content": "And you?"}], 6)
    third = expected([system, HELLO], 7)
    assert "".join(talk) == f"{first['response']}{second['response']}{third['response']}"
    assert capsys.readouterr().err == ""


def test_every_token_is_shown_with_its_log_probability(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(monkeypatch, "Hello.\n", "--temperature", "0", "--verbose")
    drawn = expected([HELLO], 0, greedy=True)
    *_, last = lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    values = [float(line[0]) for line in lines]
    np.testing.assert_allclose(values[:-1], drawn["logprobs"], atol=1e-4)  # type: ignore[arg-type]
    assert values[-1] == pytest.approx(np.mean(drawn["logprobs"]), abs=1e-4) and last[1] == "mean"  # type: ignore[arg-type]


def test_what_an_answer_holds_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hostile(self: Conversation, text: str) -> Iterator[str]:
        yield from ("a\x1b[2", "Jb\x9b\u202e\x07\r", "c\nd")

    monkeypatch.setattr(Conversation, "send", hostile)
    chat(monkeypatch, "Hello.\n", terminal=True)
    shown = capsys.readouterr()
    assert shown.out == "a\\u001b[2Jb\\u009b\\u202e\\u0007\\u000dc\nd\n" and "\x1b" not in shown.err


def test_a_conversation_that_is_too_long_goes_on_without_the_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a" * POSITIONS
    chat(monkeypatch, f"{long}\nHello.\n/end\nnever read\n", "--temperature", "0", terminal=True)
    shown = capsys.readouterr()
    assert "no room for an answer" in shown.err and "/forget begins anew" in shown.err and "Traceback" not in shown.err
    assert len(shown.out.splitlines()) >= 1
    with pytest.raises(DataError, match="no room for an answer"):
        chat(monkeypatch, f"{long}\n")


def test_a_line_that_is_no_text_is_refused_and_the_conversation_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def piped() -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(b"1 \xff\nHello.\n"), encoding="utf-8")

    monkeypatch.setattr(sys, "stdin", piped())
    with pytest.raises(DataError, match="not UTF-8"):
        console.run(["chat", "./m", "--threads", "1", "--max-new-tokens", "9"])
    typed = piped()
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", typed)
    console.run(["chat", "./m", "--threads", "1", "--max-new-tokens", "9", "--seed", "5"])
    shown = capsys.readouterr()
    assert "not UTF-8" in shown.err and shown.out.count("\n") == 1
    assert shown.out.startswith(escaped(str(expected([HELLO], 5)["response"])))


def test_a_reward_model_does_not_talk_and_wrong_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="it puts numbers on answers"):
        console.run(["chat", "./r"])
    for flag in ("--temperature=hot", "--temperature=-1", "--temperature=nan", "--top-k=-1", "--seed=x", "--top-p=2"):
        with pytest.raises(ConfigError) as fault:
            chat(monkeypatch, "", flag)
        assert fault.value.slug in ("bad-parameter", "bad-setting")
    with pytest.raises(ConfigError, match="other words"):
        console.run(["chat"])
