"""Settings from JSON: every key and every element has its declared type, and the error says what is wrong where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from schemas.errors import ConfigError
from schemas.settings import assigned, every_setting, parse


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Example:
    names: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    sizes: tuple[int, ...] = ()
    loose: list[float] = field(default_factory=list)
    deep: dict[str, dict[str, int]] = field(default_factory=dict)
    way: Literal["a", 1] = "a"
    limit: int | float | None = None
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": {"response": ["a"]}}, 'names.response: ["a"] is not text'),
        ({"names": {"response": None}}, "names.response: null is not text"),
        ({"names": 3}, "names: 3 is not an object of text or a list of a pair of text and text"),
        ({"names": [["a", 1]]}, "names[0][1]: 1 is not text"),
        ({"sizes": [1, "2"]}, 'sizes[1]: "2" is not a whole number'),
        ({"sizes": {"a": 1}}, 'sizes: {"a": 1} is not a list of a whole number'),
        ({"loose": [1, [2]]}, "loose[1]: [2] is not a finite number"),
        ({"loose": [10**400]}, "is not a finite number"),
        ({"deep": {"a": {"b": 1.5}}}, "deep.a.b: 1.5 is not a whole number"),
        ({"way": True}, "way: True is not one of a, 1"),
        ({"limit": "x"}, 'limit: "x" is not a whole number or a finite number or null'),
        ({"inner": {"rate": True}}, "inner.rate: true is not a finite number"),
        ({"inner": 1}, "inner: 1 is not an object"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Example, given)
    assert caught.value.slug == "bad-setting"
    assert message in caught.value.what


def test_right_types_come_through_as_they_are() -> None:
    given = {"names": {"a": "b"}, "sizes": [1], "loose": [1, 2.5], "deep": {"a": {"b": 1}}, "way": 1, "limit": 2}
    made = parse(Example, given)
    assert (made.names, made.sizes, made.loose, made.deep) == ({"a": "b"}, (1,), [1.0, 2.5], {"a": {"b": 1}})
    assert (made.way, made.limit, made.inner) == (1, 2, Inner())


def test_an_unknown_key_lists_the_settings_with_their_defaults() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Example, {"size": 1})
    assert caught.value.slug == "unknown-key"
    assert caught.value.what == "unknown key size (did you mean sizes?)"
    assert caught.value.expected.startswith("sizes ([])"), "the nearest first"
    assert all(text in caught.value.expected for text in ("names ([])", "deep ({})", 'way ("a")', "limit (null)"))


def test_an_unknown_key_inside_an_object_lists_what_stands_there() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Example, {"inner": {"rat": 1.0}}, next="look there")
    assert caught.value.what == "unknown key inner.rat (did you mean inner.rate?)"
    assert caught.value.expected == "settings of inner: rate (0.5)" and caught.value.next == "look there"
    with pytest.raises(ConfigError) as caught:
        assigned(Example, ["inner.rat=1"], where="--set")
    assert caught.value.expected == "settings of inner: rate (0.5)"


def test_a_long_list_of_settings_is_shortened_to_the_nearest() -> None:
    many = dataclasses.make_dataclass("Many", [(f"setting_{number}", int, 0) for number in range(30)], frozen=True)
    with pytest.raises(ConfigError) as caught:
        parse(many, {"setting_29s": 1})
    assert caught.value.expected.startswith("setting_29 (0)") and caught.value.expected.endswith(" and 22 more")
    assert caught.value.expected.count("(0)") == 8
    assert len(list(every_setting(many))) == 30


@dataclass(frozen=True)
class Optional:
    inner: Inner | None = None


def test_a_key_is_not_set_inside_what_is_set_to_nothing() -> None:
    with pytest.raises(ConfigError, match="inner is given as None and by its keys"):
        assigned(Optional, ["inner=null", "inner.rate=1"], where="--set")


@dataclass(frozen=True)
class Renamed:
    older_names: ClassVar[Mapping[str, str]] = {"pace": "rate"}

    rate: float = 0.5
    inner: Inner = Inner()


def test_a_setting_is_read_under_its_older_name() -> None:
    assert parse(Renamed, {"pace": 2}) == parse(Renamed, {"rate": 2}) == Renamed(rate=2.0)
    with pytest.raises(ConfigError, match="pace is the older name of rate, which is given too"):
        parse(Renamed, {"pace": 2, "rate": 2})
    with pytest.raises(ConfigError, match="rate: true is not a finite number"):
        parse(Renamed, {"pace": True})
    with pytest.raises(ConfigError, match=r"unknown key inner\.pace"):
        parse(Renamed, {"inner": {"pace": 1}})


def test_half_a_pair_of_surrogates_is_no_text_of_a_setting() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Settings:
        name: str
        more: Mapping[str, Any] = field(default_factory=dict)

    for given in ({"name": "\ud800"}, {"name": "a", "more": {"pattern": "b\udbff"}}):
        with pytest.raises(ConfigError, match="half a pair of surrogates"):
            parse(Settings, given)
    assert parse(Settings, {"name": "caf\udce9"}).name == "caf\udce9"  # a byte of a file's name
