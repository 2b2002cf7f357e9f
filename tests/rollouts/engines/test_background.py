"""Producing and consuming at the same time."""

import threading

import pytest

from gradcurate.rollouts.engines.background import in_background


class NothingMoreError(Exception):
    """What a test's producer ends with."""


def test_results_come_in_order_and_an_error_after_them():
    def produce(deliver):
        for number in range(3):
            deliver(number)
        raise NothingMoreError

    results = in_background(produce, stop=lambda: None)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(NothingMoreError):
        next(results)


def test_the_producer_works_on_while_the_consumer_is_busy():
    second = threading.Event()

    def produce(deliver):
        deliver(1)
        deliver(2)
        second.set()

    results = in_background(produce, stop=lambda: None)
    assert next(results) == 1
    assert second.wait(timeout=30)
    assert list(results) == [2]


def test_a_consumer_that_leaves_stops_the_producer():
    stopped, ended = threading.Event(), threading.Event()

    def produce(deliver):
        deliver(1)
        stopped.wait(timeout=30)
        ended.set()

    results = in_background(produce, stopped.set)
    assert next(results) == 1
    results.close()
    assert ended.is_set()


def test_a_producer_that_ends_by_itself_is_not_stopped():
    stopped = threading.Event()
    assert list(in_background(lambda deliver: deliver(1), stopped.set)) == [1]
    assert not stopped.is_set()
