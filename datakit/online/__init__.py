"""Operations over the rows of a step that ask the networks of the online run itself; no command runs them alone.
Re-exports are the registry.
"""

from __future__ import annotations

from datakit.online.agreement import StepAgreement as StepAgreement
from datakit.online.lag import StepLag as StepLag
from datakit.online.logprobs import StepLogprobs as StepLogprobs
from datakit.online.version import StepVersion as StepVersion
