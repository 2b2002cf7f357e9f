import numpy as np
import pytest

from gradcurate.errors import SettingsError
from gradcurate.problems import Problem
from gradcurate.report.checks import Checks
from gradcurate.report.summary import PartSummary, RankedProblem, summarise
from gradcurate.scores.confidence import Confidence, SetCheck
from gradcurate.scores.groups import Group
from gradcurate.scores.validation import DirectionCheck


def problem(problem_id, split="pool", content="1 + 1?", source="sums", **row):
    message = {"role": "user", "content": content}
    return Problem(
        problem_id=problem_id,
        split=split,
        source=source,
        prompt=(message,),
        answer="2",
        row=row,
        prompt_is_text=True,
    )


def score_row(problem_id, rank, score, pass_rate, source="sums", status="scored"):
    return {
        "problem_id": problem_id,
        "rank": rank,
        "score": score,
        "score_low": None if score is None else score - 0.125,
        "score_high": None if score is None else score + 0.125,
        "pass_rate": pass_rate,
        "source": source,
        "status": status,
    }


def group(problem_id, rewards, split="pool", failed=0):
    numbers = np.arange(len(rewards))
    return Group(problem_id, split, numbers, np.array(rewards, float), numbers + 1, failed)


STATUSES = {"all_correct": 1, "failed": 1}
CHECKS = Checks(0.001, 0.25, 16, 0.011, 0.0156, None, None)
CONFIDENCE = Confidence(
    "cosine", True, (SetCheck("validation", DirectionCheck(5, 4.0, 0.5, 0.4, 0.1), 0.0),), None
)


def summarised(scores, problems, groups=(), columns=(), shown=10):
    return summarise("runs/1", problems, groups, STATUSES, scores, 0, CHECKS, CONFIDENCE, columns, shown)


FOUR = [
    score_row("a", 1, 0.5, 0.25),
    score_row("b", 2, 0.25, 0.75, source="words"),
    score_row("c", 3, -0.25, 0.5),
    score_row("d", None, None, None, status="no_gradient"),
]


def four_problems():
    return [problem(name, level=level) for name, level in (("a", 10), ("b", 9), ("c", 9), ("d", 10))]


def test_parts_are_means_over_what_has_a_value():
    assert summarised(FOUR, four_problems()).parts == (
        PartSummary("source", "sums", problems=3, scored=2, mean_score=0.125, mean_pass_rate=0.375),
        PartSummary("source", "words", problems=1, scored=1, mean_score=0.25, mean_pass_rate=0.75),
    )


def test_parts_by_a_column_of_the_records_come_after_the_source_with_numbers_by_size():
    assert summarised(FOUR, four_problems(), columns=["level"]).parts[2:] == (
        PartSummary("level", "9", problems=2, scored=2, mean_score=0.0, mean_pass_rate=0.625),
        PartSummary("level", "10", problems=2, scored=1, mean_score=0.5, mean_pass_rate=0.25),
    )


def test_a_part_without_a_score_has_no_mean():
    [part] = summarised([FOUR[3]], four_problems()).parts
    assert (part.problems, part.scored, part.mean_score, part.mean_pass_rate) == (1, 0, None, None)


def test_a_column_that_only_some_problems_have_shows_the_others_as_none():
    problems = [problem("a", level=1), problem("b"), problem("c"), problem("d")]
    parts = summarised(FOUR, problems, columns=["level"]).parts[2:]
    assert [(part.value, part.problems) for part in parts] == [("1", 1), ("None", 3)]


def test_a_column_that_no_problem_has_is_refused():
    with pytest.raises(SettingsError) as caught:
        summarised(FOUR, four_problems(), columns=["leve"])
    assert str(caught.value) == (
        "--by must name a column of the pool; 'leve' is not one. Did you mean 'level'?"
    )


def test_pass_rates_fall_into_buckets_that_include_their_upper_edge():
    rates = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.99, 1.0, 1.0, None]
    rows = [score_row(str(number), None, None, rate) for number, rate in enumerate(rates)]
    assert summarised(rows, [problem(row["problem_id"]) for row in rows]).pass_rates == {
        "0": 1,
        "up to 1/4": 2,
        "up to 1/2": 2,
        "up to 3/4": 2,
        "below 1": 2,
        "1": 2,
    }


@pytest.mark.parametrize(
    ("shown", "best", "worst"),
    [(0, "", ""), (1, "a", "c"), (2, "ab", "c"), (3, "abc", ""), (9, "abc", "")],
)
def test_head_and_tail_of_the_ranking_never_overlap(shown, best, worst):
    summary = summarised(FOUR, four_problems(), shown=shown)
    assert "".join(ranked.problem_id for ranked in summary.best) == best
    assert "".join(ranked.problem_id for ranked in summary.worst) == worst


def test_the_last_message_is_excerpted_on_one_line():
    long = problem("a", content="one\n  two " + "x" * 60)
    other = problem("b", content="2?")
    [ranked] = summarised([FOUR[0]], [long, other]).best
    assert ranked == RankedProblem(1, "a", "sums", 0.5, 0.375, 0.625, 0.25, "one two " + "x" * 51 + "…", "2")
    assert len(ranked.prompt) == 60
    [short] = summarised([FOUR[0]], [problem("a", content="x" * 60), other]).best
    assert short.prompt == "x" * 60


def test_problems_are_counted_by_split_and_status():
    groups = [
        group("a", [0, 1]),
        group("b", [0, 0], failed=1),
        group("v", [1, 1], split="validation"),
        group("w", [], split="validation", failed=2),
    ]
    summary = summarised(FOUR, four_problems(), groups)
    assert summary.pool_statuses == {"scored": 3, "no_gradient": 1}  # rewards alone do not tell
    assert summary.validation_statuses == STATUSES
    assert summary.failed_rollouts == 3


def test_checks_and_confidence_are_handed_on():
    summary = summarised(FOUR, four_problems())
    assert (summary.run, summary.checks, summary.confidence) == ("runs/1", CHECKS, CONFIDENCE)


def test_intervals_that_there_are_not_stay_unknown():
    unknown = {**FOUR[0], "score_low": None, "score_high": None}
    [ranked] = summarised([unknown], four_problems()).best
    assert (ranked.score, ranked.score_low, ranked.score_high) == (0.5, None, None)


def prompts_of(*contents):
    problems = [problem(name, content=content) for name, content in zip("abc", contents, strict=False)]
    rows = [score_row(p.problem_id, place, 0.5, 0.25) for place, p in enumerate(problems, start=1)]
    return [ranked.prompt for ranked in summarised(rows, problems).best]


def test_lines_that_every_prompt_begins_with_are_left_out():
    """Instructions or examples, the same for all: the excerpts would show nothing else."""
    shared = "Reason step by step.\nQ: 1 + 1?\nA: 2\n"
    assert prompts_of(shared + "Q: 2 + 2?", shared + "Q: 3 + 3?") == ["Q: 2 + 2?", "Q: 3 + 3?"]
    assert prompts_of(shared + "Q: 2 + 2?", shared + "Q: 3 + 3?", "Q: 4?") == [
        "Reason step by step. Q: 1 + 1? A: 2 Q: 2 + 2?",
        "Reason step by step. Q: 1 + 1? A: 2 Q: 3 + 3?",
        "Q: 4?",
    ]


def test_a_line_is_left_out_whole_or_not_at_all():
    assert prompts_of("one\nWhat is 2?", "one\nWhat is 3?") == ["What is 2?", "What is 3?"]
    assert prompts_of("What is 2?", "What is 3?") == ["What is 2?", "What is 3?"]


def test_prompts_that_are_one_another_s_beginning_keep_their_last_line():
    assert prompts_of("one\ntwo", "one\ntwo\nthree") == ["two", "two three"]


def test_the_shared_beginning_is_that_of_the_pool_whatever_validation_asks():
    problems = [problem("a", content="one\n2?"), problem("b", content="one\n3?")]
    problems.append(problem("v", split="validation", content="4?"))
    rows = [score_row("a", 1, 0.5, 0.25), score_row("b", 2, 0.25, 0.25)]
    assert [ranked.prompt for ranked in summarised(rows, problems).best] == ["2?", "3?"]
