"""Conversations as columns: built from texts, given plain role names, and held to the grammar of a
conversation.

Roles are system (first turn only), user, assistant and tool; the names other formats use are mapped onto
them. Whole columns are handled at once: a MESSAGES column is its offsets and one flat TURN column.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import MESSAGES, TURN

ROLES = ("system", "user", "assistant", "tool")
_KNOWN = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatbot": "assistant",
    "bot": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
}  # fmt: skip

Faults = list[tuple[np.ndarray, str]]
"""Rows (a mask over all) and the reason why they cannot stay."""


def flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`array` as one contiguous array, the chunks of a chunked one put together."""
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def starts(lists: pa.Array) -> np.ndarray:
    """Offsets of each row into `lists.flatten()`, the end included; a null row is empty."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def turn_column(roles: pa.Array | str, contents: pa.Array, **more: pa.Array) -> pa.Array:
    """A TURN column of roles (or one role for all) and contents; other fields are null where they are not given."""
    count = len(contents)
    given = {"role": pa.repeat(roles, count) if isinstance(roles, str) else roles, "content": contents, **more}
    columns = [flat(given[f.name]).cast(f.type) if f.name in given else pa.nulls(count, f.type) for f in TURN]
    return pa.StructArray.from_arrays(columns, fields=list(TURN))


def messages(offsets: np.ndarray, turns: pa.Array) -> pa.Array:
    """A MESSAGES column of flat turns."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turns, type=MESSAGES)


def question(prompts: pa.Array) -> pa.Array:
    """One user turn a row."""
    return messages(np.arange(len(prompts) + 1), turn_column("user", prompts))


def of_rows(rows: Iterable[list[tuple[str, str]]]) -> pa.Array:
    """A MESSAGES column of (role, content) lists."""
    return pa.array([[{"role": role, "content": content} for role, content in row] for row in rows], MESSAGES)


def named(roles: pa.Array) -> pa.Array:
    """Roles under the names used here; null where a role is not known."""
    table = pa.array(list(_KNOWN))
    at = pc.index_in(pc.ascii_lower(pc.utf8_trim_whitespace(roles)), table)
    return pa.array(list(_KNOWN.values())).take(at)


def of_turns(turns: pa.Array) -> tuple[pa.Array, Faults]:
    """The turns under plain role names (a null row is one without turns), and the rows whose turns are null or of no
    known role.
    """
    inner, offsets = turns.flatten(), starts(turns)
    roles, contents = named(inner.field("role")), inner.field("content")
    no_role = np.asarray(pc.is_null(roles))
    no_content = np.asarray(pc.is_null(contents)) | np.asarray(inner.is_null())
    faults = [
        (any_turn(offsets, no_content), "turn-without-content"),
        (any_turn(offsets, no_role), "unknown-role"),
    ]
    more = {name: inner.field(name) for name in ("tool_calls", "tool_call_id", "reasoning", "weight")}
    return messages(offsets, turn_column(pc.fill_null(roles, "user"), pc.fill_null(contents, ""), **more)), faults


def concatenated(first: pa.Array, second: pa.Array) -> pa.Array:
    """The turns of each row of `first`, and behind them those of `second`."""
    a, b = starts(first), starts(second)
    order = np.concatenate([np.arange(a[-1]), a[-1] + np.arange(b[-1])])
    rows = np.concatenate(
        [np.repeat(np.arange(len(first)) * 2, np.diff(a)), np.repeat(np.arange(len(second)) * 2 + 1, np.diff(b))]
    )
    both = pa.concat_arrays([first.flatten(), second.flatten()])
    return messages(a + b, both.take(pa.array(order[np.argsort(rows, kind="stable")])))


def any_turn(offsets: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Rows of which any turn is flagged."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return np.asarray(total[offsets[1:]] > total[offsets[:-1]])


def head(turns: pa.Array) -> tuple[pa.Array, pa.Array]:
    """All turns but the last, and the last (null where there is no turn)."""
    offsets, inner = starts(turns), turns.flatten()
    some = offsets[1:] > offsets[:-1]
    last = pa.array(np.where(some, offsets[1:] - 1, 0), mask=~some)
    keep = np.ones(len(inner), bool)
    keep[offsets[1:][some] - 1] = False
    ends = np.concatenate([[0], np.cumsum(np.diff(offsets) - some)])
    return messages(ends, inner.filter(pa.array(keep))), inner.take(last)


def with_system(system: pa.Array, turns: pa.Array) -> pa.Array:
    """`turns` behind a system turn, in the rows whose system text is neither null nor empty."""
    offsets, inner = starts(turns), turns.flatten()
    has = np.asarray(pc.fill_null(pc.not_equal(system, ""), False))
    if not has.any():
        return messages(offsets, inner)
    ends = np.concatenate([[0], np.cumsum(np.diff(offsets) + has)])
    order = np.full(ends[-1], -1, np.int64)
    shift = np.repeat(ends[:-1] + has - offsets[:-1], np.diff(offsets))
    order[np.arange(len(inner)) + shift] = np.arange(len(inner))
    order[order < 0] = len(inner) + np.flatnonzero(has)
    both = pa.concat_arrays([inner, turn_column("system", pc.fill_null(system, ""))])
    return messages(ends, both.take(pa.array(order)))


def with_response(turns: pa.Array, response: pa.Array) -> pa.Array:
    """`turns` with one assistant turn more at the end of each row."""
    offsets, inner, count = starts(turns), turns.flatten(), len(turns)
    ends = offsets + np.arange(count + 1, dtype=np.int32)
    order = np.full(int(ends[-1]), -1, np.int64)
    order[np.arange(len(inner)) + np.repeat(np.arange(count), np.diff(offsets))] = np.arange(len(inner))
    order[order < 0] = len(inner) + np.arange(count)
    both = pa.concat_arrays([inner, turn_column("assistant", flat(response))])
    return messages(ends, both.take(pa.array(order)))


def single_question(turns: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The text of each row's one user turn (empty where there is none), and the rows that have other turns."""
    offsets, inner = starts(turns), turns.flatten()
    single = np.diff(offsets) == 1
    single[single] = np.asarray(pc.equal(inner.field("role"), "user"))[offsets[:-1][single]]
    first = pa.array(np.where(single, offsets[:-1], 0), mask=~single)
    return pc.fill_null(inner.field("content").take(first), ""), ~single


def first_question(turns: pa.Array) -> pa.Array:
    """The text of each row's first user turn; null where there is none."""
    offsets, inner = starts(turns), turns.flatten()
    asks = np.flatnonzero(np.asarray(pc.equal(inner.field("role"), "user")))
    place = np.append(asks, len(inner))[np.searchsorted(asks, offsets[:-1])]
    some = place < offsets[1:]
    return inner.field("content").take(pa.array(np.where(some, place, 0), mask=~some))


def per_turn(lists: pa.Array, offsets: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """The text of every turn, of lists with one text a turn (`offsets`: of the turns); null in rows without a list and
    in those where it has another number of texts, which are flagged.
    """
    lengths, own, given = np.diff(offsets), starts(lists), np.asarray(lists.is_valid())
    odd = given & (np.diff(own) != lengths)
    each = np.repeat(given & ~odd, lengths)
    if not each.any():
        return pa.nulls(len(each), pa.string()), odd
    place = np.arange(len(each)) + np.repeat(own[:-1] - offsets[:-1], lengths)
    return lists.flatten().take(pa.array(np.where(each, place, 0), mask=~each)), odd


def joined(pieces: pa.Array) -> pa.Array:
    """The whole text of each row of a PIECES column."""
    rows = pa.ListArray.from_arrays(pa.array(starts(pieces)), pieces.flatten().field("text"))
    return pc.binary_join(rows, "")


def blank(texts: pa.Array) -> np.ndarray:
    """Rows whose text is empty or white space."""
    # Nearly every text holds a printable ASCII character near its beginning; few need the slow look.
    bare = np.asarray(pc.invert(pc.match_substring_regex(texts, "[!-~]")))
    if bare.any():
        bare[bare] = np.asarray(pc.equal(pc.utf8_trim_whitespace(texts.filter(pa.array(bare))), ""))
    return bare


def grammar(turns: pa.Array, ends_with_user: bool) -> Faults:
    """Rows that are no conversation: no turns, a system turn inside, a blank question, no user or assistant
    turn.
    """
    offsets, inner = starts(turns), turns.flatten()
    roles = inner.field("role")
    first = np.zeros(len(inner), bool)
    some = offsets[1:] > offsets[:-1]
    first[offsets[:-1][some]] = True
    system = np.asarray(pc.equal(roles, "system"))
    user, assistant = np.asarray(pc.equal(roles, "user")), np.asarray(pc.equal(roles, "assistant"))
    empty = blank(inner.field("content"))
    last = offsets[1:][some] - 1
    faults: Faults = [(~some, "no-turns"), (any_turn(offsets, system & ~first), "system-turn-inside")]
    if ends_with_user:
        asks, nothing = np.zeros(len(turns), bool), np.zeros(len(turns), bool)
        asks[some] = (user | np.asarray(pc.equal(roles, "tool")))[last]
        nothing[some] = (empty & user)[last]
        faults += [(~asks, "last-turn-not-user"), (nothing, "blank-prompt")]
    else:
        faults += [
            (~any_turn(offsets, user), "no-user-turn"),
            (~any_turn(offsets, assistant), "no-assistant-turn"),
        ]
        silent = empty & np.asarray(inner.field("tool_calls").is_null())
        faults.append((any_turn(offsets, assistant & silent), "blank-response"))
    return faults
