"""A model that answers over HTTP, as every server of the field speaks it: completions, chat, token ids, rewards.

    address     where it answers and what it is called there; its key, by name
    server      one URL: a request out, a bounded reply in, within three time-outs
    pace        how many requests a server takes at a time, learnt from those that it turns away
    asking      many requests at once, from any thread: retries of what is safe, answers that are kept
    exchange    a request and what is read of its reply, whichever endpoint it is for

Needs no torch and no graph; `httpx2` (extra `http`) is imported when a client is opened.
"""

from __future__ import annotations

from datakit.clients.http.address import Address as Address
from datakit.clients.http.asking import Asking as Asking
from datakit.clients.http.generator import HttpGenerator as HttpGenerator
from datakit.clients.http.judge import HttpJudge as HttpJudge
from datakit.clients.http.limits import Limits as Limits
from datakit.clients.http.scorer import HttpScorer as HttpScorer
from datakit.clients.http.token_model import HttpTokenModel as HttpTokenModel
