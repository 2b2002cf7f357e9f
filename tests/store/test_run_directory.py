"""A run goes on only with what it was made with."""

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradcurate.errors import RunDirectoryError
from gradcurate.store.run_directory import (
    RunDirectory,
    require_same_fingerprint,
    require_same_shards,
    require_stage,
)
from gradcurate.store.tables import write_table

TABLE = pa.table({"n": [1]})
FINGERPRINTS = st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers(0, 2) | st.text(max_size=2))


def refusal(check, *arguments):
    try:
        check(*arguments)
    except RunDirectoryError as error:
        return error
    return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(stored=FINGERPRINTS, now=FINGERPRINTS)
def test_exactly_the_keys_that_differ_are_named(tmp_path, stored, now):
    path = tmp_path / "a.parquet"
    write_table(path, TABLE, "rollouts", stored)
    differing = [key for key in "abcd" if stored.get(key) != now.get(key)]
    changes = ", ".join(f"{key} {stored.get(key)!r} -> {now.get(key)!r}" for key in differing)
    error = refusal(require_same_fingerprint, path, now)
    assert (error and error.received) == (f"{path} differs in {changes}" if differing else None)


def test_the_message(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, TABLE, "rollouts", {"seed": 0, "top_p": 1.0, "reward": "math"})
    now = {"seed": 1, "top_p": 1.0, "reward": "math", "dtype": "float32"}
    assert str(refusal(require_same_fingerprint, path, now)) == (
        "A run directory is resumed only with the settings and inputs it was made with; "
        f"{path} differs in dtype None -> 'float32', seed 0 -> 1. "
        "Use the settings of run.json, or choose another --run."
    )


def test_every_shard_is_checked(tmp_path):
    write_table(tmp_path / "a.parquet", TABLE, "rollouts", {"seed": 0})
    assert refusal(require_same_shards, tmp_path, {"seed": 0}) is None
    write_table(tmp_path / "b.parquet", TABLE, "rollouts", {"seed": 1})
    error = refusal(require_same_shards, tmp_path, {"seed": 0})
    assert error.received == f"{tmp_path / 'b.parquet'} differs in seed 1 -> 0"
    assert refusal(require_same_shards, tmp_path / "absent", {"seed": 0}) is None


def test_a_stage_that_has_not_run_names_its_verb(tmp_path):
    path = tmp_path / "scores.parquet"
    assert str(refusal(require_stage, path, "gradcurate score")) == (
        f"{path} must exist; that stage has not finished in this run directory. Run `gradcurate score` first."
    )
    path.touch()
    assert refusal(require_stage, path, "gradcurate score") is None


def test_the_layout_is_a_contract(tmp_path):
    run = RunDirectory(tmp_path)
    paths = [getattr(run, name) for name, kind in vars(RunDirectory).items() if isinstance(kind, property)]
    assert [str(path.relative_to(tmp_path)) for path in [*paths, run.exports("verl")]] == [
        "run.json",
        "problems.parquet",
        "bad_rows.jsonl",
        "rollouts",
        "ingest.json",
        "rewards",
        "vllm.log",
        "sketches",
        "validation/direction.safetensors",
        "validation/weights.parquet",
        "validation/second_seed.parquet",
        "validation/step.json",
        "scores.parquet",
        "reliability.json",
        "audit.csv",
        "selection.parquet",
        "exports/verl",
    ]
