"""Scores again from stored rows: what a fresh run with those settings would say, and no model."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradcurate
from finished_runs import contents, finish
from gradcurate.errors import (
    NoSignalError,
    ProblemsError,
    RolloutsError,
    RunDirectoryError,
    SettingsError,
    UnreliableError,
)
from gradcurate.results import read_groups, read_rollouts, read_scores
from gradcurate.rollouts.exclusion import EXCLUSION_COLUMNS, read_exclusion
from gradcurate.scoring import read_confidence, score_settings
from gradcurate.store.run_directory import RunDirectory

RUN = RunDirectory(Path("runs/1"))


@pytest.fixture
def finished(workspace, tmp_path_factory):
    return finish(workspace, tmp_path_factory)


def scores(run=RUN):
    return {row["problem_id"]: row for row in read_scores(run).to_pylist()}


def column(name, run=RUN):
    return {p: row[name] for p, row in scores(run).items() if row["score"] is not None}


def test_with_nothing_given_nothing_changes(finished):
    before = contents(RUN.root)
    gradcurate.rescore(RUN.root)
    after = contents(RUN.root)
    assert {name for name in before if before[name] != after.get(name)} <= {"scores.parquet"}
    assert set(after) == set(before)
    assert column("score") == pytest.approx(column("cosine"))


@pytest.mark.parametrize("changed", [{"advantage": "dr_grpo"}, {"token_weight": "token-sum"}])
def test_other_weights_are_those_of_a_fresh_run(finished, changed):
    before = column("score")
    gradcurate.rescore(RUN.root, **changed)
    gradcurate.score(**{**finished, **changed, "run": "runs/2"})
    again, fresh = scores(), scores(RunDirectory(Path("runs/2")))
    error = read_confidence(RUN).sets[0].cosine_error
    assert 0 < error < 256**-0.5
    scored = [p for p, row in fresh.items() if row["score"] is not None]
    assert scored == [p for p in fresh if again[p]["score"] is not None]
    for p in scored:
        assert again[p]["norm"] == pytest.approx(fresh[p]["norm"], rel=2e-3)
        assert again[p]["score"] == pytest.approx(fresh[p]["score"], abs=5 * error)
        assert (again[p]["numerator"], fresh[p]["numerator"]) == ("sketched", "exact")
    assert column("score") != pytest.approx(before, abs=1e-3)


def test_a_score_of_the_same_weights_is_exact(finished):
    for kind in ("t", "dot", "lcb", "cosine-corrected", "learnalign", "norm", "rank(t) + learnability"):
        gradcurate.rescore(RUN.root, score=kind)
        found = column("score")
        assert found
        assert np.isfinite(list(found.values())).all()
        assert set(column("numerator").values()) == {"exact"}
        gradcurate.score(**{**finished, "score": kind})
        assert column("score") == found
        assert score_settings(RUN).score == kind


def test_what_is_not_given_is_as_in_the_present_scores(finished):
    gradcurate.rescore(RUN.root, score="t")
    gradcurate.rescore(RUN.root, advantage="rloo")
    assert (score_settings(RUN).score, score_settings(RUN).advantage) == ("t", "rloo")
    gradcurate.score(**finished)
    assert (score_settings(RUN).score, score_settings(RUN).advantage) == ("cosine", "grpo")


def test_later_rewards_keep_the_settings_of_the_scores(finished):
    gradcurate.rescore(RUN.root, score="t", advantage="dr_grpo")
    before = column("score")
    gradcurate.reward(RUN.root)
    assert (score_settings(RUN).score, score_settings(RUN).advantage) == ("t", "dr_grpo")
    assert column("score") == before


def test_no_model_code_is_loaded(finished):
    program = (
        "import sys, gradcurate; gradcurate.rescore('runs/1', score='t', advantage='dr_grpo');"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rollouts_are_left_out(finished):
    before = scores()
    first = next(p for p, row in before.items() if row["score"] is not None)
    Path("out.csv").write_text(f"problem_id,rollout\n{first},0\n")
    gradcurate.rescore(RUN.root, exclude_rollouts="out.csv")
    after = scores()
    assert after[first]["rollouts"] == before[first]["rollouts"] - 1
    assert after[first]["score"] != before[first]["score"]
    others = [p for p in before if p != first and before[p]["score"] is not None]
    assert [after[p]["score"] for p in others] == [before[p]["score"] for p in others]
    gradcurate.rescore(RUN.root)
    assert scores()[first]["rollouts"] == before[first]["rollouts"]


def test_truncated_rollouts_are_those_that_the_limit_ended(finished):
    rollouts = read_rollouts(RUN, EXCLUSION_COLUMNS)
    cut = {(r["problem_id"], r["rollout"]) for r in rollouts.to_pylist() if r["finish_reason"] == "length"}
    assert read_exclusion("truncated", rollouts) == cut
    assert 0 < len(cut) < len(rollouts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "problem_id,rollout\nnone,0\n",
            "--exclude-rollouts must list rollouts of the run; rollout 0 of problem none is none of it, as 0 "
            "others. Take problem_id and rollout from the run's rollouts/*.parquet.",
        ),
        (
            "id,rollout\nnone,0\n",
            "--exclude-rollouts must be truncated, or a .csv, .jsonl or .parquet file with the columns "
            "problem_id and rollout; out.csv: KeyError: ",
        ),
    ],
)
def test_a_wrong_list_is_refused(finished, content, message):
    Path("out.csv").write_text(content)
    with pytest.raises(RolloutsError) as caught:
        gradcurate.rescore(RUN.root, exclude_rollouts="out.csv")
    assert str(caught.value).startswith(message)


def test_another_run_gives_the_direction(finished):
    own = column("score")
    rows = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(200, 205)]
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gradcurate.score(**{**finished, "validation": "other.jsonl", "run": "runs/2"})
    fresh = column("sketched_cosine", RunDirectory(Path("runs/2")))
    before = column("sketched_cosine")
    gradcurate.rescore(RUN.root, validation_run="runs/2")
    again = column("score")
    assert column("sketched_cosine") == pytest.approx(fresh, abs=1e-3)
    assert fresh != pytest.approx(before, abs=1e-2)
    assert 0 < read_confidence(RUN).sets[0].cosine_error <= 256**-0.5
    gradcurate.rescore(RUN.root, validation_run=["runs/1", "runs/2"], validation_merge="max")
    assert [check.name for check in read_confidence(RUN).sets] == ["runs/1", "runs/2"]
    merged = column("score")
    assert all(merged[p] == pytest.approx(max(own[p], again[p])) for p in merged)


def test_another_runs_sketches_must_be_comparable(finished):
    gradcurate.score(**{**finished, "sketch_seed": 1, "run": "runs/2"})
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.rescore(RUN.root, validation_run="runs/2")
    assert str(caught.value) == (
        "--validation-run must be a run of the same policy with the same sketches; sketch_seed is 1 in "
        "runs/2 and 0 in runs/1. Score that validation set with this run's settings."
    )


def test_another_runs_validation_set_must_not_be_in_the_pool(finished):
    gradcurate.score(**{**finished, "validation": "pool.jsonl", "pool": "validation.jsonl", "run": "runs/2"})
    with pytest.raises(ProblemsError) as caught:
        gradcurate.rescore(RUN.root, validation_run="runs/2")
    assert str(caught.value).startswith("No problem may be in the pool and in the validation set; ")


def test_sources_are_directions_of_their_own(finished):
    whole = column("score")
    for merge in ("mean", "max", "rank-sum", "round-robin"):
        gradcurate.rescore(RUN.root, validation_merge=merge, validation_weights="sums0=2")
        confidence = read_confidence(RUN)
        assert [check.name for check in confidence.sets] == ["sums0", "sums1"]
        assert column("score").keys() == whole.keys()
        assert column("score") != pytest.approx(whole)
        assert set(column("score_low").values()) == {None}
    with pytest.raises(SettingsError) as caught:
        gradcurate.rescore(RUN.root, validation_weights="sum0=2")
    assert str(caught.value) == (
        "--validation-weights must name sources of the validation set; 'sum0' is none, or has no signal. "
        "Did you mean 'sums0'?"
    )
    with pytest.raises(SettingsError) as caught:
        gradcurate.rescore(RUN.root, validation_weights="sums0=-1")
    assert str(caught.value) == (
        "--validation-weights must give sources positive numbers; 'sums0=-1' was given. Write them as in "
        "amc=2,aime=1."
    )


def test_unit_gradients_have_the_same_say(finished):
    whole = column("score")
    gradcurate.rescore(RUN.root, validation_aggregation="unit-mean")
    error = read_confidence(RUN).sets[0].cosine_error
    assert error > 0
    assert column("score") != pytest.approx(whole, abs=1e-6)


def test_only_settings_of_scores_are_taken(finished):
    with pytest.raises(SettingsError) as caught:
        gradcurate.rescore(RUN.root, scores="t")
    assert str(caught.value) == (
        "A run is scored again with settings of scores only; 'scores' is none. Did you mean 'score'?"
    )


def test_a_score_that_does_not_exist_is_refused_before_anything_is_written(workspace):
    with pytest.raises(SettingsError) as caught:
        gradcurate.score(**workspace, score="cosin")
    assert str(caught.value) == (
        "--score must be a signal, or an expression of signals, numbers and functions; in 'cosin', 'cosin' "
        "is no signal. Did you mean 'cosine'?"
    )
    assert not RUN.root.exists()


def test_sums_of_problems_have_no_error(workspace):
    workspace["granularity"] = "problem"
    with pytest.raises(SettingsError) as caught:
        gradcurate.score(**workspace, score="rank(t) + 1")
    assert str(caught.value) == (
        "--score t needs a sketch for each rollout; --granularity problem keeps one sum for each problem. "
        "Use --granularity rollout in a new --run, or --score cosine or dot."
    )
    gradcurate.score(**workspace)
    assert set(column("score_low").values()) == {None}
    assert read_confidence(RUN).ranking is None
    assert read_confidence(RUN).sets[0].direction.over_rollouts is None
    assert read_confidence(RUN).sets[0].direction.over_problems is not None


class TestReferenceAnswers:
    def test_without_their_sketches_they_are_refused(self, finished):
        with pytest.raises(RunDirectoryError) as caught:
            gradcurate.rescore(RUN.root, score="gold")
        assert str(caught.value) == (
            "--score gold needs the sketches of reference answers; the run has none. Run `gradcurate score "
            "--score gold` with the settings of run.json: only they are made anew."
        )

    def test_they_rank_problems_that_the_policy_never_solves(self, finished):
        kept = contents(RUN.root)
        gradcurate.score(**finished, score="gold")
        after = contents(RUN.root)
        new = {name for name in after if "/" in name and after[name] != kept.get(name)}
        assert {name.partition("-reference-")[0] for name in new} <= {
            "sketches/pool",
            "validation/second_seed.parquet",
        }
        found = scores()
        assert all(row["score"] is not None for row in found.values())
        assert any(row["pass_rate"] in (0, 1) for row in found.values())
        gradcurate.score(**finished)  # their shards stay
        assert {name for name in contents(RUN.root) if "-reference-" in name} == {
            name for name in after if "-reference-" in name
        }
        gradcurate.rescore(RUN.root, score="gold")
        assert scores() == found

    @pytest.mark.parametrize("signal", ["gold", "both"])
    def test_they_make_the_direction(self, workspace, signal):
        gradcurate.score(**workspace, validation_signal=signal)
        assert set(column("numerator").values()) == {"exact"}
        gradcurate.score(**{**workspace, "run": "runs/2"})
        assert column("score") != pytest.approx(column("score", RunDirectory(Path("runs/2"))), abs=1e-3)
        exact = column("score")
        gradcurate.rescore(RUN.root, validation_signal="policy")
        assert set(column("numerator").values()) == {"sketched"}
        gradcurate.rescore(RUN.root, validation_signal=signal)
        assert column("score") == exact

    def test_they_make_the_direction_where_the_policy_always_fails(self, workspace):
        Path("rewards.py").write_text(
            "def parity(data_source, solution_str, ground_truth, extra_info):\n"
            "    return 0.0 if int(ground_truth) >= 200 else float(len(solution_str) % 2)\n"
        )
        with pytest.raises(NoSignalError):
            gradcurate.score(**workspace)
        gradcurate.score(**{**workspace, "run": "runs/2"}, validation_signal="both")
        assert column("score", RunDirectory(Path("runs/2")))

    def test_a_column_that_is_not_there_is_refused_before_anything_is_written(self, workspace):
        with pytest.raises(ProblemsError) as caught:
            gradcurate.score(**workspace, score="gold", gold_column="anser")
        assert str(caught.value).startswith("--gold-column must name a column of every problem; problem ")
        assert str(caught.value).endswith(" of the pool has no 'anser'. Did you mean 'answer'?")
        assert not RUN.root.exists()


class TestGate:
    """A random model's validation direction is noise."""

    def test_a_selection_stops_and_can_be_insisted_on(self, finished):
        confidence = read_confidence(RUN)
        assert confidence.doubtful
        with pytest.raises(UnreliableError) as caught:
            gradcurate.select(RUN.root, top_k=2)
        assert "--accept-unreliable" in str(caught.value)
        assert not RUN.selection.exists()
        report = gradcurate.select(RUN.root, top_k=2, accept_unreliable=True)
        assert report.notes[0].startswith("Selected although the validation direction (validation) is mostly")
        assert Path(report.recipe).read_text().startswith(f"> **Warning.** {report.notes[0]}")

    def test_a_score_without_a_direction_passes(self, finished):
        gradcurate.rescore(RUN.root, score="learnability")
        report = gradcurate.select(RUN.root, top_k=2)
        assert report.notes == ()
        assert not Path(report.recipe).read_text().startswith(">")

    def test_an_audit_stops(self, finished):
        gradcurate.rescore(RUN.root, score="learnability")
        with pytest.raises(UnreliableError):
            gradcurate.audit(RUN.root)
        assert not RUN.audit.exists()


@pytest.fixture
def believed(finished):
    """A run whose direction is declared to be believable."""
    saved = json.loads(RUN.reliability.read_text())
    saved["sets"][0]["direction"]["over_rollouts"] = 0.9
    RUN.reliability.write_text(json.dumps(saved))
    return finished


def test_an_audit_lists_what_points_the_other_way(believed):
    report = gradcurate.audit(RUN.root, false_share=0.9, out="suspects.csv")
    against = [s for s in report.suspects if s.reason == "against"]
    probable = sorted(row["p_against"] for row in scores().values() if row["p_against"] is not None)
    assert report.tested == len(probable)
    assert [s.p_against for s in against] == probable[: len(against)]
    with Path("suspects.csv").open() as file:
        assert [row["problem_id"] for row in csv.DictReader(file)] == [s.problem_id for s in report.suspects]
    assert against
    assert gradcurate.audit(RUN.root, false_share=1e-9).suspects == ()


def test_the_groups_of_a_run_are_those_of_its_scores(finished):
    """The control of the tests above: a rollout that is left out is in the run nevertheless."""
    gradcurate.rescore(RUN.root, score="t")
    assert {len(group.rewards_G) + group.failed for group in read_groups(RUN)} == {4}


class TestWhatIsNotKept:
    """What a run's rows cannot answer is refused, and never answered by something else."""

    def test_sums_are_not_weighed_anew(self, workspace):
        gradcurate.score(**workspace, granularity="problem")
        gradcurate.rescore(RUN.root, score="dot")
        first = next(p for p, row in scores().items() if row["score"] is not None)
        Path("out.csv").write_text(f"problem_id,rollout\n{first},0\n")
        for changed, what in (
            ({"advantage": "maxrl"}, "another --advantage"),
            ({"token_weight": "token-sum"}, "another --token-weight"),
            ({"exclude_rollouts": "out.csv"}, "--exclude-rollouts"),
        ):
            with pytest.raises(SettingsError) as caught:
                gradcurate.rescore(RUN.root, **changed)
            assert str(caught.value) == (
                f"Scores with {what} need a sketch for each rollout; runs/1 has one weighted sum for each "
                "problem (--granularity problem). Score into another --run."
            )

    def test_another_runs_direction_is_not_taken_for_the_own(self, workspace):
        """Sums have the same names and weights in both runs."""
        workspace["granularity"] = "problem"
        gradcurate.score(**workspace)
        own = column("score")
        gradcurate.score(**{**workspace, "run": "runs/2", "seed": 1})
        gradcurate.rescore(RUN.root, validation_run="runs/2")
        assert set(column("numerator").values()) == {"sketched"}
        assert column("score") != pytest.approx(own, abs=1e-3)
        gradcurate.rescore(RUN.root, validation_run="runs/1")
        assert column("score") == own

    def test_weights_that_are_all_zero_are_no_score(self, workspace):
        """With two successes the best rewards are equal."""
        gradcurate.score(**workspace)
        for kind in ("dot", "cosine"):
            gradcurate.rescore(RUN.root, advantage="grpo_passk", score=kind)
            for row in scores().values():
                tied = row["rollouts"] * (row["pass_rate"] or 0) > 1
                assert (row["score"] is None) or not tied
                assert row["score"] != 0
        json.loads(RUN.reliability.read_text(), parse_constant=lambda name: pytest.fail(name))

    def test_a_part_of_the_sketches_is_not_ranked(self, finished):
        next(path for path in RUN.sketches.iterdir() if path.name.startswith("pool-")).unlink()
        with pytest.raises(RunDirectoryError, match="Every rollout of a group with a learning signal must"):
            gradcurate.rescore(RUN.root)

    def test_a_whole_split_can_not_be_left_out(self, finished):
        rows = read_rollouts(RUN, ["problem_id", "split", "rollout"]).to_pylist()
        listed = [f"{r['problem_id']},{r['rollout']}" for r in rows if r["split"] == "validation"]
        Path("out.csv").write_text("\n".join(["problem_id,rollout", *listed]) + "\n")
        with pytest.raises(NoSignalError, match="of 5 problems, 5 no_rollouts"):
            gradcurate.rescore(RUN.root, exclude_rollouts="out.csv")

    def test_reference_answers_that_are_not_there_are_not_left_out(self, finished):
        with pytest.raises(RunDirectoryError, match="--validation-signal both needs the sketches of"):
            gradcurate.rescore(RUN.root, validation_signal="both")

    def test_a_column_without_answers_is_refused_before_anything_is_written(self, workspace):
        rows = [json.loads(line) for line in Path("pool.jsonl").read_text().splitlines()]
        Path("pool.jsonl").write_text("".join(json.dumps({**row, "gold": ""}) + "\n" for row in rows))
        with pytest.raises(ProblemsError, match="no problem of the pool has such a one"):
            gradcurate.score(**workspace, score="gold", gold_column="gold")
        assert not RUN.root.exists()

    def test_weights_of_directions_need_directions(self, workspace):
        with pytest.raises(SettingsError, match="--validation-weights weigh the directions that"):
            gradcurate.score(**workspace, validation_weights="sums0=2")
        with pytest.raises(SettingsError, match="Did you mean 'sums0'"):
            gradcurate.score(**workspace, validation_merge="mean", validation_weights="sum0=2")
        assert not RUN.root.exists()

    def test_directions_that_need_sketches_are_refused_without(self, workspace):
        with pytest.raises(SettingsError, match="--validation-aggregation and --validation-merge need"):
            gradcurate.score(**workspace, scorer="forward", score="t", validation_aggregation="unit-mean")
        assert not RUN.root.exists()
