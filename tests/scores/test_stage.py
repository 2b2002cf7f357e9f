"""From stored rows to a ranking and how far it can be believed, without a model."""

from dataclasses import replace

import numpy as np
import pytest

from gradcurate.errors import NoSignalError, RunDirectoryError
from gradcurate.problems.problem import Problem
from gradcurate.scores.evidence import Weighting
from gradcurate.scores.expression import parse_expression
from gradcurate.scores.groups import Group
from gradcurate.scores.scorer import Scorer
from gradcurate.scores.stage import ScoreStage, read_stored_direction, read_validation, run_scoring
from gradcurate.scores.validation import ValidationSet
from scores.samples import DIM, write_shard

SIZE = 8
WEIGHTING = Weighting("grpo", "response-mean")
SOURCES = {"v0": "a", "v1": "a", "v2": "b", "v3": "b"}


def problem(problem_id, split):
    return Problem(problem_id, split, SOURCES.get(problem_id, "s"), (), True, "", {})


class Run:
    """Shards of a pool and a validation set, and their true derivatives."""

    def __init__(self, folder, seed=0):
        rng = np.random.default_rng(seed)
        self.folder, self.groups, self.sketches = folder, {}, {}
        signal_K = rng.normal(size=DIM)
        for split, names in (("validation", SOURCES), ("pool", [f"p{n}" for n in range(6)])):
            for problem_id in names:
                rewards = np.append(rng.integers(0, 2, SIZE - 2), [0.0, 1.0])
                lengths = rng.integers(3, 9, SIZE)
                numbers = np.arange(SIZE)
                self.groups[problem_id] = Group(problem_id, split, numbers, rewards, lengths, 0)
                own_K = signal_K + rng.normal(size=DIM)
                noise = rng.normal(size=(SIZE, DIM))
                self.sketches[problem_id] = lengths[:, None] * (np.outer(rewards - 0.5, own_K) + noise)
        self.direction = sum(self.gradient(problem_id) for problem_id in SOURCES)
        for split in ("validation", "pool"):
            self.write(split)

    def of(self, split):
        return {name: g for name, g in self.groups.items() if g.split == split}

    def weights(self, problem_id):
        return self.groups[problem_id].weights(WEIGHTING.advantage, WEIGHTING.token_weight)

    def gradient(self, problem_id):
        return self.weights(problem_id) @ self.sketches[problem_id]

    def write(self, split):
        for rollout in range(SIZE):
            rows = [
                (name, rollout, self.sketches[name][rollout], self.derivative(name, rollout, split))
                for name in self.of(split)
            ]
            write_shard(self.folder, f"{split}-{rollout}", rows)

    def derivative(self, name, rollout, split):
        return float(self.sketches[name][rollout] @ self.direction) if split == "pool" else None

    def wanted(self, split):
        return {name: g.rollouts_G.tolist() for name, g in self.of(split).items()}

    def stage(self, score="cosine", sets=None, **fields):
        groups, wanted = self.of("validation"), self.wanted("validation")
        problems = {name: problem(name, "validation") for name in SOURCES}
        whole = read_validation("validation", self.folder, problems, groups, wanted, WEIGHTING)
        stored = {name: dict(enumerate(self.weights(name).tolist())) for name in SOURCES}
        norm = float(np.linalg.norm(self.direction))
        stage = ScoreStage(
            folder=self.folder,
            problems=[problem(name, "pool") for name in self.of("pool")],
            groups=self.of("pool"),
            wanted=self.wanted("pool"),
            weighting=WEIGHTING,
            scorer=Scorer(parse_expression(score)),
            sets=(whole,) if sets is None else sets(whole),
            aggregation="sum",
            stored=read_stored_direction(self.folder, stored, norm),
        )
        return replace(stage, **fields)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def by_id(scored):
    return {row["problem_id"]: row for row in scored.table.to_pylist()}


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_scores_are_the_cosines_of_the_weighted_sums(run):
    rows = by_id(run_scoring(run.stage()))
    for name in run.of("pool"):
        assert rows[name]["score"] == pytest.approx(cosine(run.gradient(name), run.direction), abs=1e-3)
        assert rows[name]["sketched_cosine"] == pytest.approx(rows[name]["score"], abs=2e-3)
        assert rows[name]["numerator"] == "exact"
        assert rows[name]["score_low"] < rows[name]["score"] < rows[name]["score_high"]
    assert len({round(row["score"], 3) for row in rows.values()}) == 6


def test_along_each_source_scores_are_merged_and_have_no_interval(run):
    stage = run.stage(sets=ValidationSet.by_source)
    merged = by_id(
        run_scoring(replace(stage, scorer=replace(stage.scorer, merging="mean", weights=(1.0, 3.0))))
    )
    for name in run.of("pool"):
        along = [
            cosine(run.gradient(name), run.gradient(first) + run.gradient(second))
            for first, second in (("v0", "v1"), ("v2", "v3"))
        ]
        assert merged[name]["score"] == pytest.approx((along[0] + 3 * along[1]) / 4, abs=3e-3)
        assert merged[name]["score_low"] is None
        for of_one_direction in ("numerator", "dot", "dot_error", "p_against", "cosine", "sketched_cosine"):
            assert merged[name][of_one_direction] is None
        assert merged[name]["norm"] > 0


def test_what_is_believed_of_the_scores_is_said_beside_them(run):
    confidence = run_scoring(run.stage()).confidence
    [check] = confidence.sets
    assert (confidence.score, confidence.of_direction, check.name) == ("cosine", True, "validation")
    assert (check.direction.problems, check.direction.rollouts, check.cosine_error) == (4, 8.0, 0.0)
    assert confidence.ranking.problems > 4
    of_sources = run_scoring(
        replace(
            run.stage(sets=ValidationSet.by_source), scorer=Scorer(parse_expression("dot"), "max", (1.0, 1.0))
        )
    ).confidence
    assert [one.name for one in of_sources.sets] == ["a", "b"]
    assert all(one.cosine_error > 0 for one in of_sources.sets)
    assert not run_scoring(run.stage("learnability")).confidence.of_direction


def test_learnalign_is_that_of_the_gradients_of_the_pool(run):
    rows = by_id(run_scoring(run.stage("learnalign")))
    share = {name: g.pass_rate * (1 - g.pass_rate) for name, g in run.of("pool").items()}
    for name in share:
        others = sum(
            share[other] * cosine(run.gradient(name), run.gradient(other)) for other in share if other != name
        )
        assert rows[name]["score"] == pytest.approx(share[name] * others, abs=1e-3)


def test_the_corrected_cosine_knows_the_direction_s_halves(run):
    plain, corrected = (by_id(run_scoring(run.stage(score))) for score in ("cosine", "cosine_corrected"))
    halves = run_scoring(run.stage()).confidence.sets[0].direction.over_rollouts
    for name in run.of("pool"):
        least = 1 / np.sqrt(2 * halves / (1 + halves))
        assert corrected[name]["score"] / plain[name]["score"] >= least * (1 - 1e-9) > 1


def test_problems_that_lack_a_row_are_not_scored_and_change_no_other(run):
    whole = by_id(run_scoring(run.stage()))
    wanted = run.wanted("pool")
    wanted["p3"] = [*wanted["p3"], SIZE]
    rows = by_id(run_scoring(run.stage(wanted=wanted)))
    assert (rows["p3"]["status"], rows["p3"]["score"]) == ("not_sketched", None)
    for name in run.of("pool").keys() - {"p3"}:
        assert rows[name]["score"] == whole[name]["score"]


def test_a_validation_set_without_sketches_is_refused(run):
    with pytest.raises(RunDirectoryError) as raised:
        run_scoring(run.stage(sets=lambda whole: (ValidationSet(whole.name, ()),)))
    assert str(raised.value) == (
        "At least one validation problem with a learning signal must have its sketches; none has. "
        "Score into another --run."
    )


def test_a_validation_set_that_cancels_is_refused(tmp_path):
    run = Run(tmp_path)
    for name in SOURCES:
        run.sketches[name] = np.outer(run.groups[name].response_tokens_G, np.ones(DIM))
    run.write("validation")
    with pytest.raises(NoSignalError, match="they cancel: equal completions have different rewards"):
        run_scoring(run.stage())


def test_problems_without_a_signal_and_without_rollouts_are_in_the_table(run):
    stage = run.stage()
    dead = Group("dead", "pool", np.arange(2), np.ones(2), np.ones(2, dtype=int), 0)
    problems = [*stage.problems, problem("dead", "pool"), problem("none", "pool")]
    stage = replace(stage, problems=problems, groups={**stage.groups, "dead": dead})
    rows = by_id(run_scoring(stage))
    assert (rows["dead"]["status"], rows["none"]["status"]) == ("all_correct", "no_rollouts")
    assert rows["p0"]["status"] == "scored"


def test_scores_of_no_seed_but_random_depend_on_it(run):
    for score, differs in (("cosine", False), ("random", True)):
        first, second = (by_id(run_scoring(run.stage(score, seed=seed))) for seed in (0, 1))
        assert (first != second) == differs
