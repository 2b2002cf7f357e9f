"""Verification of a run: its stored scores against exact gradients of the same rollouts.

Also the judge of a gradient model: the exact cosines under it against those under the policy.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from torch import Tensor

from gradcurate.config import Settings
from gradcurate.errors import NoSignalError, RunDirectoryError
from gradcurate.inputs import find_proxy
from gradcurate.policies.checkpoints import Checkpoint, find_checkpoint
from gradcurate.policies.policy import Policy, load_policy, load_tokenizer
from gradcurate.problems import Split
from gradcurate.progress import Progress, Task
from gradcurate.report.verification import Proxy, Verification, compare, evenly_spaced
from gradcurate.results import read_groups, read_rollouts, read_scores, split_weights, unsketched
from gradcurate.scoring import score_settings
from gradcurate.sketches.direction import Direction, dot, load_direction, norm
from gradcurate.sketches.discovery import find_gradient_space
from gradcurate.sketches.live_rollouts import TOKEN_COLUMNS, LiveRollout, live_rollouts
from gradcurate.sketches.modules import GradientSpace
from gradcurate.sketches.optimizer_state import read_second_moments
from gradcurate.sketches.oracle import cosine, exact_gradient, token_logprobs
from gradcurate.sketches.preconditioner import exact_scales, stack_moments
from gradcurate.sketches.score_function import importance_weights
from gradcurate.store.manifest import Manifest, read_manifest
from gradcurate.store.run_directory import RunDirectory, require_stage
from gradcurate.store.tables import read_fingerprint, shard_paths

FEWEST_TO_COMPARE = 2
PLAIN = {
    "--validation-signal": "policy",
    "--validation-merge": "sum",
    "--validation-aggregation": "sum",
}


@dataclass(frozen=True)
class _Rollouts:
    """The rollouts to differentiate, and with which weights."""

    settings: Settings
    tokens: pa.Table
    weights: Mapping[Split, Mapping[str, Mapping[int, float]]]
    chosen: Sequence[str]


@dataclass
class _Exact:
    """What exact gradients of one model say.

    Attributes:
        space: Its gradient space.
        direction: The validation gradient.
        alignments: Of the chosen problems: cosines, or with ``--scorer forward`` dots.
        seconds: What it took.
    """

    space: GradientSpace
    direction: Direction
    alignments: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def verify(
    run: RunDirectory, problems: int, device: str, gradient_model: str | None, progress: Progress
) -> Verification:
    """Compare a run's stored scores with exact gradients of the same rollouts."""
    manifest, settings = read_manifest(run.manifest), score_settings(run)
    for stage in (run.rollouts, run.direction):
        require_stage(stage, "gradcurate score")
    _require_own_direction(run, settings)
    compared = "dot" if settings.scorer == "forward" else "cosine"
    ranked = {row["problem_id"]: row for row in read_scores(run).to_pylist() if row[compared] is not None}
    _require_ranking(ranked)
    rollouts = _read_rollouts(run, settings, evenly_spaced(list(ranked), problems))
    sampler = _same_policy(manifest)
    tokenizer = load_tokenizer(sampler)
    own, proxy = (
        find_proxy(name, sampler, tokenizer)
        for name in (settings.gradient_model, gradient_model or settings.gradient_model)
    )
    needed = dict.fromkeys([own, *([sampler, proxy] if proxy != sampler else [])])
    passes = len(needed) * (len(rollouts.chosen) + 1)
    with progress.task("exact gradients", total=passes, done=0, unit="problems") as task:
        found = {
            checkpoint: _differentiate(checkpoint, tokenizer, rollouts, device, task) for checkpoint in needed
        }
    truth = found[own]
    at = next(iter(truth.direction.values())).device
    stored = load_direction(run.direction, truth.space, at)
    moved = any(row["numerator"] == "sketched" for row in ranked.values())
    error = norm({name: stored[name] - truth.direction[name] for name in stored})
    return Verification(
        problems=len(rollouts.chosen),
        sketch_dim=settings.sketch_dim,
        ideal_rmse=settings.sketch_dim**-0.5,
        score=compare(truth.alignments, {p: ranked[p][compared] for p in rollouts.chosen}),
        sketched_cosine=None
        if settings.scorer == "forward"
        else compare(truth.alignments, {p: ranked[p]["sketched_cosine"] for p in rollouts.chosen}),
        # Of later rewards, none was stored.
        direction_error=None if moved else error / norm(truth.direction),
        proxy=_judge(proxy, found[sampler], found[proxy]) if proxy != sampler else None,
    )


def _require_own_direction(run: RunDirectory, settings: Settings) -> None:
    made_with = read_fingerprint(run.scores)
    others = {
        "--validation-run": made_with.get("validation_runs"),
        "--exclude-rollouts": made_with.get("excluded_rollouts"),
        "--validation-signal": settings.validation_signal,
        "--validation-merge": settings.validation_merge,
        "--validation-aggregation": settings.validation_aggregation,
    }
    for flag, value in others.items():
        if value and value != PLAIN.get(flag):
            again = f"with {flag} {PLAIN[flag]}" if flag in PLAIN else "without it"
            raise RunDirectoryError(
                "A run is verified along the sum of its own validation gradients",
                f"its scores were made with {flag} {value}",
                f"Run `gradcurate rescore` {again} first.",
            )


def _judge(proxy: Checkpoint, policy: _Exact, other: _Exact) -> Proxy:
    return Proxy(proxy.name, compare(policy.alignments, other.alignments), other.seconds / policy.seconds)


def _read_rollouts(run: RunDirectory, settings: Settings, chosen: Sequence[str]) -> _Rollouts:
    groups = read_groups(run)
    splits: tuple[Split, ...] = ("validation", "pool")
    weights = {split: split_weights(groups, split, settings) for split in splits}
    if shard_paths(run.rewards):  # what the run's own direction is without
        for problem_id in unsketched(run, "validation", weights["validation"]):
            del weights["validation"][problem_id]
    return _Rollouts(settings, read_rollouts(run, TOKEN_COLUMNS), weights, chosen)


def _differentiate(
    checkpoint: Checkpoint, tokenizer: object, rollouts: _Rollouts, device: str, task: Task
) -> _Exact:
    settings = rollouts.settings
    policy = load_policy(checkpoint, tokenizer, settings.dtype, device, settings.adapter)
    space = find_gradient_space(policy.model, settings.module_patterns)
    scales = _scales(settings, checkpoint, policy, space)
    started = time.perf_counter()

    def gradient(split: Split, ids: Collection[str]) -> Direction:
        weights = {p: w for p, w in rollouts.weights[split].items() if p in ids}
        live = live_rollouts(rollouts.tokens, split, weights)
        weighted = [(r.prompt, r.completion, _weight(policy, settings, r)) for r in live]
        exact = exact_gradient(policy.model, space, weighted, settings.temperature)
        task.advance(1, tokens=sum(r.tokens for r in live))
        return exact

    direction = gradient("validation", rollouts.weights["validation"])
    aim = _scaled(direction, scales)
    align = dot if settings.scorer == "forward" else cosine
    alignments = {p: align(_scaled(gradient("pool", {p}), scales), aim) for p in rollouts.chosen}
    return _Exact(space, direction, alignments, time.perf_counter() - started)


def _weight(policy: Policy, settings: Settings, rollout: LiveRollout) -> float | Tensor:
    """Return a rollout's weight, or where importance plays a part, those of its tokens."""
    if settings.token_importance_cap is None or rollout.sampling_logprobs is None:
        return rollout.weight
    with torch.no_grad():
        now = token_logprobs(policy.model, rollout.prompt, rollout.completion, settings.temperature)
    sampled = torch.tensor(rollout.sampling_logprobs, device=now.device)
    return rollout.weight * importance_weights(now, sampled, settings.token_importance_cap)


def _scales(
    settings: Settings, checkpoint: Checkpoint, policy: Policy, space: GradientSpace
) -> Direction | None:
    """Return what gradients are scaled by, entry by entry, for the run's inner product."""
    if settings.precondition == "none":
        return None
    moments, device = read_second_moments(checkpoint.own_folder, policy.model), policy.model.device
    return {fused.name: exact_scales(stack_moments(moments, fused)).to(device) for fused in space.modules}


def _scaled(gradient: Direction, scales: Direction | None) -> Direction:
    return gradient if scales is None else {name: gradient[name] * scales[name] for name in gradient}


def _require_ranking(ranked: Collection[str]) -> None:
    if len(ranked) < FEWEST_TO_COMPARE:
        raise NoSignalError(
            f"At least {FEWEST_TO_COMPARE} problems must have a score to compare rankings",
            f"{len(ranked)} of the pool has one" if ranked else "none of the pool has one",
            "Score a larger pool, or use more --rollouts or a higher --temperature.",
        )


def _same_policy(manifest: Manifest) -> Checkpoint:
    checkpoint = find_checkpoint(manifest.settings.model)
    if checkpoint.fingerprint() != manifest.policy:
        raise RunDirectoryError(
            "A run is verified with the checkpoint it was made with",
            f"the files of {manifest.settings.model} have changed since",
            "Restore that checkpoint, or score the new one into another --run.",
        )
    return checkpoint
