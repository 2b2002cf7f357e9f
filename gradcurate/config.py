"""Settings: frozen, serialisable, and the same names everywhere.

A field is at once a keyword of the Python API, a key of the TOML file, and (with dashes) a flag of
the command line; its help text lives here. Its stage says which rows depend on it: a run directory
refuses to be resumed when a setting of a finished stage has changed. Settings of no stage
(``stage=None``) say where to look or how fast to go, and never change a row.

This module is imported by ``gradcurate --help``: it needs nothing but the standard library until
`load_settings` validates.
"""

import dataclasses
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import BaseMetadata, Ge, Gt, Le, MultipleOf

from gradcurate.errors import SettingsError
from gradcurate.presets import PRESETS
from gradcurate.suggestion import choose_from

Stage = Literal["problems", "rollouts", "sketches", "scores"]
_INT64_MAX = 2**63 - 1  # what the columns that store seeds can hold


def _setting(help: str, *, stage: Stage | None, default: Any = dataclasses.MISSING) -> Any:  # noqa: A002
    return dataclasses.field(default=default, metadata={"help": help, "stage": stage})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a run depends on."""

    __pydantic_config__: ClassVar[dict[str, bool]] = {"allow_inf_nan": False}

    pool: str = _setting("Problems to rank: JSONL, Parquet, CSV, or a Hugging Face dataset id.", stage=None)
    validation: str = _setting(
        "Trusted problems whose gradient is the aim; any format of --pool.", stage=None
    )
    model: str = _setting(
        "The policy: a Hugging Face id, a checkpoint or PEFT adapter folder, a .gguf file, or smollm2-135m.",
        stage=None,
    )
    gradient_model: str | None = _setting(
        "Take gradients from this model instead: a cheaper one with the policy's tokenizer.",
        stage=None,
        default=None,
    )
    run: str = _setting("The run directory: made if absent, resumed if it exists.", stage=None)

    preset: (
        Literal["verl", "trl", "openrlhf", "slime", "skyrl", "open-instruct", "prime-rl", "unsloth"] | None
    ) = _setting(
        "verl, trl, openrlhf, slime, skyrl, open-instruct, prime-rl or unsloth: its advantage, token weight, "
        "temperature and chat template, where you give no other.",
        stage=None,
        default=None,
    )

    id_column: str | None = _setting("Column that identifies a problem.", stage="problems", default=None)
    prompt_column: str | None = _setting("Column of the prompt.", stage="problems", default=None)
    answer_column: str | None = _setting(
        "Column of the answer; may be dotted, as in reward_model.ground_truth.",
        stage="problems",
        default=None,
    )
    source_column: str | None = _setting("Column naming a problem's source.", stage="problems", default=None)
    system_prompt: str | None = _setting(
        "System message for problems that have none.", stage="problems", default=None
    )
    on_bad_row: Literal["stop", "skip"] = _setting(
        "What an unusable row does: stop, or be set aside in bad_rows.jsonl.",
        stage="problems",
        default="stop",
    )

    rollouts: Annotated[int, Ge(2)] = _setting("Rollouts per problem (G).", stage="rollouts", default=8)
    max_tokens: Annotated[int, Ge(1)] = _setting("Longest response.", stage="rollouts", default=512)
    temperature: Annotated[float, Gt(0)] = _setting(
        "Sampling temperature; gradients are taken at the same one.", stage="rollouts", default=1.0
    )
    top_p: Annotated[float, Gt(0), Le(1)] = _setting("Nucleus sampling.", stage="rollouts", default=1.0)
    seed: Annotated[int, Ge(0), Le(_INT64_MAX)] = _setting(
        "Seed of the sampled tokens.", stage="rollouts", default=0
    )
    prompt_format: Literal["auto", "chat", "text"] = _setting(
        "Render prompts with the chat template, as plain text, or as the file and tokenizer allow.",
        stage="rollouts",
        default="auto",
    )
    batch_sequences: Annotated[int, Ge(1)] = _setting(
        "Rollouts sampled at once.", stage="rollouts", default=128
    )
    engine: Literal["transformers", "vllm", "openai"] = _setting(
        "What samples: transformers, vllm (in a process of its own) or openai (any compatible --server).",
        stage="rollouts",
        default="transformers",
    )
    server: str | None = _setting(
        "Address of --engine openai, as in http://localhost:8000/v1; OPENAI_API_KEY is its key.",
        stage=None,
        default=None,
    )
    server_model: str | None = _setting(
        "The policy's name on the --server, where that serves several.", stage=None, default=None
    )
    server_concurrency: Annotated[int, Ge(1)] = _setting(
        "Rollouts asked of the --server at once.", stage=None, default=64
    )
    server_timeout_seconds: Annotated[float, Gt(0)] = _setting(
        "Time limit of one request to the --server.", stage=None, default=600.0
    )
    server_retries: Annotated[int, Ge(0)] = _setting(
        "How often a request is repeated while the --server is down or busy, up to 8 s apart.",
        stage=None,
        default=20,
    )
    vllm_python: str | None = _setting(
        "The Python of another environment, for --engine vllm.", stage=None, default=None
    )
    vllm_options: str | None = _setting(
        "Keywords of vllm.LLM as JSON, as in '{\"tensor_parallel_size\": 2}'.", stage=None, default=None
    )
    adapter: Literal["own", "merged"] = _setting(
        "Gradients of a PEFT adapter: of its own matrices, or of the weights that it is merged into.",
        stage="rollouts",
        default="own",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _setting(
        "Arithmetic of the policy; auto: bfloat16 on a GPU that has it.", stage="rollouts", default="auto"
    )
    dump: str | None = _setting(
        "Sample nothing: take rollouts and rewards that a trainer wrote (a file, a folder, a pattern).",
        stage="rollouts",
        default=None,
    )
    allow_unmatched: bool = _setting(
        "Take a --dump of which less than 90 % answers these problems.", stage=None, default=False
    )
    reward: str = _setting(
        "math, exact, numeric, choice, code, reasoning_gym, path/to/file.py:function, or a judge's .toml; "
        "several, comma-separated, add up.",
        stage="rollouts",
        default="math",
    )
    reward_weights: str | None = _setting(
        "Weight of each of several rewards, comma-separated.", stage="rollouts", default=None
    )
    reward_style: Literal["verl", "trl", "openrlhf", "slime", "areal", "verifiers"] | None = _setting(
        "verl, trl, openrlhf, slime, areal or verifiers: whose signature your function has; else recognised.",
        stage="rollouts",
        default=None,
    )
    reward_memory_mebibytes: Annotated[int, Ge(256)] = _setting(
        "Memory that a reward process may allocate.", stage=None, default=8192
    )
    reward_timeout_seconds: Annotated[float, Gt(0)] = _setting(
        "Time limit of one reward call.", stage=None, default=10.0
    )
    reward_workers: Annotated[int, Ge(1)] = _setting(
        "Processes that compute rewards.", stage=None, default=min(4, os.cpu_count() or 1)
    )

    sketch_dim: Annotated[int, Ge(64), MultipleOf(2)] = _setting(
        "Numbers stored per rollout (K).", stage="sketches", default=4096
    )
    sketch_seed: Annotated[int, Ge(0), Le(_INT64_MAX)] = _setting(
        "Seed of the projection.", stage="sketches", default=0
    )
    kernel: Literal["fft", "outer"] = _setting(
        "How sketches are computed; both give the same.", stage="sketches", default="fft"
    )
    scorer: Literal["sketch", "forward"] = _setting(
        "What measures the pool: sketch, or forward, two forward passes that leave no norms and no sketches.",
        stage="sketches",
        default="sketch",
    )
    granularity: Literal["rollout", "problem"] = _setting(
        "A sketch for each rollout, or one weighted sum for each problem, whose prompt then passes once.",
        stage="sketches",
        default="rollout",
    )
    modules: str | None = _setting(
        "Only these modules: shell patterns of names, comma-separated, as in 'q_proj,mlp.*' or lm_head.",
        stage="sketches",
        default=None,
    )
    precondition: Literal["none", "adam"] = _setting(
        "Inner product of gradients: plain, or scaled by the moments in the checkpoint's optimizer.pt.",
        stage="sketches",
        default="none",
    )
    batch_tokens: Annotated[int, Ge(1)] = _setting(
        "Padded tokens in one gradient pass; halved where memory runs out.", stage="sketches", default=1024
    )
    advantage: Literal["grpo", "dr_grpo", "rloo", "opo", "grpo_passk", "maxrl", "nemo_rl"] = _setting(
        "Advantage, named after what the trainer computes: grpo, dr_grpo, rloo, opo, grpo_passk, maxrl or "
        "nemo_rl.",
        stage="sketches",
        default="grpo",
    )
    token_weight: Literal["response-mean", "token-sum"] = _setting(
        "What one token of a response counts: response-mean (1 / length) or token-sum (1).",
        stage="sketches",
        default="response-mean",
    )
    validation_signal: Literal["policy", "gold", "both"] = _setting(
        "What a validation problem's gradient is of: the policy's rollouts, its reference answer (gold), or "
        "the latter where the former have no signal (both).",
        stage="sketches",
        default="policy",
    )
    gold_column: str | None = _setting(
        "Column of the reference answer as the policy should write it; the answer if not given.",
        stage="sketches",
        default=None,
    )
    importance_cap: Annotated[float, Ge(0)] = _setting(
        "Tokens of a --dump count by how much likelier the policy finds them than what sampled them did, at "
        "most this; 0: not so.",
        stage="sketches",
        default=2.0,
    )
    score: str = _setting(
        "What to rank by: cosine (GradAlign), dot, t, lcb, cosine-corrected, gold, learnalign, norm, "
        "learnability, accgreedy, arcus, random, or an expression of these, as in 'rank(t) + learnability'.",
        stage="scores",
        default="cosine",
    )
    validation_aggregation: Literal["sum", "unit-mean"] = _setting(
        "How validation problems make a direction: their gradients' sum, or the mean of unit gradients.",
        stage="scores",
        default="sum",
    )
    validation_merge: Literal["sum", "mean", "max", "rank-sum", "round-robin"] = _setting(
        "One direction (sum), or one for each source of the validation set, whose scores are then merged.",
        stage="scores",
        default="sum",
    )
    validation_weights: str | None = _setting(
        "Weights of merged sources, as in amc=2,aime=1; 1 where none is given.", stage="scores", default=None
    )
    gradient_checkpointing: bool = _setting(
        "Run each block's forward pass again in the backward pass: less memory, more time.",
        stage=None,
        default=False,
    )
    mismatch_limit: Annotated[float, Ge(0)] = _setting(
        "Largest KL divergence, in nats a token, of recomputed log-probabilities from the sampler's.",
        stage=None,
        default=0.1,
    )
    device: str = _setting("auto, cpu, cuda, cuda:1, ...", stage=None, default="auto")

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Return ``reward`` as a list."""
        return _parts(self.reward)

    @property
    def reward_weight_numbers(self) -> tuple[float, ...]:
        """Return ``reward_weights`` as numbers.

        Raises:
            SettingsError: They are not one number for each reward.
        """
        names, given = self.reward_names, _parts(self.reward_weights)
        try:
            numbers = tuple(float(part) for part in given)
        except ValueError:
            numbers = ()
        if given and not (len(numbers) == len(names) and all(map(math.isfinite, numbers))):
            raise SettingsError(
                f"--reward-weights must be {len(names)} comma-separated numbers, one for each --reward",
                f"{self.reward_weights!r} was given",
                "Write them as in 1,0.5.",
            )
        return numbers

    @property
    def source_weights(self) -> dict[str, float]:
        """Return ``validation_weights`` by source.

        Raises:
            SettingsError: They are not as in ``amc=2,aime=1``, or not positive.
        """
        weights = {}
        for part in _parts(self.validation_weights):
            name, _, number = part.rpartition("=")
            try:
                weights[name] = float(number)
            except ValueError:
                weights[name] = math.nan
            if not (name and 0 < weights[name] < math.inf):
                raise SettingsError(
                    "--validation-weights must give sources positive numbers",
                    f"{part!r} was given",
                    "Write them as in amc=2,aime=1.",
                )
        return weights

    @property
    def token_importance_cap(self) -> float | None:
        """Return the largest importance weight of a token; None where tokens are not weighed so."""
        return self.importance_cap if self.dump and self.importance_cap else None

    @property
    def vllm_keywords(self) -> dict[str, Any]:
        """Return ``vllm_options`` as keywords.

        Raises:
            SettingsError: They are no JSON object.
        """
        try:
            keywords = json.loads(self.vllm_options or "{}")
        except ValueError:
            keywords = None
        if not isinstance(keywords, dict):
            raise SettingsError(
                "--vllm-options must be a JSON object",
                f"{self.vllm_options!r} was given",
                "Write it as in '{\"tensor_parallel_size\": 2}'.",
            )
        return keywords

    @property
    def module_patterns(self) -> tuple[str, ...]:
        """Return ``modules`` as a list."""
        return _parts(self.modules)

    def of_stage(self, stage: Stage) -> dict[str, Any]:
        """Return the settings that a stage's rows depend on."""
        return {f.name: getattr(self, f.name) for f in setting_fields() if f.metadata["stage"] == stage}

    @property
    def of_scoring(self) -> dict[str, Any]:
        """Return the settings that scores depend on, and stored rows of rollouts do not."""
        return {name: getattr(self, name) for name in score_setting_names()}


def _parts(listed: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (listed or "").split(",") if part.strip())


def setting_fields() -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of `Settings`, in the order of the help page."""
    return dataclasses.fields(Settings)


def reward_setting_names() -> tuple[str, ...]:
    """Return the settings that rewards are given by."""
    return tuple(field.name for field in setting_fields() if field.name.startswith("reward"))


def score_setting_names() -> tuple[str, ...]:
    """Return the settings that scores depend on, and stored rows of rollouts do not."""
    of_stage = (field.name for field in setting_fields() if field.metadata["stage"] == "scores")
    return ("advantage", "token_weight", "validation_signal", *of_stage)


def flag(name: str) -> str:
    """Return the command-line spelling of a setting."""
    return f"--{name.replace('_', '-')}"


def load_settings(given: Mapping[str, Any], config: str | Path | None = None) -> Settings:
    """Merge a preset, a TOML file, and what was given directly, the later winning, and validate.

    Relative ``pool``, ``validation``, ``model`` and ``run`` paths are relative to the working
    directory, wherever the file lies.

    Raises:
        SettingsError: A key is unknown, missing, or out of range.
    """
    from pydantic import TypeAdapter, ValidationError  # 0.2 s that --help need not pay

    both = {**(_read_toml(Path(config)) if config else {}), **given}
    merged = {name: str(value) if isinstance(value, Path) else value for name, value in both.items()}
    _require_known(merged)
    _require_complete(merged)
    merged = {**PRESETS.get(str(merged.get("preset")), {}), **merged}
    try:
        return TypeAdapter(Settings).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingsError(
            f"{flag(name)} must be {_expectation(name)}",
            f"{first['input']!r} was given",
            f"Change {flag(name)}, or {name} in the TOML file.",
        ) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            "--config must name a readable TOML file", f"{path}: {error.strerror}", "Check the path."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            "--config must name a valid TOML file", f"{path}: {error}", "Correct that file."
        ) from error


def _require_known(given: Mapping[str, Any]) -> None:
    known = [f.name for f in setting_fields()]
    for name in given:
        if name not in known:
            raise SettingsError("Settings must be known ones", f"{name!r} is not", choose_from(name, known))


def _require_complete(given: Mapping[str, Any]) -> None:
    missing = [f.name for f in setting_fields() if f.default is dataclasses.MISSING and f.name not in given]
    if missing:
        raise SettingsError(
            f"{', '.join(flag(name) for name in missing)} must be given",
            "neither the command nor a TOML file gives a value",
            f"Add {flag(missing[0])} VALUE.",
        )


_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_BOUNDS: Mapping[type[BaseMetadata], str] = {
    Ge: "at least",
    Gt: "above",
    Le: "at most",
    MultipleOf: "a multiple of",
}


def _expectation(name: str) -> str:
    """Return in words what a field accepts: its choices, or its type and bounds."""
    declared = base_type(name)
    if typing.get_origin(declared) is Literal:
        return "one of " + ", ".join(typing.get_args(declared))
    bounds = getattr(typing.get_type_hints(Settings, include_extras=True)[name], "__metadata__", ())
    words = " and ".join(f"{_BOUNDS[type(bound)]} {dataclasses.astuple(bound)[0]}" for bound in bounds)
    return f"{_KINDS[declared]}, {words}" if words else _KINDS[declared]


def base_type(name: str) -> Any:
    """Return a field's type without its bounds, and without None where it is optional."""
    declared = typing.get_type_hints(Settings)[name]
    if typing.get_origin(declared) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(declared) if part is not type(None))
    return declared
