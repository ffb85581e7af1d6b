"""Constitutions and few-shot dialogues as files: NeMo-Aligner's as they are, our own, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datakit.constitution.few_shot import read_few_shot
from datakit.constitution.principles import Principle, read_constitution
from datakit.label import DrawPrinciple
from schemas.errors import ConfigError
from schemas.settings import parse

NEMO = {
    "harmful0": {
        "prompt": ["\n\nCritiqueRequest: Name what is harmful.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Rewrite it.\n\nRevision:",
    }
}


def test_the_marks_around_nemo_aligners_texts_are_taken_off(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(NEMO))
    assert read_constitution(str(tmp_path / "c.json")) == [
        {"name": "harmful0", "critique": "Name what is harmful.", "revision": "Rewrite it."}
    ]


def test_numbered_lines_are_principles_of_a_judge(tmp_path: Path) -> None:
    text = "You judge.\n\n  1. Choose the kinder one.\n\n  2) Choose the shorter one.  \nas of 2024. not this\n"
    (tmp_path / "c.txt").write_text(text)
    made = read_constitution(str(tmp_path / "c.txt"))
    assert [one["choice"] for one in made] == ["Choose the kinder one.", "Choose the shorter one."]


def test_the_constitution_that_comes_with_it_says_something_to_everybody() -> None:
    made = [parse(Principle, one) for one in read_constitution("harmless")]
    assert len(made) == 8 and all(one.critique and one.revision and one.choice for one in made)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ("{}", "no principle"),
        ('{"a": {"prompt": []}}', "prompt of a is no text"),
        ('{"a": {"prompt": ["one", "two"]}}', "prompt of a is no text"),
        ('{"a": {"prompt": ["Critique:"]}}', "prompt of a is no text"),
        ('{"a": {"edit": "x"}}', "unknown keys edit"),
        ('{"a": 1}', "a has no texts"),
        ('{"a": {"choice": "x"}, "a": {"choice": "y"}}', "cannot be read"),
    ],
)
def test_another_file_is_refused_with_its_place(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        read_constitution(str(file))
    assert caught.value.slug == "bad-constitution" and caught.value.where == str(file) and caught.value.expected


def test_a_name_that_is_near_is_proposed() -> None:
    with pytest.raises(ConfigError) as caught:
        read_constitution("harmles")
    assert caught.value.nearest == "harmless"


def test_a_principle_that_lacks_a_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(NEMO | {"harmful1": {"prompt": ["Name it."]}}))
    with pytest.raises(ConfigError, match="harmful1 has no text for the revision"):
        DrawPrinciple.of({"principles": str(tmp_path / "c.json")})
    with pytest.raises(ConfigError, match="harmful0 has no text for the choice"):
        DrawPrinciple.of({"principles": str(tmp_path / "c.json"), "texts": ["choice"]})


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": role.lower()} for role in roles]


def test_dialogues_stand_one_behind_the_other(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"samples": [turns("User", "Assistant")] * 2}))
    assert read_few_shot(str(tmp_path / "d.json")) == tuple(
        {"role": role, "content": role} for role in ("user", "assistant") * 2
    )


@pytest.mark.parametrize(
    "samples",
    [
        None, [], [[]], "x", [turns("Assistant", "User")], [turns("User")], [turns("User", "User")],
        [[{"role": "User"}]], [[{"role": "User", "content": 1}, {"role": "Assistant", "content": ""}]],
        [turns("System", "User")],
    ],
)  # fmt: skip
def test_other_dialogues_are_refused(samples: object, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"samples": samples}))
    with pytest.raises(ConfigError) as caught:
        read_few_shot(str(tmp_path / "d.json"))
    assert caught.value.slug == "bad-constitution"


def test_nemo_aligners_own_files_are_read_as_they_are(shared_data: Path) -> None:
    folder = shared_data / "nemo-aligner" / "cai"
    made = read_constitution(str(folder / "CritiqueRevisionInstructions.json"))
    assert [one["name"] for one in made] == [f"harmful{number}" for number in range(16)]
    texts = [one[part] for one in made for part in ("critique", "revision")]
    assert all(text == text.strip() and "Request:" not in text and not text.endswith(":") for text in texts)
    judged = read_constitution(str(folder / "sys_prompt_constitution.txt"))
    assert len(judged) == 18 - 2 and judged[1]["choice"].startswith("Please choose the response that is the most")
    turns = read_few_shot(str(folder / "few_shot_samples_example.json"))
    assert len(turns) == 12 and turns[2] == {"role": "user", "content": "critique request"}
