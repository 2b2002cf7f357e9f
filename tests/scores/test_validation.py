"""The validation direction: what it is a sum of, derivatives along it, and whether it can be checked."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradcurate.errors import NoSignalError, RunDirectoryError
from gradcurate.scores.validation import (
    FEWEST_PROBLEMS,
    StoredDirection,
    ValidationProblem,
    ValidationSet,
    aim,
    check_direction,
    problem_gradients,
)
from scores.samples import ALONG, DIM, axis, evidence, random_evidence


def problem(rewards, sketches, source="s", problem_id="p", **fields):
    sketches = np.asarray(sketches, dtype=float)
    mine = evidence(rewards, sketches, problem_id=problem_id, **fields)
    rollouts = (None,) if mine.summed else tuple(range(len(rewards)))
    return ValidationProblem(source, rollouts, mine, sketches)


def random_problem(number, size=6, source="s", seed=0):
    rng = np.random.default_rng((seed, number))
    rewards = np.append(rng.integers(0, 2, size - 2), [0.0, 1.0])
    sketches = rng.normal(size=(size, DIM)) + np.outer(rewards, axis(0, 2))
    return problem(rewards, sketches, source, f"p{number}")


def random_set(count=5, seed=0):
    return ValidationSet("validation", tuple(random_problem(number, seed=seed) for number in range(count)))


def stored_of(chosen, norm=None):
    """The direction that was summed of a set, when its derivatives were taken."""
    sketch = sum(p.evidence.weights @ p.sketches for p in chosen.problems)
    return StoredDirection(chosen.row_weights, sketch, norm or float(np.linalg.norm(sketch)))


TWO = ValidationSet(
    "two",
    (
        problem([1, 0], [axis(0, 2), axis(1, 2)], "b", "x"),
        problem([0, 1], [axis(2, 6), axis(3, 8)], "a", "y"),
    ),
)


def test_a_sum_is_of_the_weighted_rows():
    target = aim(TWO, stored_of(TWO), "sum")
    assert target.sketch.tolist() == [1, -1, -3, 4, 0, 0, 0, 0]
    assert (target.name, target.along.sketched_norm) == ("two", pytest.approx(math.sqrt(27)))


def test_of_unit_means_every_problem_has_the_same_share():
    target = aim(TWO, stored_of(TWO), "unit-mean")
    half = math.sqrt(0.5)
    assert target.sketch == pytest.approx([half, -half, -0.6, 0.8, 0, 0, 0, 0])
    tenfold = replace(TWO.problems[0], sketches=10 * TWO.problems[0].sketches)
    longer = replace(TWO, problems=(tenfold, TWO.problems[1]))
    assert aim(longer, stored_of(TWO), "unit-mean").sketch == pytest.approx(target.sketch)
    assert aim(longer, stored_of(TWO), "sum").sketch != pytest.approx(aim(TWO, stored_of(TWO), "sum").sketch)


def test_gradients_are_those_of_the_problems_one_by_one():
    assert problem_gradients(TWO.problems, "sum").tolist() == [
        [1, -1, 0, 0, 0, 0, 0, 0],
        [0, 0, -3, 4, 0, 0, 0, 0],
    ]
    lengths = np.linalg.norm(problem_gradients(TWO.problems, "unit-mean"), axis=1)
    assert lengths == pytest.approx([1, 1])


def test_a_problem_s_own_sum_counts_once():
    summed = problem([1, 0, 0, 1], [axis(5, 3)], problem_id="z")
    assert summed.evidence.summed
    chosen = ValidationSet("summed", (summed,))
    assert chosen.row_weights == {"z": {None: 1.0}}
    assert aim(chosen, stored_of(chosen), "sum").sketch.tolist() == axis(5, 3).tolist()


def test_sets_by_source_are_in_their_order_and_hold_all_problems():
    third = problem([1, 0], [axis(4), axis(5)], "b", "z")
    sets = ValidationSet("all", (*TWO.problems, third)).by_source()
    assert [(one.name, [p.evidence.problem_id for p in one.problems]) for one in sets] == [
        ("a", ["y"]),
        ("b", ["x", "z"]),
    ]
    assert sum(aim(one, stored_of(TWO), "sum").sketch for one in sets).tolist() == [
        1,
        -1,
        -3,
        4,
        0.5,
        -0.5,
        0,
        0,
    ]


def test_derivatives_along_the_stored_direction_are_the_stored_ones():
    """Bit by bit, and without sketches: its exact length stands for that of its sketch."""
    chosen = random_set()
    target = aim(chosen, stored_of(chosen, norm=123.0), "sum")
    exact = np.array([1.0, math.pi, -2.0])
    assert target.rest is None
    assert target.derivatives(exact, None) is exact
    assert (target.along.norm, target.along.error) == (123.0, 0.0)
    assert target.along.sketched_norm == pytest.approx(np.linalg.norm(target.sketch))
    assert math.isnan(target.along.reliability)


@pytest.mark.parametrize("change", ["other weights", "one problem less", "unit-mean"])
def test_of_any_other_direction_sketches_tell_the_rest(change):
    chosen = random_set()
    stored = stored_of(chosen, norm=123.0)
    aggregation = "unit-mean" if change == "unit-mean" else "sum"
    if change == "one problem less":
        chosen = replace(chosen, problems=chosen.problems[1:])
    if change == "other weights":
        problems = [
            replace(
                p, evidence=replace(p.evidence, weighting=replace(p.evidence.weighting, advantage="grpo"))
            )
            for p in chosen.problems
        ]
        chosen = replace(chosen, problems=tuple(problems))
    target = aim(chosen, stored, aggregation)
    assert target.rest is not None
    assert target.share * stored.sketch + target.rest == pytest.approx(target.sketch)
    assert target.rest @ stored.sketch == pytest.approx(0, abs=1e-9)
    length = np.linalg.norm(target.sketch)
    assert (target.along.norm, target.along.sketched_norm) == (pytest.approx(length), pytest.approx(length))
    assert target.along.error == pytest.approx(np.linalg.norm(target.rest) / math.sqrt(DIM))
    assert target.along.error > 0


def other_target():
    chosen = random_set()
    return aim(replace(chosen, problems=chosen.problems[2:]), stored_of(chosen), "sum"), stored_of(chosen)


def test_where_exact_derivatives_are_those_of_sketches_they_are_so_along_any_target():
    target, stored = other_target()
    sketches = np.random.default_rng(1).normal(size=(6, DIM))
    found = target.derivatives(sketches @ stored.sketch, sketches)
    assert found == pytest.approx(sketches @ target.sketch)
    assert found != pytest.approx(sketches @ stored.sketch, rel=0.1)


def test_the_error_of_the_exact_part_is_taken_away():
    """A derivative is wrong in sketches by what sketches lose; the stored direction's part is not."""
    target, stored = other_target()
    rng = np.random.default_rng(1)
    sketches, lost = rng.normal(size=(6, DIM)), rng.normal(size=6)
    found = target.derivatives(sketches @ stored.sketch + lost, sketches)
    assert found - sketches @ target.sketch == pytest.approx(target.share * lost)
    assert abs(target.share) > 0.1


def project(vectors, seeds, dim=64):
    """Random projections that keep inner products on average, a stack of them."""
    maps = np.random.default_rng(0).normal(size=(seeds, vectors.shape[1], dim)) / math.sqrt(dim)
    return np.einsum("nd,sdk->snk", vectors, maps)


def test_derivatives_are_right_on_average_and_nearer_than_those_of_sketches():
    """Over projections: of a target that is mostly the stored direction, sketches need tell little."""
    rng = np.random.default_rng(5)
    row, stored_D, other_D = rng.normal(size=(3, 300))
    target_D = stored_D + 0.3 * other_D
    errors, plain, stated = [], [], []
    for row_K, stored_K, target_K in project(np.stack([row, stored_D, target_D]), seeds=1000):
        one = problem([1, 0], np.stack([target_K, -target_K]))
        target = aim(ValidationSet("other", (one,)), StoredDirection({}, stored_K, 1.0), "sum")
        [found] = target.derivatives(np.array([row @ stored_D]), row_K[None])
        errors.append(found - row @ target_D)
        plain.append(row_K @ target_K - row @ target_D)
        stated.append(target.along.error * np.linalg.norm(row_K))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(len(errors))
    assert np.std(errors) < 0.5 * np.std(plain)
    assert np.sqrt(np.mean(np.square(stated))) == pytest.approx(np.std(errors), rel=0.15)


def test_without_sketches_another_target_has_no_derivatives():
    target, _ = other_target()
    assert np.isnan(target.derivatives(np.ones(3), None)).all()


def test_rows_without_an_exact_derivative_have_that_of_their_sketch_as_far_as_it_goes():
    """Sums over validation problems have none; nor have pool rows of a run of another direction."""
    target, _ = other_target()
    sketches = np.random.default_rng(1).normal(size=(3, DIM))
    found = target.derivatives(np.array([math.nan, 1.0, math.nan]), sketches)
    assert found == pytest.approx(sketches @ target.rest + [0, target.share, 0])


def test_gradients_that_cancel_are_no_direction():
    cancelling = ValidationSet("v", (problem([1, 0], [axis(0), axis(0, 1.0001)]),))
    with pytest.raises(NoSignalError) as raised:
        aim(cancelling, stored_of(TWO), "sum")
    assert str(raised.value) == (
        "The gradients of the validation rollouts must add up to a direction; they cancel: equal completions "
        "have different rewards. Use a reward that judges equal completions equally, more --rollouts, and a "
        "new --run."
    )
    nearly = ValidationSet("v", (problem([1, 0], [axis(0), axis(0, 0.9)]),))
    assert aim(nearly, stored_of(TWO), "sum").sketch[0] == pytest.approx(0.05)


@pytest.mark.parametrize("aggregation", ["sum", "unit-mean"])
def test_an_empty_set_is_refused(aggregation):
    with pytest.raises(RunDirectoryError) as raised:
        aim(ValidationSet("v", ()), stored_of(TWO), aggregation)
    assert str(raised.value) == (
        "At least one validation problem with a learning signal must have its sketches; none has. "
        "Score into another --run."
    )


@pytest.mark.parametrize("aggregation", ["sum", "unit-mean"])
def test_a_direction_is_checked_by_its_halves(aggregation):
    problems = [random_problem(number, size=8) for number in range(6)]
    check = check_direction(problems, aggregation)
    assert (check.problems, check.rollouts) == (6, 8.0)
    assert -1 <= check.over_rollouts <= 1
    assert -1 <= check.over_problems <= 1
    assert check.over_problems_error > 0
    assert check.cosine == check.over_rollouts
    again = check_direction(problems, aggregation)
    assert again == check
    other = check_direction(problems, "sum" if aggregation == "unit-mean" else "unit-mean")
    assert other.over_problems != pytest.approx(check.over_problems, rel=1e-3)


@pytest.mark.parametrize("count", [FEWEST_PROBLEMS - 1, FEWEST_PROBLEMS])
def test_too_few_problems_cannot_be_halved(count):
    check = check_direction([random_problem(number) for number in range(count)], "sum")
    known = count >= FEWEST_PROBLEMS
    assert (check.over_problems is not None) == (check.over_problems_error is not None) == known
    assert check.over_rollouts is not None


def test_too_few_rollouts_cannot_be_halved_and_problems_tell_then():
    few = [random_problem(number, size=3) for number in range(4)]
    check = check_direction(few, "sum")
    assert (check.over_rollouts, check.rollouts) == (None, 3.0)
    assert check.cosine == check.over_problems
    mixed = check_direction([*few, random_problem(9, size=4)], "sum")
    assert mixed.over_rollouts is not None


def test_sums_have_no_rollouts_to_halve():
    summed = [problem([1, 0, 0, 1, 1], [axis(0) + axis(n, 0.5)], problem_id=f"p{n}") for n in range(1, 5)]
    check = check_direction(summed, "sum")
    assert (check.over_rollouts, check.rollouts) == (None, 5.0)
    assert check.over_problems == check.cosine == pytest.approx(2 * 1 / (1.25 + 1))


def test_what_can_be_halved_in_no_way_is_not_known():
    check = check_direction([random_problem(0, size=3)], "sum")
    assert check.over_rollouts is check.over_problems is check.over_problems_error is check.cosine is None


def test_problems_that_agree_have_a_cosine_of_one_and_opposed_ones_none():
    agreeing = [problem([1, 0], [axis(0), axis(1)], problem_id=f"p{n}") for n in range(4)]
    check = check_direction(agreeing, "sum")
    assert check.over_problems == pytest.approx(1)
    assert check.over_problems_error == pytest.approx(0, abs=1e-6)
    opposed = [*agreeing[:2], *(replace(p, sketches=-p.sketches) for p in agreeing[2:])]
    assert check_direction(opposed, "sum").over_problems < 0


def test_halves_of_rollouts_are_told_from_noise():
    """Rewards that explain the gradients, against the same rewards with gradients that have none of them."""
    rng = np.random.default_rng(0)
    rewards = [rng.integers(0, 2, 16).astype(float) for _ in range(6)]
    noise = [0.3 * rng.normal(size=(16, DIM)) for _ in rewards]
    moved = [
        problem(r, np.outer(r, axis(0)) + n, problem_id=str(i))
        for i, (r, n) in enumerate(zip(rewards, noise, strict=True))
    ]
    unmoved = [problem(r, n, problem_id=str(i)) for i, (r, n) in enumerate(zip(rewards, noise, strict=True))]
    assert check_direction(moved, "sum").over_rollouts > 0.9
    assert abs(check_direction(unmoved, "sum").over_rollouts) < 0.4


def test_evidence_of_validation_needs_no_derivatives():
    mine = random_evidence(6)
    unknown = replace(mine, derivatives=np.full(6, math.nan), along=ALONG)
    sketches = np.random.default_rng(0).normal(size=(6, DIM))
    problems = [ValidationProblem("s", tuple(range(6)), e, sketches) for e in (mine, unknown)]
    assert problems[0].gradient.tolist() == problems[1].gradient.tolist()
