"""What a model looks like from here: five protocols, and those that a Python function can be.

`Generator` answers prompts, `Scorer` puts numbers on rows, `TokenModel` says what it thinks of given tokens, `Judge`
answers conversations in text; `http` has them of a server. Whoever calls `datakit.apply` hands the real thing in as a
`Resource`; operations see only the protocol.
"""

from __future__ import annotations

from datakit.clients.protocols import ANSWERS as ANSWERS
from datakit.clients.protocols import REPLIES as REPLIES
from datakit.clients.protocols import TOKENIZED_PROMPTS as TOKENIZED_PROMPTS
from datakit.clients.protocols import Compared as Compared
from datakit.clients.protocols import Determinism as Determinism
from datakit.clients.protocols import Environment as Environment
from datakit.clients.protocols import Generator as Generator
from datakit.clients.protocols import Journaled as Journaled
from datakit.clients.protocols import Judge as Judge
from datakit.clients.protocols import Scorer as Scorer
from datakit.clients.protocols import TokenModel as TokenModel
from datakit.clients.protocols import Turn as Turn
from datakit.clients.python import PythonEnvironment as PythonEnvironment
from datakit.clients.python import PythonJudge as PythonJudge
from datakit.clients.python import PythonScorer as PythonScorer
from datakit.clients.sampling import Sampling as Sampling
