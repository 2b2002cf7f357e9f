"""From evidence to scores, along one direction or several, of whole groups or of their parts."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradcurate.scores.expression import parse_expression
from gradcurate.scores.merging import MERGES, merge
from gradcurate.scores.scorer import Scorer
from gradcurate.scores.signals import SIGNALS
from scores.samples import ALONG, evidence, random_evidence

PLACES = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6]])


@pytest.fixture
def pool():
    return [random_evidence(8, seed, problem_id=f"p{seed}") for seed in range(6)]


def scorer(text, **fields):
    return Scorer(parse_expression(text), **fields)


def test_a_score_is_its_expression_over_the_pool(pool):
    found = scorer("rank(t) + 2 * cosine")([pool])
    t, cosine = (np.array([float(SIGNALS[name].of(e)) for e in pool]) for name in ("t", "cosine"))
    assert found == pytest.approx(np.argsort(np.argsort(t)) / 5 + 2 * cosine)


def test_ranks_are_among_problems_and_not_among_parts(pool):
    parts = [e.part(PLACES) for e in pool]
    at_once = scorer("rank(dot)")([parts])
    assert at_once.shape == (3, 6)
    for part, places in enumerate(PLACES):
        alone = [e.part(places[None]) for e in pool]
        assert at_once[part] == pytest.approx(scorer("rank(dot)")([alone])[0])
        assert sorted(at_once[part]) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize("name", MERGES)
def test_directions_are_merged_problem_by_problem_and_part_by_part(pool, name):
    other = [replace(e, derivatives=e.derivatives[::-1].copy()) for e in pool]
    weights = (1.0, 2.0)
    merged = scorer("dot", merging=name, weights=weights)
    along = [scorer("dot")([problems]) for problems in (pool, other)]
    assert merged([pool, other]) == pytest.approx(merge(np.stack(along), np.array(weights), name))
    assert merged([pool, other]) != pytest.approx(merged([other, pool]))
    parts = [[e.part(PLACES) for e in problems] for problems in (pool, other)]
    found = merged(parts)
    for part in range(3):
        scores = np.stack([scorer("dot")([problems])[part] for problems in parts])
        assert found[part] == pytest.approx(merge(scores, np.array(weights), name))


def test_along_one_direction_nothing_is_merged(pool):
    assert scorer("dot", merging="round-robin")([pool]) == pytest.approx(scorer("dot")([pool]))


def test_of_a_group_without_a_signal_only_the_reference_answer_is_asked():
    """Even where a signal would have a number, as the mean reward has, and in any expression."""
    dead = evidence([1, 1, 1, 1], derivatives=np.zeros(4), gold=0.5)
    live = evidence([1, 0, 1, 1], derivatives=np.arange(4.0), gold=0.25)
    assert scorer("gold")([[dead, live]]).tolist() == [0.5, 0.25]
    for text in ("mean_reward", "gold + 0 * mean_reward", "dot"):
        [of_dead, of_live] = scorer(text)([[dead, live]])
        assert math.isnan(of_dead)
        assert math.isfinite(of_live)


def test_a_direction_that_is_not_known_leaves_scores_that_need_none(pool):
    unknown = [replace(e, derivatives=np.full(8, math.nan), along=ALONG) for e in pool]
    assert np.isnan(scorer("cosine")([unknown])).all()
    assert scorer("learnability")([unknown]) == pytest.approx(scorer("learnability")([pool]))
