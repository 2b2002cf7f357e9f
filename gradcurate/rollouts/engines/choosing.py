"""Which engine samples a run."""

import importlib.util
import shutil
from collections.abc import Callable

from gradcurate.config import Settings
from gradcurate.errors import SettingsError
from gradcurate.inputs import Inputs, digest
from gradcurate.policies.policy import Policy
from gradcurate.rollouts.engines.engine import Engine
from gradcurate.rollouts.engines.journal import Journal
from gradcurate.rollouts.engines.server_engine import ServerEngine
from gradcurate.rollouts.engines.transformers_engine import TransformersEngine
from gradcurate.rollouts.engines.vllm_engine import VllmEngine
from gradcurate.servers import base_url, import_openai
from gradcurate.store.run_directory import RunDirectory


def require_engine(settings: Settings) -> None:
    """Refuse an engine that cannot be started with these settings, before anything is written.

    Raises:
        SettingsError: What it needs is missing or malformed.
    """
    if settings.engine == "openai":
        if settings.server is None:
            raise SettingsError(
                "--engine openai needs the address of a --server", "none was given", "Add --server URL."
            )
        import_openai()
        base_url(settings.server)
    elif settings.server is not None:
        raise SettingsError(
            "--server is asked for rollouts with --engine openai only",
            f"the engine is {settings.engine}",
            "Add --engine openai, or leave --server out.",
        )
    if settings.engine == "vllm":
        _require_vllm(settings)
    elif settings.vllm_python or settings.vllm_options:
        raise SettingsError(
            "--vllm-python and --vllm-options are for --engine vllm only",
            f"the engine is {settings.engine}",
            "Add --engine vllm, or leave them out.",
        )


def _require_vllm(settings: Settings) -> None:
    if "seed" in settings.vllm_keywords:
        raise SettingsError(
            "The seed of vLLM is gradcurate's own: one that goes on must not repeat numbers",
            "--vllm-options has a seed",
            "Use --seed.",
        )
    python, found = settings.vllm_python, importlib.util.find_spec("vllm")
    if python is None:  # a mere folder of that name has no origin
        missing = (found is None or found.origin is None) and "this Python has no package vllm"
    else:
        missing = not shutil.which(python) and f"{python} is no program"
    if missing:
        raise SettingsError(
            "--engine vllm needs a Python that has vLLM",
            missing,
            "Run `pip install 'gradcurate[vllm]'`, or point --vllm-python to that of another environment.",
        )


def engine_for(settings: Settings, inputs: Inputs, run: RunDirectory, policy: Callable[[], Policy]) -> Engine:
    """Return the engine of a run; nothing of it is started yet."""
    if settings.engine == "transformers":
        return TransformersEngine(policy, settings)
    of_rollouts = inputs.fingerprints["rollouts"]
    of_completions = {key: value for key, value in of_rollouts.items() if not key.startswith("reward")}
    journal = Journal(run.rollouts, digest(of_completions))
    if settings.engine == "openai":
        return ServerEngine(settings, inputs.tokenizer, inputs.stop_token_ids, journal)
    longest = max(len(problem.prompt_token_ids) for problem in inputs.prompted)
    return VllmEngine(settings, inputs.checkpoint, inputs.stop_token_ids, longest, journal, run.vllm_log)
