"""What trainers do by default (``--preset``): advantage, token weight, temperature, chat template.

A preset gives defaults; a flag or a key of the TOML file wins over it. Sources, as of 2026-08: verl
``ppo_trainer.yaml`` with GRPO; TRL ``GRPOConfig``; OpenRLHF ``group_norm``; slime's GRPO; SkyRL;
open-instruct's ``grpo_fast.py``; prime-rl; unsloth's TRL. Trainers differ in the epsilon beside the
standard deviation, from 1e-9 to 1e-4, which changes no ranking; a mean over the tokens of a batch is
a sum up to a constant, which no cosine sees. Those that take messages alone render them with the template;
the others do so as the data or a flag of theirs asks, and an export's recipe names that flag.
"""

from collections.abc import Mapping
from typing import Any

_TOKEN_MEAN: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "advantage": "grpo",
    "token_weight": "token-sum",
}
_CHAT: Mapping[str, Any] = {"prompt_format": "chat"}
_CENTRED: Mapping[str, Any] = {**_TOKEN_MEAN, **_CHAT, "advantage": "dr_grpo"}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "verl": {**_TOKEN_MEAN, **_CHAT},
    "trl": _TOKEN_MEAN,
    "openrlhf": _TOKEN_MEAN,
    "slime": {**_TOKEN_MEAN, "token_weight": "response-mean"},
    "skyrl": {**_TOKEN_MEAN, **_CHAT},
    "open-instruct": _CENTRED,
    "prime-rl": _CENTRED,
    "unsloth": _TOKEN_MEAN,
}
