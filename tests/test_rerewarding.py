"""Rewards given again: rollouts and sketches stay, the ranking is that of a run made with the new ones."""

import json
import shutil
from pathlib import Path

import pytest

import gradcurate
from gradcurate.errors import NoSignalError, RunDirectoryError, SettingsError
from gradcurate.results import read_groups, read_rollouts, read_scores
from gradcurate.scoring import read_confidence
from gradcurate.store.run_directory import RunDirectory
from gradcurate.store.tables import read_table, shard_paths

REWARDS = '''
def later(data_source, solution_str, ground_truth, extra_info):
    """Another reward than the first for the pool alone: validation answers are 200 and more."""
    if int(ground_truth) >= 200:
        return float(len(solution_str) % 2)
    return {"score": float(len(solution_str) % 3 == 0), "characters": len(solution_str)}

def other(data_source, solution_str, ground_truth, extra_info):
    return float(len(solution_str) % 3 == 0)

def always(data_source, solution_str, ground_truth, extra_info):
    return 1.0

def sometimes(data_source, solution_str, ground_truth, extra_info):
    if solution_str[:1].isupper():
        raise ValueError("no capitals")
    return float(len(solution_str) % 2)
'''
FIRST = RunDirectory(Path("runs/1"))


@pytest.fixture
def finished(workspace):
    Path("later.py").write_text(REWARDS)
    gradcurate.score(**workspace)
    return workspace


def scores(run):
    return {row["problem_id"]: row for row in read_scores(run).to_pylist()}


def files(*folders):
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_the_ranking_is_that_of_a_run_made_with_these_rewards(finished):
    kept = files(FIRST.rollouts, FIRST.sketches, FIRST.direction.parent)
    before = scores(FIRST)
    report = gradcurate.reward(FIRST.root, reward="later.py:later")
    gradcurate.score(**{**finished, "reward": "later.py:later", "run": "runs/2"})
    again, fresh = scores(FIRST), scores(RunDirectory(Path("runs/2")))
    assert files(FIRST.rollouts, FIRST.sketches, FIRST.direction.parent) == kept
    assert report.changed_rewards > 0
    assert report.numerator == "exact"
    compared = 0
    for problem_id, row in again.items():
        expected = fresh[problem_id]
        assert (row["pass_rate"], row["mean_reward"]) == (expected["pass_rate"], expected["mean_reward"])
        if row["status"] == "not_sketched":
            assert (expected["status"], before[problem_id]["status"]) != ("scored", "scored")
            assert row["score"] is row["rank"] is row["numerator"] is None
        elif row["status"] == "scored":
            compared += 1
            for name in ("score", "dot", "norm", "sketched_cosine"):
                assert row[name] == pytest.approx(expected[name], rel=2e-3, abs=2e-3)
        else:
            assert row == expected
    assert compared >= 3
    assert {p for p, row in again.items() if row["score"] != before[p]["score"]}


def test_other_rewards_of_the_validation_set_leave_numerators_in_part_of_sketches(finished):
    report = gradcurate.reward(FIRST.root, reward="later.py:other")
    gradcurate.score(**{**finished, "reward": "later.py:other", "run": "runs/2"})
    again, fresh = scores(FIRST), scores(RunDirectory(Path("runs/2")))
    assert report.numerator == "sketched"
    validation = gradcurate.summary("runs/2").validation_statuses
    assert report.validation_statuses == validation
    scored = [p for p, row in again.items() if row["status"] == "scored"]
    assert scored
    error = read_confidence(FIRST).sets[0].cosine_error
    for problem_id in scored:
        row = again[problem_id]
        assert row["numerator"] == "sketched"
        assert row["score"] == pytest.approx(fresh[problem_id]["score"], abs=5 * error)
    assert {row["numerator"] for row in fresh.values()} == {"exact", None}


def test_details_are_those_of_the_new_reward(finished):
    gradcurate.reward(FIRST.root, reward="later.py:later")
    rows = read_rollouts(FIRST).to_pylist()
    pool = [row for row in rows if row["split"] == "pool"]
    assert all(json.loads(row["reward_detail"])["characters"] == len(row["completion"]) for row in pool)
    assert [row["reward"] for row in pool] == [float(len(row["completion"]) % 3 == 0) for row in pool]


def test_the_first_rewards_come_back(finished):
    before = FIRST.scores.read_bytes()
    gradcurate.reward(FIRST.root, reward="later.py:other")
    assert FIRST.scores.read_bytes() != before
    shutil.rmtree(FIRST.rewards)
    gradcurate.score(**finished)
    assert FIRST.scores.read_bytes() == before
    gradcurate.reward(FIRST.root, reward="later.py:other")
    report = gradcurate.reward(FIRST.root)  # as in the run
    assert (report.changed_rewards, report.numerator) == (0, "exact")
    assert scores(FIRST) == {row["problem_id"]: row for row in read_scores(FIRST).to_pylist()}


def test_one_that_stopped_goes_on_and_is_not_taken_for_whole(finished, monkeypatch):
    gradcurate.reward(FIRST.root, reward="later.py:other")
    whole = {path.name: path.read_bytes() for path in shard_paths(FIRST.rewards)}
    first, *others = shard_paths(FIRST.rewards)
    kept = first.stat().st_mtime_ns
    for path in others:
        path.unlink()
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.summary(FIRST.root)
    assert str(caught.value) == (
        f"Later rewards must be there for every rollout; {FIRST.rewards} has those of some. Run "
        "`gradcurate reward` again, or remove that folder to go back to the first rewards."
    )
    gradcurate.reward(FIRST.root, reward="later.py:other")
    assert {path.name: path.read_bytes() for path in shard_paths(FIRST.rewards)} == whole
    assert first.stat().st_mtime_ns == kept


def test_a_changed_file_is_another_reward(finished):
    gradcurate.reward(FIRST.root, reward="later.py:other")
    before = [path.stat().st_mtime_ns for path in shard_paths(FIRST.rewards)]
    Path("later.py").write_text(REWARDS.replace("% 3 == 0", "% 2 == 0"))
    gradcurate.reward(FIRST.root, reward="later.py:other")
    assert not set(before) & {path.stat().st_mtime_ns for path in shard_paths(FIRST.rewards)}
    rows = read_rollouts(FIRST).to_pylist()
    assert all(row["reward"] == float(len(row["completion"]) % 2 == 0) for row in rows)


def test_a_reward_without_a_signal_leaves_no_scores_of_another(finished):
    with pytest.raises(NoSignalError):
        gradcurate.reward(FIRST.root, reward="later.py:always")
    assert not FIRST.scores.exists()
    assert gradcurate.reward(FIRST.root).numerator == "exact"


def test_a_reward_that_raises_costs_its_own_rollouts(finished):
    report = gradcurate.reward(FIRST.root, reward="later.py:sometimes")
    rows = read_rollouts(FIRST).to_pylist()
    failing = [row for row in rows if row["completion"][:1].isupper()]
    assert report.failed_rollouts == len(failing) > 0
    assert {row["reward"] for row in failing} == {None}


def test_rewards_that_failed_are_given_again_and_so_are_all_with_more_time(finished):
    Path("flaky.py").write_text(
        "import pathlib\n"
        "def reward(data_source, solution_str, ground_truth, extra_info):\n"
        "    if solution_str[:1].isupper() and not pathlib.Path('mended').exists():\n"
        "        raise ValueError('down')\n"
        "    return float(len(solution_str) % 2)\n"
    )
    assert gradcurate.reward(FIRST.root, reward="flaky.py:reward").failed_rollouts > 0
    Path("mended").touch()
    assert gradcurate.reward(FIRST.root, reward="flaky.py:reward").failed_rollouts == 0
    before = [path.stat().st_mtime_ns for path in shard_paths(FIRST.rewards)]
    gradcurate.reward(FIRST.root, reward="flaky.py:reward")
    assert [path.stat().st_mtime_ns for path in shard_paths(FIRST.rewards)] == before
    gradcurate.reward(FIRST.root, reward="flaky.py:reward", reward_timeout_seconds=20)
    assert not set(before) & {path.stat().st_mtime_ns for path in shard_paths(FIRST.rewards)}


def test_validation_problems_that_the_direction_is_without_say_so(finished):
    """And verification holds the run against what it is a run of."""
    report = gradcurate.reward(FIRST.root, reward="later.py:other")
    sketched = {
        row["problem_id"]
        for path in shard_paths(FIRST.sketches)
        if path.name.startswith("validation-")
        for row in read_table(path, ["problem_id"]).to_pylist()
    }
    live = [
        group.problem_id
        for group in read_groups(FIRST)
        if (group.split, group.status) == ("validation", "scored")
    ]
    assert report.validation_statuses.get("not_sketched", 0) == len(set(live) - sketched)
    assert report.validation_statuses.get("scored", 0) == len(set(live) & sketched) > 0
    assert gradcurate.summary(FIRST.root).validation_statuses == report.validation_statuses
    found = gradcurate.verify(FIRST.root)
    assert found.direction_error is None
    assert found.score.rmse < 0.3


def test_rollouts_without_sketches_are_rewarded_and_then_scored_with_the_new_rewards(workspace):
    Path("later.py").write_text(REWARDS)
    gradcurate.rollout(**workspace)
    report = gradcurate.reward(FIRST.root, reward="later.py:other")
    assert report.numerator is None
    gradcurate.score(**workspace)
    gradcurate.score(**{**workspace, "reward": "later.py:other", "run": "runs/2"})
    fresh = scores(RunDirectory(Path("runs/2")))
    assert ranks(scores(FIRST)) == ranks(fresh)


def ranks(rows):
    return {problem_id: row["rank"] for problem_id, row in rows.items()}


def refusal(kind, **settings):
    with pytest.raises(kind) as caught:
        gradcurate.reward(FIRST.root, **settings)
    return str(caught.value)


def test_sums_of_sketches_cannot_be_weighted_again(workspace):
    gradcurate.score(**workspace, granularity="problem")
    assert refusal(RunDirectoryError) == (
        "Later rewards need a sketch for each rollout; those of runs/1 are sums (--granularity problem), "
        "weighted by the first rewards. Score into another --run."
    )


def test_a_part_of_a_run_is_not_rewarded_again(finished):
    shard = next(path for path in shard_paths(FIRST.rollouts) if path.name.startswith("pool-"))
    shard.unlink()
    assert refusal(RunDirectoryError) == (
        "Every problem must have its rollouts before they are rewarded again; 4 of 17 problems in runs/1 "
        "have none yet. Run `gradcurate rollout` first."
    )


def test_settings_of_anything_else_are_refused(finished):
    assert refusal(SettingsError, rollouts=8).startswith(
        "A run is rewarded again with settings of rewards only; 'rollouts' is none. "
    )
    assert refusal(SettingsError, reward_weight="1").endswith("Did you mean 'reward_weights'?")
