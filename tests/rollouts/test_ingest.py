"""Rollouts from trainers' dumps: read, matched, and ranked as sampled ones are."""

import json
from pathlib import Path

import numpy as np
import pytest

import gradcurate
from finished_runs import finish
from gradcurate.errors import RolloutsError, SettingsError
from gradcurate.rollouts.engines import transformers_engine
from gradcurate.rollouts.ingest.dumps import dump_files, read_dump
from gradcurate.rollouts.ingest.formats import READERS
from gradcurate.store.tables import read_table, shard_paths
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
FIRST = "runs/1"


@pytest.fixture
def finished(workspace, tmp_path_factory, monkeypatch):
    finish(workspace, tmp_path_factory)
    monkeypatch.setattr(transformers_engine, "sample_completions", None)  # nothing is sampled from here on
    return workspace


def sampled():
    return [row for path in shard_paths(Path(FIRST, "rollouts")) for row in read_table(path).to_pylist()]


def write_lines(records, file="dump/7.jsonl"):
    Path(file).parent.mkdir(exist_ok=True, parents=True)
    Path(file).write_text("".join(json.dumps(record) + "\n" for record in records))
    return "dump"


def verl(row):
    prompt = TOKENIZER.decode(row["prompt_token_ids"], skip_special_tokens=True)
    return {"input": prompt, "output": row["completion"], "gts": "?", "score": row["reward"], "step": 7}


def open_instruct(row):
    return {
        "prompt_tokens": row["prompt_token_ids"],
        "response_tokens": row["completion_token_ids"],
        "reward": row["reward"],
        "logprobs": row["sampling_logprobs"],
    }


def nemo_rl(row):
    prompt, completion = row["prompt_token_ids"], row["completion_token_ids"]
    padding = [0] * 3
    record = {
        "content": "as text",
        "rewards": row["reward"],
        "input_lengths": len(prompt) + len(completion),
        "token_ids": prompt + completion + padding,
        "token_loss_mask": [0] * len(prompt) + [1] * len(completion) + padding,
        "generation_logprobs": [0.0] * len(prompt) + row["sampling_logprobs"] + padding,
    }
    return {name: [value] for name, value in record.items()} | {"idx": 3}


def prime_rl(row):
    """The template's last token is the head of the sampled message, which its mask leaves out."""
    *prompt_ids, head = row["prompt_token_ids"]
    prompt = TOKENIZER.decode(row["prompt_token_ids"], skip_special_tokens=True)
    sampled_node = {
        "message": {"role": "assistant", "content": row["completion"]},
        "sampled": True,
        "token_ids": [head, *row["completion_token_ids"]],
        "mask": [False] + [True] * len(row["completion_token_ids"]),
        "logprobs": row["sampling_logprobs"],
    }
    asked = {"message": {"role": "user", "content": prompt}, "sampled": False, "token_ids": prompt_ids}
    rewards = {"right": {"score": row["reward"], "weight": 1.0}}
    return {"task": {"type": "t"}, "traces": [{"nodes": [asked, sampled_node], "rewards": rewards}]}


WRITERS = {"open-instruct": open_instruct, "nemo-rl": nemo_rl, "prime-rl": prime_rl}


def scores(run):
    rows = read_table(Path(run, "scores.parquet")).to_pylist()
    return {row["problem_id"]: (row["status"], row["score"]) for row in rows}


@pytest.mark.parametrize("trainer", WRITERS)
def test_a_dump_with_tokens_is_ranked_as_the_rollouts_themselves(finished, trainer):
    dump = write_lines([WRITERS[trainer](row) for row in sampled()])
    summary = gradcurate.score(**finished | {"run": "runs/2", "dump": dump})
    assert summary.checks.dump == {"matched": len(sampled()), "unmatched": 0, "ambiguous": 0, "unusable": 0}
    assert summary.checks.logprob_gap < 1e-3
    found, expected = scores("runs/2"), scores(FIRST)
    assert found.keys() == expected.keys()
    for problem_id, (status, score) in expected.items():
        assert found[problem_id] == (status, score and pytest.approx(score, abs=1e-6))


def survives_as_text(tokens):
    ended = tokens[:-1] if tokens[-1] == TOKENIZER.eos_token_id else tokens
    return not set(ended) & set(TOKENIZER.all_special_ids)


def test_stale_rollouts_are_weighed_token_by_token(finished):
    """As if an earlier policy had found every other token half as likely."""
    rows = sampled()
    for row in rows:
        row["sampling_logprobs"] = [
            logprob - (0.7 if place % 2 else 0.0) for place, logprob in enumerate(row["sampling_logprobs"])
        ]
    settings = finished | {"dump": write_lines(map(open_instruct, rows)), "mismatch_limit": 1.0}
    gradcurate.score(**settings | {"run": "runs/2"})
    gradcurate.score(**settings | {"run": "runs/3", "importance_cap": 0.0})
    found, plain, first = (scores(run) for run in ("runs/2", "runs/3", FIRST))
    scored = [problem_id for problem_id, (status, _) in first.items() if status == "scored"]
    for problem_id in scored:
        assert plain[problem_id][1] == pytest.approx(first[problem_id][1], abs=1e-6)
        assert found[problem_id][1] != pytest.approx(first[problem_id][1], abs=1e-4)
    assert gradcurate.verify("runs/2").score.rmse < 0.1
    assert gradcurate.verify("runs/2").direction_error < 1e-5


def test_a_dump_of_text_is_close_and_says_so(finished):
    """Special tokens among the sampled are lost, and nothing else."""
    whole = [row for row in sampled() if survives_as_text(row["completion_token_ids"])]
    summary = gradcurate.score(**finished | {"run": "runs/2", "dump": write_lines(map(verl, sampled()))})
    assert summary.checks.logprob_kl is None
    rows = [row for path in shard_paths(Path("runs/2/rollouts")) for row in read_table(path).to_pylist()]
    assert {row["provenance"] for row in rows} == {"text"}
    found = {(row["problem_id"], tuple(row["completion_token_ids"])) for row in rows}
    assert whole
    assert found >= {(row["problem_id"], tuple(row["completion_token_ids"])) for row in whole}


def test_problems_that_the_dump_lacks_have_a_status_and_no_score(finished):
    absent = next(row["problem_id"] for row in sampled() if row["split"] == "pool")
    dump = write_lines([open_instruct(row) for row in sampled() if row["problem_id"] != absent])
    summary = gradcurate.score(**finished | {"run": "runs/2", "dump": dump})
    assert scores("runs/2")[absent] == ("no_rollouts", None)
    assert summary.pool_statuses["no_rollouts"] == 1
    for problem_id, (status, score) in scores(FIRST).items():
        if problem_id != absent:
            assert scores("runs/2")[problem_id] == (status, score and pytest.approx(score, abs=1e-6))


def test_a_dump_of_other_problems_is_refused_unless_told_to_go_on(finished):
    foreign = [{**verl(row), "input": "another"} for row in sampled()[:20]]
    dump = write_lines([*map(verl, sampled()), *foreign])
    settings = finished | {"run": "runs/2", "dump": dump}
    with pytest.raises(RolloutsError) as raised:
        gradcurate.score(**settings)
    total = len(sampled()) + 20
    assert raised.value.args == (
        "90% of a dump's rollouts must answer a problem of the pool or validation set",
        f"of {total} in dump, 20 answer none, 0 answer several, 0 have no single response "
        f"(the first: dump/7.jsonl:{total - 19})",
        "Give the pool that the trainer had, with its system prompt, or --allow-unmatched.",
    )
    assert gradcurate.score(**settings, allow_unmatched=True).checks.dump["unmatched"] == 20


def test_a_prompt_that_two_problems_have_is_ambiguous(finished):
    pool = Path("pool.jsonl")
    first = json.loads(pool.read_text().splitlines()[0])
    pool.write_text(pool.read_text() + json.dumps({**first, "answer": "other"}) + "\n")
    dump = write_lines(map(verl, sampled()))
    summary = gradcurate.score(**finished | {"run": "runs/2", "dump": dump, "allow_unmatched": True})
    assert summary.checks.dump["ambiguous"] == 4


def test_a_dump_without_validation_problems_is_refused(finished):
    dump = write_lines(verl(row) for row in sampled() if row["split"] == "pool")
    with pytest.raises(RolloutsError, match="must hold rollouts of the validation problems, too"):
        gradcurate.score(**finished | {"run": "runs/2", "dump": dump})


def test_rewards_are_the_dump_s_own(finished):
    turned = [{**open_instruct(row), "reward": 1.0 - row["reward"]} for row in sampled()]
    gradcurate.score(**finished | {"run": "runs/2", "dump": write_lines(turned)})
    rates = [
        read_table(Path(run, "scores.parquet")).sort_by("problem_id")["pass_rate"].to_numpy()
        for run in (FIRST, "runs/2")
    ]
    assert np.allclose(rates[0], 1 - rates[1])
    gradcurate.reward("runs/2", reward="rewards.py:parity")
    again = read_table(Path("runs/2", "scores.parquet")).sort_by("problem_id")["pass_rate"].to_numpy()
    assert np.allclose(rates[0], again)


@pytest.mark.parametrize(
    ("record", "expected", "received"),
    [
        ({"a": 1}, f"must be of {', '.join(READERS)}", "its fields are a"),
        ({"input": "q", "output": 1, "score": 1}, "must have", "reading it raised TypeError: 1 is no text"),
        ([1], f"must be of {', '.join(READERS)}", "it has no fields"),
        ({"task": {}, "traces": [{}]}, "must have the fields", "reading it raised KeyError: 'nodes'"),
    ],
)
def test_a_record_of_no_trainer_is_refused_with_its_place(tmp_path, record, expected, received):
    file = tmp_path / "1.jsonl"
    file.write_text("\n" + json.dumps(record) + "\n")
    with pytest.raises(RolloutsError) as raised:
        list(read_dump(str(file)))
    assert raised.value.expected.startswith(f"{file}:2: a record")
    assert expected in raised.value.expected
    assert raised.value.received == received


def test_traces_of_several_turns_are_unusable():
    turn = {"message": {"role": "assistant", "content": "x"}, "sampled": True}
    record = {"task": {}, "traces": [{"nodes": [turn, turn]}]}
    (rollout,) = READERS["prime-rl"](record, "here")
    assert (rollout.completion, rollout.completion_token_ids) == (None, None)


def test_what_tools_said_is_no_response():
    record = {"prompt_tokens": [1], "response_tokens": [2], "reward": 1.0, "logprobs": [-1.0]}
    (plain,) = READERS["open-instruct"](record | {"request_info": {"num_calls": 0}}, "here")
    (called,) = READERS["open-instruct"](record | {"request_info": {"num_calls": 2}}, "here")
    assert (plain.completion_token_ids, called.completion_token_ids) == ([2], None)


def test_a_completion_in_parts_has_no_text_and_ids_are_text():
    record = {"step": 1, "prompt": "q", "advantage": 0.0, "right": 1.0, "problem_id": 7}
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]
    (rollout,) = READERS["trl"](record | {"completion": parts}, "here")
    assert (rollout.completion, rollout.problem_id, rollout.reward) == (None, "7", 1.0)


def test_weights_are_refused_beside_a_dump(finished):
    dump = write_lines(map(verl, sampled()))
    with pytest.raises(SettingsError) as raised:
        gradcurate.score(**finished | {"run": "runs/2", "dump": dump, "reward_weights": "1"})
    assert raised.value.args == (
        "--dump brings its own rewards, which --reward-weights does not weigh",
        "'1' was given",
        "Leave it out.",
    )
    assert not Path("runs/2").exists()


def test_the_files_of_a_dump_are_those_of_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("step_1/train/all", "step_1/train/effective", "step_1/eval/all"):
        Path("rollouts", name).mkdir(parents=True)
        Path("rollouts", name, "traces.jsonl").write_text("")
    Path("rollouts/notes.txt").write_text("")
    Path("rollouts/run_metadata.jsonl").write_text("")
    assert dump_files("rollouts") == [Path("rollouts/step_1/train/all/traces.jsonl")]
    for pattern in ("rollouts/*/train/a*/*.jsonl", "rollouts/step_*"):
        assert dump_files(pattern) == [Path("rollouts/step_1/train/all/traces.jsonl")]
    Path("eval[1]").mkdir()
    Path("eval[1]/7.jsonl").write_text("")
    assert dump_files("eval[1]/7.jsonl") == dump_files("eval[1]") == [Path("eval[1]/7.jsonl")]
    for nothing in ("absent", "rollouts/*.parquet"):
        with pytest.raises(RolloutsError) as raised:
            dump_files(nothing)
        assert raised.value.received == f"there is no file {nothing}"


def test_tokens_of_another_tokenizer_are_refused(finished):
    rows = [open_instruct(row) for row in sampled()]
    rows[0]["response_tokens"] = [5, 5000]
    with pytest.raises(RolloutsError) as raised:
        gradcurate.score(**finished | {"run": "runs/2", "dump": write_lines(rows)})
    assert raised.value.args == (
        "The tokens of a dump must be those of the policy's tokenizer (0 to 100)",
        "dump/7.jsonl:1 has 5000, outside of it",
        "Give the --model that the trainer trained.",
    )


def test_an_empty_response_is_its_end_alone(finished):
    rows = [{**verl(row), "output": ""} for row in sampled()[:1]] + [verl(row) for row in sampled()[1:]]
    gradcurate.score(**finished | {"run": "runs/2", "dump": write_lines(rows)})
    tokens = [
        row["completion_token_ids"]
        for path in shard_paths(Path("runs/2/rollouts"))
        for row in read_table(path).to_pylist()
        if row["completion"] == ""
    ]
    assert [TOKENIZER.eos_token_id] in tokens


def test_log_probabilities_of_another_length_are_not_known(finished):
    rows = [{**open_instruct(row), "logprobs": [0.0]} for row in sampled()]
    long = [row for row in sampled() if len(row["completion_token_ids"]) > 1]
    assert long
    gradcurate.score(**finished | {"run": "runs/2", "dump": write_lines(rows), "mismatch_limit": 99.0})
    stored = [row for path in shard_paths(Path("runs/2/rollouts")) for row in read_table(path).to_pylist()]
    for row in stored:
        assert (row["sampling_logprobs"] is None) == (len(row["completion_token_ids"]) > 1)
