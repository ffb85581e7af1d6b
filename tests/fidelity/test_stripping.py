"""Tokens that swallow white space (`lstrip`, `rstrip`, as in Phi-3), against transformers on the whole text: ids, and
masks by its character offsets, wherever the borders between what is learnt and what is not lie.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from datakit.op import Context
from datakit.template import Chat, Fit, RewardPrompt
from datakit.tokenize import Encode, Mask, Sequences
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import MESSAGES, PIECES

TOKENS = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
EOS = "</s>"
HEADER = "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
BEHIND = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}" + HEADER
"""White space behind every control token, as Phi-3's template writes it."""
BEFORE = (
    "{% for m in messages %}{{ '\\n \\n<|' + m.role + '|>' + m.content + ' \\n<|end|>\\t' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n \\n<|assistant|>' }}{% else %}{{ ' ' + eos_token }}{% endif %}"
)
CASES = {"right": BEHIND, "left": BEFORE, "both": BEHIND, "both, before": BEFORE, "right, before": BEFORE}
CHATS = [
    [("user", "a"), ("assistant", "1"), ("user", "b"), ("assistant", "2")],
    [("system", "Be brief.\n"), ("user", " What is 2+2? "), ("assistant", "  It is 4.\t")],
    [("user", "one\u00a0"), ("assistant", "\u2003two\nlines \n"), ("user", "\n\nthree"), ("assistant", "four  \u3000")],
    [("user", "a\x1c"), ("assistant", "\x1fb\x1d"), ("user", "   "), ("assistant", "Grüße, 世界")],
]


def flagged(made: tokenizers.Tokenizer, case: str) -> Tokenizer:
    """Its control tokens, but not its end token, swallow on the sides that the case names."""
    data = json.loads(made.to_str())
    for token in data["added_tokens"]:
        if token["content"] in TOKENS:
            token["rstrip"], token["lstrip"] = (any(s in case for s in (side, "both")) for side in ("right", "left"))
    return Tokenizer("own", json.dumps(data), None, None, EOS)


def byte_level() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*TOKENS, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([content for chat in CHATS for _, content in chat] * 3, trainer)
    return made


def llama() -> tokenizers.Tokenizer:
    """As Llama's and Phi-3's: a blank is put before every stretch between control tokens."""
    spelling = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: at for at, token in enumerate(["<unk>", *TOKENS, EOS, *spelling, "\u2581", *"abIt124.?Whno"])}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([*TOKENS, EOS])
    return made


KINDS = {"byte-level": byte_level, "llama": llama}


@pytest.fixture(params=[(kind, case) for kind in KINDS for case in CASES], ids=str)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, Any, str]:
    """Our tokenizer, transformers' of the same files, and a template."""
    kind, case = request.param
    own = flagged(KINDS[kind](), case)
    return own, opened(own, tmp_path), CASES[case]


def opened(own: Tokenizer, folder: Path) -> Any:
    for name, content in own.files.items():
        (folder / name).write_bytes(content)
    return AutoTokenizer.from_pretrained(folder)


def rendered(source: str, chat: list[tuple[str, str]], generation: bool = False) -> str:
    turns = [{"role": role, "content": content} for role, content in chat]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(messages=turns, eos_token=EOS, add_generation_prompt=generation)


def conversations(chats: list[list[tuple[str, str]]], **more: Any) -> pa.Table:
    turns = [[{"role": role, "content": content} for role, content in chat] for chat in chats]
    ids = [str(number) for number in range(len(chats))]
    return pa.table({"sample_id": ids, "prompt_id": ids, "messages": pa.array(turns, MESSAGES), **more})


def columns(op: Any, rows: pa.Table, own: Tokenizer) -> Any:
    """What the operation adds, of rows that all stay."""
    made = op.label(rows, Context(resources={"tokenizer": own}))
    assert isinstance(made, dict) or all(made.kept.keep.to_pylist())
    return made if isinstance(made, dict) else made.columns


def ids(hf: Any, text: str) -> list[int]:
    row: list[int] = hf(text, add_special_tokens=False)["input_ids"]
    return row


def learnt(source: str, chat: list[tuple[str, str]], learn: str) -> list[bool]:
    """Of every character of the text, whether it is an answer or closes one, read off the text."""
    between = rendered(source, [(role, "\ue000") for role, _ in chat]).split("\ue000")
    marks = [False] * len(between[0])
    answers = [number for number, (role, _) in enumerate(chat) if role == "assistant"]
    for number, ((_, content), behind) in enumerate(zip(chat, between[1:], strict=True)):
        closes = behind.index("<|end|>") + len("<|end|>")
        taught = number in (answers if learn == "all" else answers[-1:])
        marks += [taught] * (len(content) + closes) + [False] * (len(behind) - closes)
    return marks


@pytest.mark.parametrize("learn", ["all", "last"])
def test_ids_are_those_of_the_whole_text_and_masks_those_of_offsets(given: Any, learn: Any) -> None:
    own, hf, source = given
    rows = conversations(CHATS)
    rows = rows.append_column("pieces", columns(Chat(template=source, learn=learn), rows, own)["pieces"])
    made = columns(Mask(), rows, own)
    lengths = []
    for chat, row, mask in zip(CHATS, made["input_ids"].to_pylist(), made["loss_mask"].to_pylist(), strict=True):
        text, marks = rendered(source, chat), learnt(source, chat, learn)
        whole = hf(text, add_special_tokens=False, return_offsets_mapping=True)
        assert hf.convert_ids_to_tokens(row) == hf.convert_ids_to_tokens(whole["input_ids"]), text
        lengths.append(len(row))
        assert any(mask) and not all(mask)
        for token, flag, (start, end) in zip(row, mask, whole["offset_mapping"], strict=True):
            name = hf.convert_ids_to_tokens(token)
            own_start = text.index(name, start) if name in TOKENS else start  # without what it swallowed
            own_end = own_start + len(name) if name in TOKENS else end
            assert set(marks[own_start:own_end]) <= {bool(flag)}, (name, text, start)
    assert columns(Encode(columns=(("pieces", "ids"),)), rows, own)["ids"].to_pylist() == made["input_ids"].to_pylist()
    longest = Context(resources={"tokenizer": own})
    kept: Any = Fit(template=source, max_length=max(lengths) - 1).label(rows, longest)
    assert kept.kept.value.to_pylist() == lengths


def test_a_learnt_row_begins_with_its_prompt(given: Any) -> None:
    own, hf, source = given
    prompts = [chat[:-1] for chat in CHATS]
    asked, rows = conversations(prompts), conversations(CHATS)
    pieces = columns(Chat(template=source, generation=True), asked, own)["pieces"]
    of_prompts = own.encode_pieces(pieces)
    of_rows = own.encode_pieces(columns(Chat(template=source, learn="last"), rows, own)["pieces"])
    for number, prompt in enumerate(prompts):
        head = of_prompts.ids[of_prompts.offsets[number] : of_prompts.offsets[number + 1]].tolist()
        row = of_rows.ids[of_rows.offsets[number] : of_rows.offsets[number + 1]].tolist()
        assert head == ids(hf, rendered(source, prompt, True))
        assert head == row[: len(head)] and len(head) < len(row)


def test_both_answers_of_a_pair_are_read_as_transformers_reads_them(given: Any) -> None:
    own, hf, source = given
    rows = conversations([chat[:-1] for chat in CHATS])
    rows = rows.append_column("pair_id", rows["sample_id"])
    answers = {"chosen": [chat[-1][1] for chat in CHATS], "rejected": [f" no\n{at}" for at in range(len(CHATS))]}
    rows = rows.append_column("chosen", pa.array(answers["chosen"]))
    rows = rows.append_column("rejected", pa.array(answers["rejected"]))
    made = columns(RewardPrompt(rows="preferences", template=source), rows, own)
    both = columns(Sequences(), pa.table({f"{side}_pieces": made[f"{side}_pieces"] for side in answers}), own)
    for side, texts in answers.items():
        wanted = [
            ids(hf, rendered(source, [*chat[:-1], ("assistant", a)])) for chat, a in zip(CHATS, texts, strict=True)
        ]
        assert both[f"{side}_ids"].to_pylist() == wanted


def test_content_swallows_nothing_and_is_no_control_token(given: Any) -> None:
    own, _, source = given
    content = "x <|end|> y"
    row = own.encode_pieces(columns(Chat(template=source), conversations([[("user", content)]]), own)["pieces"]).ids
    assert (row == own.id_of("<|end|>")).sum() == 1, "that of the template"
    assert content in own.decode([row.tolist()], control=True)[0]


def test_a_token_that_is_no_control_token_swallows_over_the_border(tmp_path: Path) -> None:
    made = byte_level()
    made.add_tokens([tokenizers.AddedToken("<think>", rstrip=True), tokenizers.AddedToken("</think>", lstrip=True)])
    own = flagged(made, "none")
    pieces = [("<|assistant|>\n<think>\n", True, False), (" hm \n", False, True), ("</think> ", True, False)]
    pieces += [
        ("\nb<think>", False, True),
        ("\n", True, False),
        ("\ta \u2003", False, True),
        (" </think>a", True, False),
    ]
    row = [dict(zip(("text", "special", "trained"), piece, strict=True)) for piece in pieces]
    done = own.encode_pieces(pa.array([row], PIECES))
    hf = opened(own, tmp_path)
    assert done.ids.tolist() == ids(hf, "".join(text for text, _, _ in pieces))
    learnt_tokens = [token for token, flag in zip(done.ids.tolist(), done.trained, strict=True) if flag]
    assert own.decode([learnt_tokens], control=True) == ["hm\nb<think>a"]


def test_pieces_that_are_swallowed_whole_leave_the_rows_apart() -> None:
    own = flagged(byte_level(), "both")
    texts = [[("<|end|>", True), ("\n", False), (" ", False)], [("\n", False), ("<|user|>", True), ("a", False)], []]
    rows = [[{"text": t, "special": s, "trained": s} for t, s in row] for row in texts]
    done = own.encode_pieces(pa.array(rows, PIECES))
    end, user, a = own.id_of("<|end|>"), own.id_of("<|user|>"), own.encode(["a"])[0][0]
    assert (done.ids.tolist(), done.offsets.tolist()) == ([end, user, a], [0, 1, 3, 3])
    assert done.trained.tolist() == [True, True, False]
