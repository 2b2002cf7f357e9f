"""From stored sketches to one score per problem."""

import numpy as np
import pyarrow as pa
import pytest

from gradcurate.errors import NoSignalError, RunDirectoryError
from gradcurate.problems.problem import Problem
from gradcurate.scores.advantages import ADVANTAGES
from gradcurate.scores.alignment import (
    SCORES_SCHEMA,
    ProblemGradients,
    require_all_sketches,
    score_problems,
    sum_gradients,
)
from gradcurate.scores.groups import Group
from gradcurate.sketches.rows import sketches_schema
from gradcurate.store.tables import write_table

DIM = 8
VALIDATION_K = np.array([3.0, 4.0, 0, 0, 0, 0, 0, 0], dtype=np.float32)
VALIDATION_NORM = 5.5  # exact, so not quite the sketch's own length of 5


def write_shard(folder, name, rows):
    """Rows of (problem, rollout, sketch, derivative), as the sketch stage stores them."""
    sketches = np.array([row[2] for row in rows], dtype=np.float32)
    norms = np.linalg.norm(sketches, axis=1)
    unit = (sketches / norms[:, None]).astype(np.float16)
    columns = {
        "problem_id": [row[0] for row in rows],
        "rollout": [row[1] for row in rows],
        "split": [name.partition("-")[0]] * len(rows),
        "response_tokens": [1] * len(rows),
        "logprob": [-1.0] * len(rows),
        "logprob_kl": [0.0] * len(rows),
        "logprob_gap": [0.0] * len(rows),
        "norm": norms,
        "directional": [row[3] for row in rows],
        "sketch": pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), DIM),
    }
    schema = sketches_schema(DIM)
    table = pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
    write_table(folder / f"{name}.parquet", table, "sketches", {})


def axis(number, length=1.0):
    """A sketch along one axis, which float16 stores exactly."""
    return length * np.eye(DIM)[number]


def problem(problem_id):
    return Problem(problem_id, "pool", f"source of {problem_id}", (), True, "", {})


def group(problem_id, rewards, failed=0):
    count = len(rewards)
    ones = np.ones(count, dtype=int)
    return Group(problem_id, "pool", np.arange(count), np.array(rewards, dtype=float), ones, failed)


def gradients(**by_problem):
    """Already summed: a sketch and a derivative for each problem."""
    sums = ProblemGradients()
    for problem_id, (sketch, dot) in by_problem.items():
        sums.add(problem_id, np.asarray(sketch, dtype=np.float32), dot)
    return sums


def score(groups, pool, problems=None, validation_norm=VALIDATION_NORM, lacking=()):
    problems = [problem(g.problem_id) for g in groups] if problems is None else problems
    by_id = {g.problem_id: g for g in groups}
    return score_problems(problems, by_id, pool, VALIDATION_K, validation_norm, lacking)


def test_sums_are_weighted_by_problem_and_rollout(tmp_path):
    write_shard(tmp_path, "pool-1", [("a", 0, axis(0, 2.0), 10.0), ("b", 0, axis(1, 5.0), 20.0)])
    write_shard(tmp_path, "pool-2", [("a", 1, axis(2, 3.0), 30.0), ("dead", 0, axis(3), 1.0)])
    write_shard(tmp_path, "validation-1", [("a", 0, axis(7, 100.0), None)])
    sums = sum_gradients(tmp_path, "pool", {"a": {0: 0.5, 1: -2.0}, "b": {0: 1.0}})
    assert sums.sketches["a"].tolist() == [1, 0, -6, 0, 0, 0, 0, 0]
    assert sums.sketches["b"].tolist() == [0, 5, 0, 0, 0, 0, 0, 0]
    assert sums.dots == {"a": 0.5 * 10 - 2 * 30, "b": 20}
    assert sums.lengths == {"a": 7.0, "b": 5.0}
    assert sums.rollouts == {"a": 2, "b": 1}
    assert sums.total_sketch().tolist() == [1, 5, -6, 0, 0, 0, 0, 0]


def test_validation_rows_need_no_derivative(tmp_path):
    write_shard(tmp_path, "validation-1", [("a", 0, axis(0), None), ("a", 1, axis(1), None)])
    sums = sum_gradients(tmp_path, "validation", {"a": {0: 2.0, 1: -1.0}})
    assert sums.total_sketch().tolist() == [2, -1, 0, 0, 0, 0, 0, 0]


def test_validation_gradients_that_cancel_are_no_direction(tmp_path):
    write_shard(tmp_path, "validation-1", [("a", 0, axis(0), None), ("a", 1, axis(0, 1.0001), None)])
    with pytest.raises(NoSignalError) as raised:
        sum_gradients(tmp_path, "validation", {"a": {0: 1.0, 1: -1.0}}).total_sketch()
    assert str(raised.value) == (
        "The gradients of the validation rollouts must add up to a direction; they cancel: equal completions "
        "have different rewards. Use a reward that judges equal completions equally, more --rollouts, and a "
        "new --run."
    )
    assert sum_gradients(tmp_path, "validation", {"a": {0: 1.0, 1: -0.9}}).total_sketch()[0] > 0.09


def test_a_missing_sketch_is_an_error_and_no_zero(tmp_path):
    write_shard(tmp_path, "pool-1", [("a", 0, axis(0), 1.0), ("b", 0, axis(0), 1.0)])
    whole = {"a": {0: 1.0}, "b": {0: 1.0}}
    require_all_sketches(sum_gradients(tmp_path, "pool", whole), whole)
    weights = {"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0}, "c": {0: 1.0}}
    sums = sum_gradients(tmp_path, "pool", weights)
    assert sums.lacking(weights) == ["a", "c"]
    with pytest.raises(RunDirectoryError) as raised:
        require_all_sketches(sums, weights)
    assert str(raised.value) == (
        "Every rollout of a group with a learning signal must have a sketch; "
        "problem a and 1 others lack some. Run `gradcurate sketch` first."
    )


def test_a_direction_is_of_whole_problems(tmp_path):
    write_shard(tmp_path, "validation-1", [("a", 0, axis(0), 1.0), ("b", 0, axis(1), 1.0)])
    sums = sum_gradients(tmp_path, "validation", {"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0}})
    assert sums.total_sketch()[:2] == pytest.approx([1, 1])
    sums.drop(["a", "unknown"])
    assert sums.total_sketch()[:2] == pytest.approx([0, 1])
    sums.drop(["b"])
    with pytest.raises(RunDirectoryError) as raised:
        sums.total_sketch()
    assert str(raised.value) == (
        "At least one validation problem with a learning signal must have its sketches; none has. "
        "Score into another --run."
    )


def test_without_an_exact_direction_the_score_is_the_sketches_own(tmp_path):
    sums = gradients(a=([6, 0, 8, 0, 0, 0, 0, 0], 11.0))
    row, other = score(
        [group("a", [1, 0, 0.5]), group("b", [1, 0])], sums, validation_norm=None, lacking=["b"]
    ).to_pylist()
    assert row["numerator"] == "sketched"
    assert row["score"] == row["sketched_cosine"] == pytest.approx(18 / (10 * 5))
    assert row["dot"] == pytest.approx(18)
    assert (other["status"], other["score"], other["numerator"]) == ("not_sketched", None, None)


def test_the_score_is_the_exact_dot_over_both_norms():
    row = score([group("a", [1, 0, 0.5])], gradients(a=([6, 0, 8, 0, 0, 0, 0, 0], 11.0))).to_pylist()[0]
    assert row["score"] == pytest.approx(11 / (10 * 5.5))
    assert (row["dot"], row["norm"]) == (11.0, 10.0)
    assert row["sketched_cosine"] == pytest.approx(18 / (10 * 5))
    assert row["score"] != pytest.approx(row["sketched_cosine"])
    assert (row["mean_reward"], row["reward_std"]) == (0.5, 0.5)
    assert row["pass_rate"] == pytest.approx(2 / 3)
    assert (row["rollouts"], row["failed_rollouts"], row["source"]) == (3, 0, "source of a")


def test_problems_are_ranked_from_1_ties_by_id_and_those_without_a_score_come_last():
    dots = {"low": -3.0, "tie2": 1.0, "best": 2.0, "tie1": 1.0}
    groups = [group(name, [1, 0]) for name in dots] + [group("z", [1, 1]), group("dead", [0, 0])]
    table = score(groups, gradients(**{name: (axis(0), dot) for name, dot in dots.items()}))
    assert table.schema == SCORES_SCHEMA
    assert [(row["problem_id"], row["rank"]) for row in table.to_pylist()] == [
        ("best", 1),
        ("tie1", 2),
        ("tie2", 3),
        ("low", 4),
        ("dead", None),
        ("z", None),
    ]
    assert score(groups[::-1], gradients(**{n: (axis(0), d) for n, d in dots.items()})) == table


@pytest.mark.parametrize(
    ("rewards", "failed", "status"),
    [
        ([1, 1], 0, "all_correct"),
        ([0, 0], 1, "all_wrong"),
        ([0.5, 0.5], 0, "constant_reward"),
        ([1], 3, "failed"),
        ([], 4, "failed"),
    ],
)
def test_without_a_signal_the_score_is_null_and_never_zero(rewards, failed, status):
    """Zero would rank such a problem above every one of negative alignment."""
    groups = [group("dead", rewards, failed), group("against", [1, 0])]
    against, dead = score(groups, gradients(against=(axis(0), -2.0))).to_pylist()
    assert (against["problem_id"], against["rank"], against["status"]) == ("against", 1, "scored")
    assert against["score"] < 0
    assert dead["status"] == status
    for column in ("rank", "score", "dot", "norm", "sketched_cosine"):
        assert dead[column] is None
    assert (dead["rollouts"], dead["failed_rollouts"]) == (len(rewards), failed)


def test_reward_statistics_that_do_not_exist_are_null():
    rows = score([group("none", [], 4), group("one", [0.75], 3)], gradients()).to_pylist()
    none, one = rows
    assert (none["mean_reward"], none["reward_std"], none["pass_rate"]) == (None, None, None)
    assert (one["mean_reward"], one["reward_std"], one["pass_rate"]) == (0.75, None, 1.0)


def test_gradients_that_cancel_are_no_score(tmp_path):
    """Equal completions of different rewards: what is left of their gradients is rounding."""
    sketch = np.random.default_rng(0).normal(size=DIM)
    other = np.random.default_rng(1).normal(size=DIM)
    nudged = sketch * (1 + 1e-4 * np.arange(DIM))  # the same rollout in another batch, at worst
    for name, second in (("same", sketch), ("nudged", nudged), ("other", other)):
        write_shard(tmp_path, f"pool-{name}", [(name, 0, sketch, 3.0), (name, 1, second, 3.0)])
    groups = [group(name, [1, 0]) for name in ("same", "nudged", "other")]
    weights = {g.problem_id: dict(enumerate(g.weights("grpo", "token-sum"))) for g in groups}
    rows = score(groups, sum_gradients(tmp_path, "pool", weights)).to_pylist()
    assert {row["problem_id"]: row["status"] for row in rows} == {
        "same": "no_gradient",
        "nudged": "no_gradient",
        "other": "scored",
    }
    assert [(row["rank"], row["score"] is None) for row in rows] == [(1, False), (None, True), (None, True)]


@pytest.fixture
def random_pool(tmp_path):
    """Four problems of six rollouts, their derivatives those of the sketches along VALIDATION_K."""
    rng = np.random.default_rng(0)
    rewards = {f"p{number}": rng.random(6) for number in range(4)}
    for problem_id in rewards:
        sketches = rng.normal(size=(6, DIM)) + rng.normal(size=DIM)
        rows = [(problem_id, i, s, float(s @ VALIDATION_K)) for i, s in enumerate(sketches)]
        write_shard(tmp_path, f"pool-{problem_id}", rows)
    return tmp_path, rewards


def scores_by_id(folder, rewards, advantage):
    groups = [group(problem_id, r) for problem_id, r in rewards.items()]
    weights = {g.problem_id: dict(enumerate(g.weights(advantage, "response-mean"))) for g in groups}
    rows = score(groups, sum_gradients(folder, "pool", weights)).to_pylist()
    return {row["problem_id"]: row["score"] for row in rows}


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_scale_and_shift_of_the_rewards_play_no_part(random_pool, advantage):
    folder, rewards = random_pool
    expected = scores_by_id(folder, rewards, advantage)
    scaled = scores_by_id(folder, {name: 7 * r - 2 for name, r in rewards.items()}, advantage)
    assert scaled == pytest.approx(expected, rel=1e-5)
    reversed_ = scores_by_id(folder, {name: -r for name, r in rewards.items()}, advantage)
    assert reversed_ == pytest.approx({name: -score for name, score in expected.items()}, rel=1e-5)
    others = scores_by_id(folder, {name: r[::-1].copy() for name, r in rewards.items()}, advantage)
    assert others != pytest.approx(expected, rel=0.1)


def test_derivatives_of_the_validation_sketch_give_the_sketched_cosine(random_pool):
    """Both columns are one cosine, by two ways; here the derivatives are those of the sketches."""
    folder, rewards = random_pool
    groups = [group(problem_id, r) for problem_id, r in rewards.items()]
    weights = {g.problem_id: dict(enumerate(g.weights("grpo", "token-sum"))) for g in groups}
    pool = sum_gradients(folder, "pool", weights)
    for row in score(groups, pool).to_pylist():
        exact = row["score"] * VALIDATION_NORM / 5
        assert row["sketched_cosine"] == pytest.approx(exact, abs=2e-3)  # float16 rows
        assert -1 <= row["sketched_cosine"] <= 1
    assert len(pool.sketches) == 4
