"""Sampling with the checkpoint: what a rollout depends on, and what its log-probabilities are."""

import numpy as np
import pytest
import torch

from gradcurate.policies.policy import Policy
from gradcurate.rollouts.engines.randomness import rollout_uniforms
from gradcurate.rollouts.engines.transformers_engine import sample_completions
from sketches.architectures import tiny_model
from tiny_models import tiny_llama, tiny_tokenizer

GROUP, MAX_TOKENS = 4, 12
STOPS = frozenset(range(0, 101, 6))  # so many that about every second rollout ends by itself
PROMPTS = {
    f"p{number}": tuple(np.random.default_rng(number).integers(0, 101, length).tolist())
    for number, length in enumerate([3, 9, 1, 6, 25])
}


@pytest.fixture(scope="module")
def policy():
    return Policy(tiny_llama(), tiny_tokenizer(), STOPS)


def roll_out(policy, ids, seed=0, **sampling):
    """Completions by problem, sampled in one batch of these problems."""
    uniforms = np.stack(
        [
            np.stack([rollout_uniforms(seed, problem_id, g, MAX_TOKENS) for g in range(GROUP)])
            for problem_id in ids
        ]
    )
    completions = sample_completions(
        policy, [PROMPTS[problem_id] for problem_id in ids], uniforms, **sampling
    )
    return {problem_id: completions[i * GROUP : (i + 1) * GROUP] for i, problem_id in enumerate(ids)}


def tokens(completions):
    return {problem_id: [c.token_ids for c in group] for problem_id, group in completions.items()}


@pytest.fixture(scope="module")
def together(policy):
    return roll_out(policy, list(PROMPTS))


def test_tokens_do_not_depend_on_the_batch(policy, together):
    alone = {}
    for problem_id in PROMPTS:
        alone |= roll_out(policy, [problem_id])
    assert tokens(alone) == tokens(together)
    for problem_id in PROMPTS:
        for one, other in zip(alone[problem_id], together[problem_id], strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_tokens_do_not_depend_on_the_order(policy, together):
    assert tokens(roll_out(policy, list(PROMPTS)[::-1])) == tokens(together)


def test_tokens_depend_on_the_seed_and_the_rollout(policy, together):
    other = tokens(roll_out(policy, list(PROMPTS), seed=1))
    for problem_id, group in tokens(together).items():
        assert other[problem_id] != group
        assert len(set(group)) > 1


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"temperature": 1.4, "top_p": 0.8}], ids=str)
def test_logprobs_are_those_of_one_pass_over_the_whole_sequence(policy, sampling):
    """Cache, padding and compaction leave no trace; top-p does not rescale them."""
    temperature = sampling.get("temperature", 1.0)
    for problem_id, group in roll_out(policy, list(PROMPTS), **sampling).items():
        for completion in group:
            expected = teacher_forced(policy.model, PROMPTS[problem_id], completion.token_ids, temperature)
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
            other = teacher_forced(policy.model, PROMPTS[problem_id], completion.token_ids, 2 * temperature)
            assert completion.logprobs != pytest.approx(other, abs=1e-2)


@pytest.mark.parametrize("architecture", ["Gemma2", "Gemma3", "Mistral", "Phi3", "Qwen3"])
def test_so_are_those_of_other_caches(architecture):
    """Some layers of some see a window that is shorter than the prompts."""
    model = tiny_model(architecture)
    if getattr(model.config, "sliding_window", None):
        model.config.sliding_window = 8
    for problem_id, group in roll_out(Policy(model, None, STOPS), list(PROMPTS)).items():
        for completion in group:
            expected = teacher_forced(model, PROMPTS[problem_id], completion.token_ids, 1.0)
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def teacher_forced(model, prompt, completion, temperature):
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[torch.arange(len(completion)), list(completion)].tolist()


def test_a_rollout_ends_at_its_first_stop_token_or_at_the_limit(together):
    seen = set()
    for completion in (c for group in together.values() for c in group):
        seen.add(completion.finish_reason)
        assert len(completion.logprobs) == len(completion.token_ids)
        assert not STOPS & set(completion.token_ids[:-1])
        if completion.finish_reason == "stop":
            assert completion.token_ids[-1] in STOPS
        else:
            assert completion.token_ids[-1] not in STOPS
            assert len(completion.token_ids) == MAX_TOKENS
    assert seen == {"stop", "length"}


def test_without_stop_tokens_every_rollout_goes_to_the_limit_and_starts_the_same(policy, together):
    endless = roll_out(Policy(policy.model, policy.tokenizer, frozenset()), list(PROMPTS))
    for problem_id, group in together.items():
        for one, other in zip(group, endless[problem_id], strict=True):
            assert (len(other.token_ids), other.finish_reason) == (MAX_TOKENS, "length")
            assert other.token_ids[: len(one.token_ids)] == one.token_ids


def test_a_stop_token_at_the_limit_is_a_stop(policy, together):
    """The last token allowed may still be the end of the response."""
    stopped = next(c for c in together["p0"] if c.finish_reason == "stop")
    index = together["p0"].index(stopped)
    limit = len(stopped.token_ids)
    uniforms = np.stack([[rollout_uniforms(0, "p0", g, limit) for g in range(GROUP)]])
    completion = sample_completions(policy, [PROMPTS["p0"]], uniforms)[index]
    assert (completion.token_ids, completion.finish_reason) == (stopped.token_ids, "stop")


def test_sampling_follows_the_models_distribution():
    """The first tokens of many rollouts of one problem, on an even grid of uniform numbers."""
    model = tiny_llama()
    grid = ((np.arange(4000, dtype=np.float32) + 0.5) / 4000).reshape(1, -1, 1)
    sampled = sample_completions(Policy(model, tiny_tokenizer(), frozenset()), [PROMPTS["p1"]], grid)
    counts = np.bincount([c.token_ids[0] for c in sampled], minlength=101) / 4000
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPTS["p1"]])).logits[0, -1]
    assert abs(counts - logits.softmax(0).numpy()).max() <= 2 / 4000
    assert abs(counts - (logits / 1.1).softmax(0).numpy()).max() > 2 / 4000
