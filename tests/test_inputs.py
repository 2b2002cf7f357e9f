"""What can be wrong is found before anything is written; a fingerprint names what rows depend on."""

import json
import shutil
from pathlib import Path

import pytest

from gradcurate.config import load_settings, setting_fields
from gradcurate.errors import PolicyError, ProblemsError
from gradcurate.inputs import digest, read_inputs
from tiny_models import tiny_tokenizer

OVERHEAD = len("u") + len("e") + len("a")  # <user>, <eos> and <assistant> are one token each


def read(workspace, **changes):
    return read_inputs(load_settings({**workspace, **changes}))


def fingerprints(workspace, **changes):
    return read(workspace, **changes).fingerprints


def refusal(kind, workspace, **changes):
    with pytest.raises(kind) as caught:
        read(workspace, **changes)
    return str(caught.value)


def rows_of(name):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def write_rows(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_row(name, line, **changes):
    rows = rows_of(name)
    rows[line - 1] |= changes
    write_rows(name, rows)


def changed_stages(one, other):
    assert set(one) == set(other) == {"problems", "rollouts", "sketches"}
    return {stage for stage in one if one[stage] != other[stage]}


def test_what_is_read(workspace):
    inputs = read(workspace)
    assert [problem.split for problem in inputs.problems] == ["validation"] * 5 + ["pool"] * 12
    assert [p.problem_id for p in inputs.prompted] == [p.problem_id for p in inputs.problems]
    assert [p.problem_id for p in inputs.prompted_of("pool")] == [p.problem_id for p in inputs.problems[5:]]
    assert (inputs.prompt_format, inputs.bad_rows) == ("chat", ())
    first = tiny_tokenizer().decode(inputs.prompted_of("pool")[0].prompt_token_ids)
    assert first == "<user>0 + 0?<eos><assistant>"
    assert not Path(workspace["run"]).exists()


def test_a_prompt_that_just_fits_and_one_that_does_not(workspace):
    fits = 128 - 8 - OVERHEAD
    edit_row("pool.jsonl", 3, question="x" * fits)
    assert len(read(workspace).prompted_of("pool")[2].prompt_token_ids) == 120
    edit_row("pool.jsonl", 3, question="x" * (fits + 1))
    assert refusal(ProblemsError, workspace) == (
        "pool.jsonl:3: prompt and response must fit the policy's context of 128 tokens; "
        "its prompt has 121 tokens, and with --max-tokens 8 that is too long. "
        "Lower --max-tokens, shorten the prompt, or use --on-bad-row skip."
    )
    assert read(workspace, max_tokens=7).bad_rows == ()


@pytest.mark.parametrize("name", ["pool", "validation"])
def test_a_prompt_too_long_can_be_set_aside(workspace, name):
    before = read(workspace)
    edit_row(f"{name}.jsonl", 3, question="x" * 200)
    inputs = read(workspace, on_bad_row="skip")
    (bad,) = inputs.bad_rows
    assert (bad.file, bad.line, bad.record["question"]) == (f"{name}.jsonl", 3, "x" * 200)
    assert bad.reason == "its prompt has 203 tokens, and with --max-tokens 8 that is too long"
    kept = {problem.problem_id for problem in inputs.problems}
    assert {problem.problem_id for problem in inputs.prompted} == kept
    assert kept < {problem.problem_id for problem in before.problems}
    assert len(before.problems) - len(kept) == 1


def test_prompts_that_are_all_too_long(workspace):
    assert refusal(ProblemsError, workspace, on_bad_row="skip", max_tokens=125) == (
        "validation.jsonl: at least one prompt must fit the policy's context of 128 tokens; "
        "none does with --max-tokens 125. Lower --max-tokens."
    )


def test_rows_set_aside_for_any_reason_are_all_listed(workspace):
    edit_row("pool.jsonl", 2, question="")
    edit_row("pool.jsonl", 4, question="x" * 200)
    edit_row("pool.jsonl", 6, **rows_of("validation.jsonl")[0])
    edit_row("validation.jsonl", 5, answer=None)
    inputs = read(workspace, on_bad_row="skip")
    found = sorted((bad.file, bad.line) for bad in inputs.bad_rows)
    assert found == [("pool.jsonl", 2), ("pool.jsonl", 4), ("pool.jsonl", 6), ("validation.jsonl", 5)]
    assert len(inputs.problems) == 12 + 5 - 4


def test_a_problem_in_both_splits(workspace):
    edit_row("pool.jsonl", 4, **rows_of("validation.jsonl")[1])
    assert refusal(ProblemsError, workspace) == (
        "pool.jsonl:4: expected a problem that is not in the validation set (it would be scored against its "
        "own gradient); validation.jsonl:2 has the same prompt and answer. Remove it from the pool, "
        "or leave such rows out with --on-bad-row skip."
    )
    inputs = read(workspace, on_bad_row="skip")
    assert len(inputs.prompted_of("validation")) == 5
    assert len(inputs.prompted_of("pool")) == 11


def test_the_order_of_rows_changes_nothing_and_their_content_everything(workspace):
    before = fingerprints(workspace)
    for name in ("pool.jsonl", "validation.jsonl"):
        write_rows(name, rows_of(name)[::-1])
    assert fingerprints(workspace) == before
    edit_row("pool.jsonl", 5, answer="0")
    assert changed_stages(before, fingerprints(workspace)) == {"problems", "rollouts", "sketches"}


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[:-1],
        lambda rows: [*rows, {"question": "new", "answer": "1", "source": "s", "level": 0}],
        lambda rows: [{**rows[0], "level": 9}, *rows[1:]],
        lambda rows: [{**rows[0], "source": "other"}, *rows[1:]],
    ],
)
def test_a_row_more_or_less_or_other_is_noticed(workspace, edit):
    before = fingerprints(workspace)
    write_rows("pool.jsonl", edit(rows_of("pool.jsonl")))
    assert changed_stages(before, fingerprints(workspace)) == {"problems", "rollouts", "sketches"}


EVERYTHING = {"problems", "rollouts", "sketches"}
LATER = {"scores": set(), "rollouts": {"rollouts", "sketches"}, "sketches": {"sketches"}, None: set()}
OTHER_VALUES = {
    "pool": "copies/pool.jsonl",
    "validation": "copies/validation.jsonl",
    "model": "copies/model",
    "run": "runs/2",
    "gradient_model": "copies/model",
    "preset": "slime",  # its values are the defaults
    "rollouts": 5,
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "prompt_format": "text",
    "batch_sequences": 8,
    "engine": "vllm",
    "server": "http://localhost:8000/v1",
    "server_model": "policy",
    "server_concurrency": 8,
    "server_timeout_seconds": 60.0,
    "server_retries": 3,
    "vllm_python": "python",
    "vllm_options": "{}",
    "adapter": "merged",
    "dtype": "bfloat16",
    "reward": "numeric",
    "dump": "dumps",
    "allow_unmatched": True,
    "reward_weights": "2",
    "reward_style": "verl",
    "reward_memory_mebibytes": 512,
    "reward_timeout_seconds": 3.0,
    "reward_workers": 2,
    "sketch_dim": 128,
    "sketch_seed": 1,
    "kernel": "outer",
    "batch_tokens": 128,
    "granularity": "problem",
    "modules": "q_proj",
    "precondition": "adam",
    "mismatch_limit": 1.0,
    "gradient_checkpointing": True,
    "importance_cap": 0.0,
    "advantage": "rloo",
    "token_weight": "token-sum",
    "validation_signal": "gold",
    "gold_column": "level",
    "score": "t",
    "scorer": "forward",
    "validation_aggregation": "unit-mean",
    "validation_merge": "mean",
    "validation_weights": "sums0=2",
    "device": "cpu",
}
# These act through the problems that they give, and through nothing else.
OTHER_READING = {
    "id_column": ("", set()),
    "prompt_column": ("question", set()),
    "answer_column": ("answer", set()),
    "on_bad_row": ("skip", set()),
    "source_column": ("level", EVERYTHING),
    "system_prompt": ("Be brief.", EVERYTHING),
}


def test_every_setting_is_tried():
    assert set(OTHER_VALUES) | set(OTHER_READING) == {field.name for field in setting_fields()}
    of_reading = {field.name for field in setting_fields() if field.metadata["stage"] == "problems"}
    assert set(OTHER_READING) == of_reading


@pytest.mark.parametrize("name", [*OTHER_VALUES, *OTHER_READING])
def test_a_setting_changes_its_own_stage_and_later_ones_only(workspace, checkpoint, name):
    Path("copies").mkdir()
    shutil.copytree(checkpoint, "copies/model")
    for file in ("pool.jsonl", "validation.jsonl"):
        shutil.copy(file, "copies")
    Path("dumps").mkdir()
    Path("dumps/1.jsonl").write_text("{}\n")
    if name in OTHER_READING:
        value, expected = OTHER_READING[name]
    else:
        stage = {field.name: field.metadata["stage"] for field in setting_fields()}[name]
        value, expected = OTHER_VALUES[name], LATER[stage]
    assert load_settings({**workspace, name: value}) != load_settings(workspace)
    assert changed_stages(fingerprints(workspace), fingerprints(workspace, **{name: value})) == expected


def test_a_fingerprint_names_what_changed(workspace):
    one, other = fingerprints(workspace), fingerprints(workspace, batch_tokens=128, seed=3)
    differing = {
        stage: {key for key in one[stage] if one[stage][key] != other[stage][key]}
        for stage in ("rollouts", "sketches")
    }
    assert differing == {"rollouts": {"seed"}, "sketches": {"batch_tokens", "rollouts"}}


def test_the_format_that_auto_leads_to_is_the_same_as_asking_for_it(workspace):
    assert fingerprints(workspace, prompt_format="chat") == fingerprints(workspace)


def test_another_policy_is_another_run(workspace, checkpoint, tmp_path):
    before = fingerprints(workspace)
    folder = shutil.copytree(checkpoint, tmp_path / "next")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert changed_stages(before, fingerprints(workspace, model=str(folder))) == {"rollouts", "sketches"}


def test_the_reward_s_file_is_part_of_the_rollouts(workspace):
    before = fingerprints(workspace)
    assert before["rollouts"]["reward_file"] is not None
    assert fingerprints(workspace, reward="math")["rollouts"]["reward_file"] is None
    with Path("rewards.py").open("a") as file:
        file.write("# another version\n")
    after = fingerprints(workspace)
    assert changed_stages(before, after) == {"rollouts", "sketches"}
    assert {key for key in after["rollouts"] if after["rollouts"][key] != before["rollouts"][key]} == {
        "reward_file"
    }


def test_fingerprints_are_plain_json(workspace):
    found = fingerprints(workspace)
    assert json.loads(json.dumps(found)) == found


def test_a_digest_is_of_content_and_not_of_key_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})
    assert digest(["a", "b"]) != digest(["b", "a"])


def test_a_model_that_is_not_there_is_found_before_the_run_directory_is_made(workspace):
    assert refusal(PolicyError, workspace, model="./no").endswith("./no is not there. Check the path.")
    assert not Path(workspace["run"]).exists()
