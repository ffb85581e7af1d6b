"""Blends: datasets mixed, shuffled, split and paired."""

from __future__ import annotations

from datakit.blend.choices import Choices as Choices
from datakit.blend.judged import Judged as Judged
from datakit.blend.match import Match as Match
from datakit.blend.mismatch import Mismatch as Mismatch
from datakit.blend.mix import Mix as Mix
from datakit.blend.pair import Pair as Pair
from datakit.blend.pair_answer import PairAnswer as PairAnswer
from datakit.blend.shuffle import Shuffle as Shuffle
from datakit.blend.split import Split as Split
from datakit.blend.unpair import Unpair as Unpair
