"""The rollout stage: batches by content, and only what is owed."""

import dataclasses
import json
import threading
from contextlib import nullcontext

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gradcurate.config import Settings
from gradcurate.policies.policy import Policy
from gradcurate.progress import Progress, Silent, Task
from gradcurate.rewards import RewardOutcome
from gradcurate.rollouts.batches import cut_problem_batches, shard_path
from gradcurate.rollouts.engines.transformers_engine import TransformersEngine
from gradcurate.rollouts.rollout import ROLLOUTS_SCHEMA, PromptedProblem
from gradcurate.rollouts.stage import RolloutStage, run_rollouts
from gradcurate.store.tables import read_fingerprint, read_shards, shard_paths
from tiny_models import tiny_llama, tiny_tokenizer

SETTINGS = Settings(
    pool="pool",
    validation="validation",
    model="model",
    run="run",
    rollouts=3,
    max_tokens=6,
    batch_sequences=7,
)
PROBLEMS = [PromptedProblem(f"p{number}", "pool", tuple(range(10, 12 + number % 4))) for number in range(7)]
BATCHES = cut_problem_batches(PROBLEMS, SETTINGS)
FINGERPRINT = {"policy": "abc", "seed": 0}


class StoppedError(Exception):
    """What a test stops a stage with."""


class StopAfter(Progress, Task):
    """Stops the stage after so many batches, as Ctrl-C would."""

    def __init__(self, batches):
        self.left = batches

    def task(self, name, total, done, unit):
        self.announced = (name, total, done, unit)
        return nullcontext(self)

    def advance(self, done, tokens=0):
        self.left -= 1
        if not self.left:
            raise StoppedError


class FakeReward:
    """Rewards by length and fails on every text that starts with a digit; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, answers):
        self.asked += [answer.problem.problem_id for answer in answers]
        return [self.outcome(answer.text) for answer in answers]

    def outcome(self, text):
        if text[:1].isdigit():
            return RewardOutcome(None, {"error": "starts with a digit"})
        return RewardOutcome(float(len(text) % 2), {"é": len(text)})


@pytest.fixture(scope="module")
def policy():
    return Policy(tiny_llama(), tiny_tokenizer(), frozenset(range(0, 101, 6)))


@pytest.fixture
def make_stage(policy, tmp_path):
    def make(folder="rollouts", load=lambda: policy, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        return RolloutStage(
            engine=TransformersEngine(load, settings),
            tokenizer=policy.tokenizer,
            reward=FakeReward(),
            settings=settings,
            folder=tmp_path / folder,
            fingerprint=FINGERPRINT,
            policy_fingerprint="abc",
        )

    return make


def contents(stage):
    return {path.name: path.read_bytes() for path in shard_paths(stage.folder)}


def test_a_stopped_stage_resumes_what_it_owes_and_ends_in_the_same_files(make_stage):
    whole, stage = make_stage("whole"), make_stage()
    run_rollouts(whole, BATCHES, "roll out", Silent())
    with pytest.raises(StoppedError):
        run_rollouts(stage, BATCHES, "roll out", StopAfter(2))
    before = {(p.name, p.stat().st_ino, p.stat().st_mtime_ns) for p in shard_paths(stage.folder)}
    assert len(before) == 2
    stage.reward.asked.clear()
    progress = StopAfter(-1)
    run_rollouts(stage, BATCHES, "roll out", progress)
    owed = [problem.problem_id for batch in BATCHES[2:] for problem in batch]
    assert stage.reward.asked == [problem_id for problem_id in owed for _ in range(3)]
    assert progress.announced == ("roll out", 21, 21 - 3 * len(owed), "rollouts")
    assert contents(stage) == contents(whole)
    assert before <= {(p.name, p.stat().st_ino, p.stat().st_mtime_ns) for p in shard_paths(stage.folder)}


@pytest.mark.parametrize("change", [{"seed": 1}, {"temperature": 2.0}, {"top_p": 0.5}], ids=str)
def test_other_settings_sample_other_tokens(make_stage, change):
    one, other = make_stage("one"), make_stage("other", **change)
    for stage in (one, other):
        run_rollouts(stage, BATCHES[:1], "roll out", Silent())
    tokens = [
        read_shards(stage.folder, ROLLOUTS_SCHEMA)["completion_token_ids"].to_pylist()
        for stage in (one, other)
    ]
    assert tokens[0] != tokens[1]


def test_a_finished_stage_loads_no_policy(make_stage):
    def load():
        raise AssertionError("the policy was loaded")

    stage = make_stage()
    run_rollouts(stage, BATCHES[:1], "roll out", Silent())
    finished = make_stage(load=load)
    run_rollouts(finished, BATCHES[:1], "roll out", Silent())
    with pytest.raises(AssertionError, match="the policy was loaded"):
        run_rollouts(finished, BATCHES, "roll out", Silent())


def test_rows_are_the_contracts(make_stage, policy):
    stage = make_stage()
    run_rollouts(stage, BATCHES, "roll out", Silent())
    for path in shard_paths(stage.folder):
        assert pq.read_schema(path).remove_metadata() == ROLLOUTS_SCHEMA
        assert read_fingerprint(path) == FINGERPRINT
    rows = read_shards(stage.folder, ROLLOUTS_SCHEMA).to_pylist()
    expected = {(problem.problem_id, rollout) for problem in PROBLEMS for rollout in range(3)}
    assert {(row["problem_id"], row["rollout"]) for row in rows} == expected
    assert len(rows) == len(expected)
    prompts = {problem.problem_id: problem.prompt_token_ids for problem in PROBLEMS}
    for row in rows:
        assert tuple(row["prompt_token_ids"]) == prompts[row["problem_id"]]
        text = policy.tokenizer.decode(row["completion_token_ids"], skip_special_tokens=True)
        outcome = FakeReward().outcome(text)
        assert (row["completion"], row["reward"]) == (text, outcome.reward)
        assert json.loads(row["reward_detail"]) == outcome.detail
        assert len(row["sampling_logprobs"]) == len(row["completion_token_ids"])
        assert (row["split"], row["policy"], row["seed"]) == ("pool", "abc", 0)
    assert {row["reward"] for row in rows} == {None, 0.0, 1.0}  # a failed reward is null


prompt_lengths = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 6), max_size=20)


@hypothesis_settings(deadline=None)
@given(prompt_lengths, st.randoms(), st.integers(1, 40), st.integers(2, 9))
def test_batches_partition_the_problems_whatever_their_order(lengths, random, sequences, rollouts):
    settings = dataclasses.replace(SETTINGS, batch_sequences=sequences, rollouts=rollouts)
    problems = [PromptedProblem(name, "pool", (1,) * length) for name, length in lengths.items()]
    batches = cut_problem_batches(problems, settings)
    flat = [problem for batch in batches for problem in batch]
    assert sorted(p.problem_id for p in flat) == sorted(p.problem_id for p in problems)
    assert [len(p.prompt_token_ids) for p in flat] == sorted(len(p.prompt_token_ids) for p in problems)
    size = max(1, sequences // rollouts)
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert all(1 <= len(batch) <= size for batch in batches)
    shuffled = random.sample(problems, len(problems))
    assert cut_problem_batches(shuffled, settings) == batches


def test_a_shard_is_named_by_split_and_problems(tmp_path):
    one = BATCHES[0]
    validation = tuple(dataclasses.replace(problem, split="validation") for problem in one)
    names = {shard_path(tmp_path, batch).name for batch in (one, validation, BATCHES[1], one[:1], one[::-1])}
    assert len(names) == 5
    assert shard_path(tmp_path, one).name.startswith("pool-")
    assert shard_path(tmp_path, validation).name.startswith("validation-")
    reworded = tuple(dataclasses.replace(problem, prompt_token_ids=(1,)) for problem in one)
    assert shard_path(tmp_path, reworded) == shard_path(tmp_path, one)


def test_a_batch_is_rewarded_while_the_next_one_is_sampled(make_stage, policy):
    """The first reward waits for the policy to be asked again; one after the other, it would wait in vain."""
    sampled_again, waited = threading.Event(), []

    def load():
        if loads:
            sampled_again.set()
        loads.append(1)
        return policy

    class Waiting(FakeReward):
        def __call__(self, answers):
            waited.append(sampled_again.wait(timeout=30))
            return super().__call__(answers)

    loads = []
    stage = dataclasses.replace(make_stage(load=load), reward=Waiting())
    run_rollouts(stage, BATCHES[:2], "roll out", Silent())
    assert waited == [True, True]


def test_a_reward_that_raises_stops_the_stage_with_its_own_error(make_stage):
    def refuse(_answers):
        raise StoppedError

    stage = dataclasses.replace(make_stage(), reward=refuse)
    with pytest.raises(StoppedError):
        run_rollouts(stage, BATCHES, "roll out", Silent())
    assert not shard_paths(stage.folder)
