"""How far scores can be believed: the gate before selection, and what is kept beside them."""

import json
from dataclasses import asdict, replace

import pytest

from gradcurate.errors import UnreliableError
from gradcurate.scores.confidence import (
    LEAST_COSINE,
    Confidence,
    SetCheck,
    confidence_from,
    remedy,
    require_believable,
    warnings,
)
from gradcurate.scores.reliability import Reliability, spearman_brown
from gradcurate.scores.validation import DirectionCheck

DIRECTION = DirectionCheck(
    problems=20, rollouts=8.0, over_rollouts=0.1, over_problems=0.05, over_problems_error=0.1
)
RANKING = Reliability(
    problems=40.0,
    rollouts=8.0,
    halves=0.25,
    reliability=0.4,
    low=-0.1,
    high=0.7,
    share_of_best_gain=0.63,
    rollouts_for_half=None,
)


def confidence(*directions, of_direction=True, ranking=RANKING):
    sets = tuple(SetCheck(f"set{n}", direction, 0.01) for n, direction in enumerate(directions))
    return Confidence("cosine", of_direction, sets, ranking)


def refusal(*directions):
    with pytest.raises(UnreliableError) as raised:
        require_believable(confidence(*directions))
    assert raised.value.exit_code == 6
    return str(raised.value)


def test_a_direction_that_is_noise_is_refused_with_what_it_would_need():
    assert refusal(DIRECTION) == (
        "Halves of the validation direction must have a cosine of at least 0.2; "
        "those of set0 (20 problems with a signal, 8 rollouts each) have 0.10. "
        "Use about 18 rollouts a validation problem or about 95 validation problems with a signal, and "
        "validation problems that the policy solves sometimes."
    )


def test_a_direction_that_cannot_be_compared_is_refused():
    unknown = DirectionCheck(2, 3.0, None, None, None)
    assert refusal(unknown) == (
        "Halves of the validation direction must have a cosine of at least 0.2; "
        "those of set0 (2 problems with a signal, 3 rollouts each) cannot be compared: too few problems or "
        "rollouts. Use more --rollouts or more validation problems, and validation problems that the policy "
        "solves sometimes."
    )


def test_the_first_doubtful_set_is_named():
    good = replace(DIRECTION, over_rollouts=0.5)
    assert "those of set1 (20 problems" in refusal(good, DIRECTION, DIRECTION)


@pytest.mark.parametrize(
    ("over_rollouts", "over_problems", "believable"),
    [
        (LEAST_COSINE, 0.0, True),
        (
            LEAST_COSINE - 1e-6,
            0.9,
            False,
        ),  # halves of the rollouts are the better measure, where there are some
        (None, LEAST_COSINE, True),
        (None, LEAST_COSINE - 1e-6, False),
        (None, None, False),
        (-1.0, None, False),
    ],
)
def test_the_gate_is_at_a_cosine_of_one_fifth(over_rollouts, over_problems, believable):
    direction = replace(DIRECTION, over_rollouts=over_rollouts, over_problems=over_problems)
    found = confidence(direction)
    assert (found.doubtful == ()) == found.sets[0].believable == believable
    if believable:
        require_believable(found)
        assert warnings(found) == ()
    else:
        with pytest.raises(UnreliableError):
            require_believable(found)
        assert len(warnings(found)) == 1


def test_scores_of_no_direction_pass_whatever_the_direction_is():
    require_believable(confidence(DIRECTION, of_direction=False))
    assert warnings(confidence(DIRECTION, of_direction=False)) == ()
    assert warnings(confidence(DIRECTION)) != ()


def test_who_selects_nevertheless_is_told_of_every_doubtful_set():
    unknown = DirectionCheck(2, 3.0, None, None, None)
    good = replace(DIRECTION, over_rollouts=0.5)
    assert warnings(confidence(DIRECTION, good, unknown)) == (
        "Selected although the validation direction (set0) is mostly noise: the cosine of its halves should "
        "be at least 0.2, and is 0.10.",
        "Selected although the validation direction (set2) is mostly noise: the cosine of its halves should "
        "be at least 0.2, and is unknown.",
    )


@pytest.mark.parametrize(
    ("over_rollouts", "over_problems", "expected"),
    [
        (0.1, None, "Use about 18 rollouts a validation problem, and"),
        (None, 0.1, "Use about 45 validation problems with a signal, and"),
        (0.1, 0.3, "Use about 18 rollouts a validation problem, and"),  # problems would do already
        (0.02, -0.1, "Use more --rollouts or more validation problems, and"),
        (0.021, -0.1, "Use about 94 rollouts a validation problem, and"),
        (None, None, "Use more --rollouts or more validation problems, and"),
    ],
)
def test_the_remedy_extrapolates_only_from_what_is_no_noise(over_rollouts, over_problems, expected):
    direction = replace(DIRECTION, over_rollouts=over_rollouts, over_problems=over_problems)
    assert remedy(direction) == f"{expected} validation problems that the policy solves sometimes."


def test_what_the_remedy_asks_for_would_be_enough_and_not_much_less():
    assert spearman_brown(0.1, times=18 / 8) >= LEAST_COSINE
    assert spearman_brown(0.1, times=17 / 8) < LEAST_COSINE
    assert spearman_brown(0.05, times=95 / 20) >= LEAST_COSINE
    assert spearman_brown(0.05, times=94 / 20) < LEAST_COSINE


@pytest.mark.parametrize("ranking", [RANKING, None, replace(RANKING, rollouts_for_half=24)])
@pytest.mark.parametrize("of_direction", [True, False])
def test_what_is_kept_as_json_is_read_back_as_it_was(ranking, of_direction):
    unknown = DirectionCheck(2, 3.5, None, None, None)
    found = confidence(DIRECTION, unknown, of_direction=of_direction, ranking=ranking)
    read = confidence_from(json.loads(json.dumps(asdict(found))))
    assert read == found
    assert read.doubtful == found.doubtful
    assert read != replace(found, score="dot")
    assert confidence_from(json.loads(json.dumps(asdict(confidence())))).sets == ()
