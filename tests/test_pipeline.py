"""The order of the stages: what a run holds, when it goes on, and when it refuses to."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gradcurate
from finished_runs import contents, finish
from gradcurate.errors import (
    NoSignalError,
    NumericalError,
    PolicyError,
    ProblemsError,
    RewardError,
    RunDirectoryError,
)
from gradcurate.scores.ranking import SCORES_SCHEMA
from gradcurate.selection.selection import SELECTION_SCHEMA
from tiny_models import save_tiny_checkpoint, tiny_llama

RUN = "runs/1"


@pytest.fixture
def finished(workspace, tmp_path_factory):
    return finish(workspace, tmp_path_factory)


def write_rows(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_reward(body):
    Path("rewards.py").write_text(f"def parity(data_source, solution_str, ground_truth, extra_info):\n{body}")


def shard_times(run):
    paths = [path for stage in ("rollouts", "sketches") for path in (Path(run) / stage).glob("*.parquet")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def fingerprint(path):
    return json.loads(pq.read_metadata(path).metadata[b"gradcurate"])["fingerprint"]


# What a run holds


def test_stage_by_stage_gives_the_bytes_of_score_alone(finished):
    other = finished | {"run": "runs/2"}
    rolled_out = gradcurate.rollout(**other)
    assert not Path("runs/2/sketches").exists()
    sketched = gradcurate.sketch(**other)
    assert not Path("runs/2/scores.parquet").exists()
    gradcurate.score(**other)
    alone, staged = contents(RUN), contents("runs/2")
    assert alone.keys() == staged.keys()
    assert [name for name in alone if alone[name] != staged[name]] == ["run.json"]
    assert rolled_out.rollouts == (12 + 5) * 4
    assert sketched.sketches == sum(
        pq.read_metadata(path).num_rows for path in Path(RUN, "sketches").iterdir()
    )


def test_another_seed_samples_other_rollouts(finished):
    gradcurate.rollout(**finished | {"run": "runs/2", "seed": 1})
    texts = [
        [row for path in sorted(Path(run, "rollouts").iterdir()) for row in pq.read_table(path)["completion"]]
        for run in (RUN, "runs/2")
    ]
    assert len(texts[0]) == len(texts[1])
    assert texts[0] != texts[1]


def test_a_second_score_changes_nothing_but_the_record_of_the_command(finished):
    before, times = contents(RUN), shard_times(RUN)
    gradcurate.score(**finished)
    after = contents(RUN)
    assert {name for name in after if after[name] != before.get(name)} <= {"run.json"}
    assert after.keys() == before.keys()
    assert shard_times(RUN) == times


def test_scores_and_selection_keep_their_schemas(finished):
    gradcurate.select(RUN, top_k=2, accept_unreliable=True)
    for name, schema in (("scores", SCORES_SCHEMA), ("selection", SELECTION_SCHEMA)):
        table = pq.read_table(f"{RUN}/{name}.parquet")
        assert table.schema.remove_metadata().equals(schema)
        assert len(table) == 12
    ranks = [rank for rank in pq.read_table(f"{RUN}/scores.parquet")["rank"].to_pylist() if rank]
    assert ranks == list(range(1, len(ranks) + 1))


def test_a_missing_shard_is_made_again_as_it_was(finished):
    before = contents(RUN)
    for stage in ("rollouts", "sketches"):
        next(Path(RUN, stage).glob("pool-*.parquet")).unlink()
    assert contents(RUN) != before
    gradcurate.score(**finished)
    after = contents(RUN)
    assert [name for name in before if before[name] != after[name]] == ["run.json"]


# What it refuses to go on from


def refusal(path, *changes):
    return (
        "A run directory is resumed only with the settings and inputs it was made with; "
        f"{path} differs in {', '.join(changes)}. Use the settings of run.json, or choose another --run."
    )


def first_shard(stage):
    return sorted(Path(RUN, stage).glob("*.parquet"))[0]


@pytest.mark.parametrize(
    ("stage", "changed", "difference"),
    [
        ("rollouts", {"temperature": 0.5}, ["temperature 1.0 -> 0.5"]),
        ("rollouts", {"seed": 3, "max_tokens": 9}, ["max_tokens 8 -> 9", "seed 0 -> 3"]),
        ("sketches", {"sketch_dim": 512}, ["sketch_dim 256 -> 512"]),
        ("sketches", {"advantage": "rloo"}, ["advantage 'grpo' -> 'rloo'"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_other_settings_are_refused_by_name(finished, stage, changed, difference):
    before = contents(RUN)
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.score(**finished | changed)
    assert str(caught.value) == refusal(first_shard(stage), *difference)
    assert contents(RUN) == before


def test_another_pool_is_refused(finished):
    lines = Path("pool.jsonl").read_text().splitlines(keepends=True)
    Path("pool.jsonl").write_text("".join(lines[:-1]))
    stored = fingerprint(f"{RUN}/problems.parquet")["problems"]
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.score(**finished)
    start, end = refusal(f"{RUN}/problems.parquet", f"problems '{stored}' -> 'NEW'").split("NEW")
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)


@pytest.mark.parametrize("key", ["policy", "reward_file"])
def test_other_weights_and_another_reward_file_are_refused_by_name(finished, tmp_path, key):
    if key == "policy":
        finished["model"] = str(save_tiny_checkpoint(tmp_path / "other", seed=1))
    else:
        Path("rewards.py").write_text(Path("rewards.py").read_text() + "# another thought\n")
    stored = fingerprint(first_shard("rollouts"))[key]
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.score(**finished)
    start, end = refusal(first_shard("rollouts"), f"{key} '{stored}' -> 'NEW'").split("NEW")
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)


def test_settings_that_change_no_row_may_change(finished):
    times = shard_times(RUN)
    gradcurate.score(
        **finished | {"reward_timeout_seconds": 3.0, "device": "cpu", "reward_workers": 2},
    )
    assert shard_times(RUN) == times
    assert json.loads(Path(RUN, "run.json").read_text())["settings"]["reward_timeout_seconds"] == 3.0


def test_sketching_waits_for_every_rollout(finished):
    shard = next(Path(RUN, "rollouts").glob("pool-*.parquet"))
    lacking = len(set(pq.read_table(shard)["problem_id"].to_pylist()))
    shard.unlink()
    before = contents(RUN)
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.sketch(**finished)
    assert str(caught.value) == (
        "Every problem must have its rollouts before any is sketched; "
        f"{lacking} of 17 problems in {RUN} have none yet. Run `gradcurate rollout` first."
    )
    assert {name for name, content in contents(RUN).items() if content != before[name]} <= {"run.json"}


def test_sketching_a_run_that_is_not_there_makes_none(workspace):
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.sketch(**workspace)
    assert str(caught.value) == (
        "runs/1/problems.parquet must exist; that stage has not finished in this run directory. "
        "Run `gradcurate rollout` first."
    )
    assert not Path(RUN).exists()


# Rewards


def test_without_a_mixed_validation_problem_nothing_is_sketched(workspace):
    write_reward("    return 1.0\n")
    with pytest.raises(NoSignalError) as caught:
        gradcurate.score(**workspace)
    first = sorted(
        row["problem_id"]
        for row in pq.read_table(f"{RUN}/problems.parquet").to_pylist()
        if row["split"] == "validation"
    )[0]
    assert str(caught.value) == (
        "At least one validation problem must have rollouts of different rewards; of 5 problems, "
        "5 all_correct. Use more --rollouts, a higher --temperature, a larger --max-tokens, or validation "
        "problems that the policy solves sometimes, and a new --run; "
        f"`gradcurate inspect --run {RUN} {first}` shows what it answered."
    )
    assert caught.value.exit_code == 3
    shards = list(Path(RUN, "rollouts").iterdir())
    assert sum(pq.read_metadata(path).num_rows for path in shards) == 5 * 4
    assert all(path.name.startswith("validation-") for path in shards)
    assert not Path(RUN, "sketches").exists()
    assert not Path(RUN, "validation").exists()


def test_a_reward_that_always_fails_is_named_as_the_reason(workspace):
    write_reward("    raise ValueError('no judge')\n")
    with pytest.raises(NoSignalError) as caught:
        gradcurate.score(**workspace)
    assert caught.value.received == "of 5 problems, 5 failed"
    assert caught.value.remedy.startswith(
        "The reward failed at first with 'ValueError: no judge': correct that. Else use more --rollouts, "
    )


def test_a_reward_that_fails_at_times_costs_those_rollouts_alone(workspace):
    # Of four rollouts some contain a letter below "g", and are not judged.
    write_reward(
        "    if any(letter in solution_str for letter in 'abcdef'):\n"
        "        raise ValueError('unjudged')\n"
        "    return float(len(solution_str) % 2 if len(solution_str) < 8 else solution_str > '@')\n"
    )
    summary = gradcurate.score(**workspace)
    rollouts = pa.concat_tables([pq.read_table(path) for path in Path(RUN, "rollouts").iterdir()]).to_pylist()
    unjudged = [row for row in rollouts if set(row["completion"]) & set("abcdef")]
    assert unjudged
    assert unjudged == [row for row in rollouts if row["reward"] is None]
    assert {row["reward_detail"] for row in unjudged} == {'{"error": "ValueError: unjudged"}'}
    assert summary.failed_rollouts == len(unjudged)
    scores = pq.read_table(f"{RUN}/scores.parquet").to_pylist()
    for row in scores:
        mine = [r for r in unjudged if (r["problem_id"], r["split"]) == (row["problem_id"], "pool")]
        assert (row["failed_rollouts"], row["rollouts"]) == (len(mine), 4 - len(mine))
    assert any(row["failed_rollouts"] and row["score"] is not None for row in scores)
    sketched = {
        (row["problem_id"], row["rollout"])
        for path in Path(RUN, "sketches").glob("pool-*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    assert not sketched & {(row["problem_id"], row["rollout"]) for row in unjudged if row["split"] == "pool"}


def test_a_pool_without_signal_has_statuses_and_no_scores(workspace):
    write_reward("    return float(int(ground_truth) >= 200 and len(solution_str) % 2)\n")
    summary = gradcurate.score(**workspace)
    assert summary.pool_statuses == {"all_wrong": 12}
    assert summary.best == summary.worst == ()
    assert pq.read_table(f"{RUN}/scores.parquet")["score"].null_count == 12
    with pytest.raises(NoSignalError) as caught:
        gradcurate.verify(RUN)
    assert str(caught.value) == (
        "At least 2 problems must have a score to compare rankings; none of the pool has one. "
        "Score a larger pool, or use more --rollouts or a higher --temperature."
    )


def test_a_reward_that_does_not_import_leaves_no_run_directory(workspace):
    Path("rewards.py").write_text("import no_such_module\n")
    with pytest.raises(RewardError) as caught:
        gradcurate.score(**workspace)
    assert (
        caught.value.expected
        == f"the reward file {Path('rewards.py').absolute()} must import without an error"
    )
    assert "No module named 'no_such_module' (line 1)" in caught.value.received
    assert not Path("runs").exists()


# Inputs that cannot be used leave no run directory


def missing_file():
    return (
        {"pool": "pol.jsonl"},
        ProblemsError,
        (
            "pol.jsonl: expected a file, or a hub dataset as org/name[:config][:split]; "
            "there is no such file. Did you mean pool.jsonl?"
        ),
    )


def unreadable_row():
    with Path("pool.jsonl").open("a") as file:
        file.write('{"question": \n')
    return {}, ProblemsError, "pool.jsonl:13: expected "


def missing_column():
    write_rows("pool.jsonl", [{"question": "1?", "reply": "1"}])
    return (
        {"answer_column": "answer"},
        ProblemsError,
        ("pool.jsonl: expected the column 'answer' of --answer-column; the columns are question, reply. "),
    )


def empty_pool():
    Path("pool.jsonl").write_text("")
    return {}, ProblemsError, "pool.jsonl: expected at least one row; the file is empty. Write it again."


def duplicate_ids():
    write_rows("pool.jsonl", [{"id": 7, "question": f"{n}?", "answer": str(n)} for n in range(2)])
    return (
        {},
        ProblemsError,
        "pool.jsonl:2: expected an id of its own in column 'id'; lines 1 and 2 both have '7'. ",
    )


def not_a_checkpoint():
    Path("empty").mkdir()
    return (
        {"model": "empty"},
        PolicyError,
        "A checkpoint folder holds config.json and weights (*.safetensors or *.bin); "
        "empty has no config.json and no weights. ",
    )


def no_template_for_messages():
    folder = save_tiny_checkpoint(Path("plain"))
    (folder / "chat_template.jinja").unlink()
    write_rows("pool.jsonl", [{"prompt": [{"role": "user", "content": "1?"}], "answer": "1"}])
    return (
        {"model": str(folder)},
        PolicyError,
        "Prompts given as messages need a tokenizer with a chat template; this one has none. ",
    )


def too_long_a_prompt():
    write_rows("pool.jsonl", [{"question": "1" * 200, "answer": "1"}])
    return (
        {},
        ProblemsError,
        "pool.jsonl:1: prompt and response must fit the policy's context of 128 tokens; its prompt has ",
    )


def no_such_device():
    return {"device": "cuda:99"}, PolicyError, "--device must name a device of this machine; 'cuda:99': "


def truncated_weights():
    folder = save_tiny_checkpoint(Path("truncated"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return {"model": str(folder)}, PolicyError, "The model of truncated must load with transformers; "


def no_such_modules():
    return (
        {"modules": "attention.*"},
        PolicyError,
        "Every pattern of --modules must match a module of the policy; 'attention.*' matches none of ",
    )


def tokens_without_an_embedding():
    folder = save_tiny_checkpoint(Path("small"), vocab_size=20)
    return (
        {"model": str(folder)},
        PolicyError,
        "The model must have an embedding for every token of the prompts; it has 20, and its tokenizer ",
    )


def run_path_of_a_file():
    Path("taken").write_text("")
    return (
        {"run": "taken"},
        RunDirectoryError,
        "taken must be a place that can be written to; File exists. Check the path, its permissions, ",
    )


def test_a_folder_of_other_files_is_left_alone(workspace):
    Path(RUN).mkdir(parents=True)
    Path(RUN, "run.json").write_text("mine")
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.score(**workspace)
    assert str(caught.value) == (
        "A new run needs a folder of its own; runs/1 holds run.json and no problems.parquet. "
        "Choose another --run."
    )
    assert contents(RUN) == {"run.json": b"mine"}


@pytest.mark.parametrize(
    "spoil",
    [
        missing_file,
        unreadable_row,
        missing_column,
        empty_pool,
        duplicate_ids,
        not_a_checkpoint,
        no_template_for_messages,
        too_long_a_prompt,
        no_such_device,
        truncated_weights,
        no_such_modules,
        tokens_without_an_embedding,
        run_path_of_a_file,
    ],
)
def test_unusable_inputs_are_named_and_leave_no_run_directory(workspace, spoil):
    changed, kind, message = spoil()
    with pytest.raises(kind) as caught:
        gradcurate.score(**workspace | changed)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2
    assert not Path("runs").exists()


# Verification


def test_scores_agree_with_exact_gradients(finished):
    found = gradcurate.verify(RUN, problems=5)
    assert (found.problems, found.sketch_dim, found.ideal_rmse) == (5, 256, 1 / 16)
    assert found.direction_error < 1e-5
    assert found.score.spearman > 0.9
    assert found.score.rmse < found.sketched_cosine.rmse


def test_verification_sees_a_score_that_is_wrong(finished):
    path = Path(RUN, "scores.parquet")
    scores = pq.read_table(path)
    turned = pa.array([None if value is None else -value for value in scores["cosine"].to_pylist()])
    column = scores.schema.get_field_index("cosine")
    pq.write_table(scores.set_column(column, scores.schema.field("cosine"), turned), path)
    assert gradcurate.verify(RUN).score.spearman < -0.9


def test_a_changed_checkpoint_is_not_verified(workspace, tmp_path):
    workspace["model"] = str(save_tiny_checkpoint(tmp_path / "model"))
    gradcurate.score(**workspace)
    tiny_llama(seed=1).save_pretrained(workspace["model"])
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.verify(RUN)
    assert str(caught.value) == (
        "A run is verified with the checkpoint it was made with; the files of "
        f"{workspace['model']} have changed since. "
        "Restore that checkpoint, or score the new one into another --run."
    )


# Rows set aside


def test_rows_set_aside_are_counted_and_no_longer_once_the_file_is_corrected(workspace):
    whole = Path("pool.jsonl").read_text()
    Path("pool.jsonl").write_text(whole + '{"question": "a\u2028b"}\n{oops\n')
    assert gradcurate.rollout(**workspace, on_bad_row="skip").bad_rows == 2
    assert gradcurate.score(**workspace, on_bad_row="skip").bad_rows == 2
    Path("pool.jsonl").write_text(whole)
    assert gradcurate.score(**workspace, on_bad_row="skip").bad_rows == 0


# Damaged files of a run


@pytest.mark.parametrize("verb", ["score", "verify"])
def test_a_damaged_direction_is_named(finished, verb):
    direction = Path(RUN, "validation/direction.safetensors")
    direction.write_bytes(b"junk")
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.score(**finished) if verb == "score" else gradcurate.verify(RUN)
    assert str(caught.value).startswith(
        f"{direction} must be a direction that this version of gradcurate wrote; it is not: SafetensorError: "
    )
    direction.unlink()
    gradcurate.score(**finished)
    assert gradcurate.verify(RUN, problems=3).direction_error < 1e-5


@pytest.mark.parametrize("lost", ["rollouts", "validation/direction.safetensors"])
def test_what_verification_needs_is_named(finished, lost):
    Path(RUN, lost).rename("elsewhere")
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.verify(RUN)
    assert caught.value.expected == f"{RUN}/{lost} must exist"


def test_damaged_metadata_is_named(finished):
    path = Path(RUN, "scores.parquet")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"gradcurate": b"{"}), path)
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.summary(RUN)
    assert caught.value.received == f"{path} is not: its gradcurate metadata is damaged"


# Nothing stale is used


def test_prompts_that_render_otherwise_are_refused(workspace, tmp_path):
    """As they do the day after, where a chat template writes the date."""
    folder = save_tiny_checkpoint(tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text("{{ strftime_now('%f') }}" + template.read_text())
    gradcurate.rollout(**workspace | {"model": str(folder)})
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.rollout(**workspace | {"model": str(folder)})
    assert " differs in prompts '" in caught.value.received


def plain(run):
    """What a run holds, but for the record of the command."""
    return {name: content for name, content in contents(run).items() if name != "run.json"}


@pytest.mark.parametrize("kept", ["direction", "partial"])
def test_a_direction_of_other_settings_is_refused(finished, kept):
    """Without its shards a direction is all that tells of the settings it was summed under."""
    folder = Path(RUN, "validation")
    (folder / "direction.safetensors").rename(folder / f"{kept}.safetensors")
    for path in Path(RUN, "sketches").iterdir():
        path.unlink()
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.score(**finished | {"batch_tokens": 32})
    assert caught.value.received == f"{folder / kept}.safetensors differs in batch_tokens 64 -> 32"


def test_a_reward_that_judges_otherwise_the_second_time_leaves_a_whole_run(workspace):
    """A lost pool shard is rewarded anew; other rollouts are live, and the old shards count no more."""
    gradcurate.score(**workspace)
    before = plain(RUN)
    lost = next(Path(RUN, "rollouts").glob("pool-*.parquet"))
    table = pq.read_table(lost)
    rewards = pa.array([0.0] * len(table), pa.float64())
    column = table.schema.get_field_index("reward")
    pq.write_table(
        table.set_column(column, table.schema.field("reward"), rewards).replace_schema_metadata(
            table.schema.metadata
        ),
        lost,
    )
    gradcurate.score(**workspace)
    sketches = list(Path(RUN, "sketches").glob("pool-*.parquet"))
    rows = [
        row for path in sketches for row in pq.read_table(path, columns=["problem_id", "rollout"]).to_pylist()
    ]
    assert len({(row["problem_id"], row["rollout"]) for row in rows}) == len(rows)
    judged_wrong = set(table["problem_id"].to_pylist())
    assert not judged_wrong & {row["problem_id"] for row in rows}
    lost.unlink()
    gradcurate.score(**workspace)
    assert plain(RUN) == before


def test_validation_rewards_that_change_under_a_finished_direction_are_refused(finished):
    path = next(Path(RUN, "rollouts").glob("validation-*.parquet"))
    table = pq.read_table(path)
    silent = table["problem_id"][0].as_py()  # one problem loses its signal, so that the cut changes too
    rows = zip(table["problem_id"].to_pylist(), table["reward"].to_pylist(), strict=True)
    turned = pa.array(
        [0.0 if problem_id == silent else 1 - reward for problem_id, reward in rows], pa.float64()
    )
    column = table.schema.get_field_index("reward")
    pq.write_table(table.set_column(column, table.schema.field("reward"), turned), path)
    times = shard_times(RUN)
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.score(**finished)
    assert " differs in validation_rollouts '" in caught.value.received
    assert shard_times(RUN) == times


def test_logits_that_are_nan_stop_the_run(workspace, tmp_path):
    model = tiny_llama()
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    folder = save_tiny_checkpoint(tmp_path / "model")
    model.save_pretrained(folder)
    with pytest.raises(NumericalError) as caught:
        gradcurate.score(**workspace | {"model": str(folder)})
    assert str(caught.value) == (
        "Every sampled token must have a log-probability; the policy's logits are NaN. "
        "Look for NaN in the checkpoint's weights; bfloat16 overflows where float32 does not."
    )
    assert not list(Path(RUN).glob("rollouts/*.parquet"))
