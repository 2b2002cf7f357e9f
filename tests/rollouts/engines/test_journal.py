"""Completions that arrive one by one: batches of them, and what is left after a stop."""

import dataclasses
import time

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gradcurate.errors import EngineError
from gradcurate.rollouts.batches import shard_path
from gradcurate.rollouts.engines.journal import Journal, complete_batches
from gradcurate.rollouts.rollout import Completion, PromptedProblem

GROUP = 3
PROBLEMS = [PromptedProblem(f"p{number}", "pool", (number, 1)) for number in range(5)]
BATCHES = [tuple(PROBLEMS[:2]), tuple(PROBLEMS[2:4]), tuple(PROBLEMS[4:])]
REQUESTS = [(problem, rollout) for problem in PROBLEMS for rollout in range(GROUP)]


def completion(request):
    problem, rollout = request
    known = None if rollout == 1 else (-0.5, -float(rollout))
    return Completion((problem.prompt_token_ids[0], rollout), known, "stop" if rollout else "length")


def answers(requests, keep, stop_after=None):
    for count, request in enumerate(requests):
        if count == stop_after:
            raise EngineError("The server must answer", "it is down", "Start it.")
        keep(request, completion(request))


def complete(batches, journal, stream=answers):
    return complete_batches(batches, GROUP, journal, stream, stop=lambda: None)


EXPECTED = {batch: [completion((p, rollout)) for p in batch for rollout in range(GROUP)] for batch in BATCHES}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "rollouts", "digest")


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(REQUESTS))
def test_batches_are_whole_and_in_order_however_completions_arrive(tmp_path_factory, arriving):
    journal = Journal(tmp_path_factory.mktemp("run"), "digest")
    seen = []

    def stream(asked, keep):
        assert sorted(asked, key=REQUESTS.index) == REQUESTS
        for request in arriving:
            seen.append(request)
            keep(request, completion(request))

    found = {}
    for batch, completions in complete(BATCHES, journal, stream):
        assert {request for request in REQUESTS if request[0] in batch} <= set(seen)
        found[batch] = completions
    assert found == EXPECTED


@pytest.mark.parametrize("stop_after", [0, 1, 5, 6, 14])
def test_what_has_come_before_a_stop_is_not_asked_again(journal, stop_after):
    before = {}
    with pytest.raises(EngineError) as caught:
        before.update(complete(BATCHES, journal, lambda asked, keep: answers(asked, keep, stop_after)))
    assert str(caught.value) == (
        f"The server must answer; it is down; {stop_after} of the 15 rollouts asked of it are kept. "
        "Start it. The same command then goes on from there."
    )
    asked_again = []

    def stream(asked, keep):
        asked_again.extend(asked)
        answers(asked, keep)

    assert dict(complete(BATCHES, journal, stream)) == EXPECTED
    assert asked_again == REQUESTS[stop_after:]


def test_an_engine_that_owes_nothing_is_not_asked(journal):
    list(complete(BATCHES, journal))

    def stream(_asked, _keep):
        raise AssertionError("the engine was asked")

    assert dict(complete(BATCHES, journal, stream)) == EXPECTED


def test_a_line_cut_short_costs_its_own_completion_alone(journal, tmp_path):
    list(complete(BATCHES[:1], journal))
    (file,) = (tmp_path / "rollouts").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert list(journal.read(BATCHES[0])) == REQUESTS[:5]
    assert dict(complete(BATCHES[:1], journal)) == {BATCHES[0]: EXPECTED[BATCHES[0]]}
    assert set(journal.read(BATCHES[0])) == set(REQUESTS[:6])


def test_completions_of_other_settings_are_not_taken(journal, tmp_path):
    list(complete(BATCHES, journal))
    assert journal.read(BATCHES[0])
    assert not Journal(tmp_path / "rollouts", "other").read(BATCHES[0])
    validation = tuple(dataclasses.replace(problem, split="validation") for problem in BATCHES[0])
    assert not journal.read(validation)


def test_a_batch_that_is_written_leaves_nothing(journal, tmp_path):
    for batch, _ in complete(BATCHES, journal):
        assert journal.read(batch)
        journal.remove(batch)
    assert not list((tmp_path / "rollouts").iterdir())


def test_what_comes_is_kept_while_the_consumer_is_busy(journal):
    batches = complete(BATCHES, journal)
    next(batches)
    deadline = time.monotonic() + 30
    while len(journal.read(BATCHES[2])) < GROUP:  # of which nothing was consumed
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_of_no_use_is_removed(journal, tmp_path):
    list(complete(BATCHES, journal))
    other = Journal(tmp_path / "rollouts", "other")
    list(complete(BATCHES, other))
    assert not journal.read(BATCHES[0])  # of other settings
    shard_path(tmp_path / "rollouts", BATCHES[0]).touch()
    other.tidy()
    assert not other.read(BATCHES[0])  # written before its journal was removed
    assert other.read(BATCHES[1])
