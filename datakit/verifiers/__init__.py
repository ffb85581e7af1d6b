"""Ways to tell by rule whether a response is right, one a file. Re-exports are the registry."""

from __future__ import annotations

from datakit.verifiers.choice import Choice as Choice
from datakit.verifiers.code import Code as Code
from datakit.verifiers.instructions import Instructions as Instructions
from datakit.verifiers.json_schema import JsonSchema as JsonSchema
from datakit.verifiers.number import Number as Number
from datakit.verifiers.refusal import Refusal as Refusal
from datakit.verifiers.regex import Regex as Regex
from datakit.verifiers.text import Text as Text
