"""A problem of the validation set is never scored as one of the pool."""

import pytest

from gradcurate.errors import ProblemsError
from gradcurate.problems import check_disjoint, read_problems

A, B, C = ({"prompt": name, "answer": "1"} for name in "abc")


@pytest.fixture
def read(write_jsonl):
    def read_both(pool, validation):
        return (
            read_problems(write_jsonl(*pool), "pool", on_bad_row="skip"),
            read_problems(write_jsonl(*validation, name="val.jsonl"), "validation"),
        )

    return read_both


def test_disjoint_sets_pass_unchanged(read):
    pool, validation = read([A, B], [C])
    assert check_disjoint(pool, validation) == pool


@pytest.mark.parametrize("ids", [({}, {}), ({"id": 1}, {"id": 2})])
def test_a_shared_problem_is_refused_whatever_its_id(read, ids):
    in_pool, in_validation = ids
    pool, validation = read([{**B, "id": 9} if in_pool else B, {**A, **in_pool}], [{**A, **in_validation}])
    with pytest.raises(ProblemsError) as caught:
        check_disjoint(pool, validation)
    assert str(caught.value) == (
        "pool.jsonl:2: expected a problem that is not in the validation set (it would be scored against "
        "its own gradient); val.jsonl:1 has the same prompt and answer. Remove it from the pool, "
        "or leave such rows out with --on-bad-row skip."
    )


def test_a_shared_id_is_refused(read):
    pool, validation = read([{**A, "id": 1}], [{**C, "id": 0}, {**B, "id": 1}])
    with pytest.raises(ProblemsError) as caught:
        check_disjoint(pool, validation)
    assert str(caught.value) == (
        "pool.jsonl:1: expected an id that is not in the validation set; val.jsonl:2 is another problem "
        "with the id '1'. Make the ids unique across both files, take ids from content with "
        "--id-column '', or leave such rows out with --on-bad-row skip."
    )


def test_skipping_drops_it_from_the_pool_as_a_bad_row(read):
    pool, validation = read([A, B, {"prompt": ""}, C], [B])
    kept = check_disjoint(pool, validation, "skip")
    assert [problem.row for problem in kept.problems] == [A, C]
    assert kept.lines == (1, 4)
    assert [(bad.line, bad.record) for bad in kept.bad_rows] == [(2, B), (3, {"prompt": ""})]
    assert kept.bad_rows[0].reason.endswith("; val.jsonl:1 has the same prompt and answer")


def test_a_pool_within_the_validation_set_is_an_error_even_when_skipping(read):
    pool, validation = read([A], [A, B])
    with pytest.raises(ProblemsError, match=r"^pool.jsonl: expected at least one usable problem; all 1 rows"):
        check_disjoint(pool, validation, "skip")
