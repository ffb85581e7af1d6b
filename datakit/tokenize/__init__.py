"""Text becomes tokens: adopt or train a vocabulary, encode pieces, mask what is not learnt, pack rows."""

from __future__ import annotations

from datakit.tokenize.adopt import Adopt as Adopt
from datakit.tokenize.drawn import Drawn as Drawn
from datakit.tokenize.encode import Encode as Encode
from datakit.tokenize.mask import Mask as Mask
from datakit.tokenize.pack import Pack as Pack
from datakit.tokenize.pack_pairs import PackPairs as PackPairs
from datakit.tokenize.prompt_template import PromptTemplate as PromptTemplate
from datakit.tokenize.sequences import Sequences as Sequences
from datakit.tokenize.starts import Starts as Starts
from datakit.tokenize.train import Train as Train
