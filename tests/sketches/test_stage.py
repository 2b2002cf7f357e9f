"""The sketch stage: wherever it was stopped, the same command ends in the same files."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gradcurate.errors import NumericalError
from gradcurate.progress import Progress, Silent, Task
from gradcurate.scores.stored import read_rows
from gradcurate.sketches import stage as sketch_stage
from gradcurate.sketches.batches import cut_batches
from gradcurate.sketches.direction import load_direction, norm
from gradcurate.sketches.direction_record import read_record
from gradcurate.sketches.live_rollouts import live_groups
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.rows import sketches_schema, unit_sketches
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch, with_seed
from gradcurate.sketches.stage import SketchStage, run_pool_sketches, run_validation_sketches, shard_path
from gradcurate.store.tables import read_fingerprint, read_shards, read_table, shard_paths
from sketches.reference import as_batch, exact, random_rollouts
from tiny_models import tiny_llama

DIM = 128
FINGERPRINT = {"policy": "abc", "sketch_dim": DIM}


def cut(rollouts):
    return cut_batches(rollouts, lambda r: r.tokens, lambda r: r.identity, batch_tokens=40)


VALIDATION = cut(random_rollouts(9, seed=1, split="validation"))
POOL = cut(random_rollouts(6, seed=2))


class StoppedError(Exception):
    """What a test stops a stage with."""


class StopAfter(Progress, Task):
    """Stops the stage after so many batches, as Ctrl-C would."""

    def __init__(self, batches):
        self.left = batches

    def task(self, name, total, done, unit):
        return nullcontext(self)

    def advance(self, done, tokens=0):
        self.left -= 1
        if not self.left:
            raise StoppedError


class Recorder(Progress, Task):
    """Keeps what was reported."""

    def __init__(self):
        self.announced, self.advanced = [], []

    def task(self, name, total, done, unit):
        self.announced.append((name, total, done, unit))
        return nullcontext(self)

    def advance(self, done, tokens=0):
        self.advanced.append((done, tokens))


@pytest.fixture(scope="module")
def sketcher():
    return build_sketcher(tiny_llama(num_hidden_layers=1), Projection(DIM))


def stage_in(folder, sketcher):
    direction = folder / "validation" / "direction.safetensors"
    return SketchStage(lambda: sketcher, folder / "sketches", direction, FINGERPRINT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sketcher):
    """A stage that ran through."""
    stage = stage_in(tmp_path_factory.mktemp("whole"), sketcher)
    run_validation_sketches(stage, VALIDATION, Silent())
    run_pool_sketches(stage, POOL, Silent())
    return stage


@pytest.fixture
def stage(tmp_path, sketcher):
    return stage_in(tmp_path, sketcher)


def identity(path):
    status = path.stat()
    return path.name, status.st_ino, status.st_mtime_ns


def shards(stage, split):
    return {path.name: path.read_bytes() for path in shard_paths(stage.folder) if path.name.startswith(split)}


def lose_nothing(stage):
    pass


def lose_the_partial_sum(stage):
    stage.partial.unlink()


def lose_the_last_shard(stage):
    """As if killed between saving the sum and writing the shard that is in it."""
    max(shard_paths(stage.folder), key=lambda path: path.stat().st_mtime_ns).unlink()


@pytest.mark.parametrize("share_of_time_saving", [0.0, 1e9], ids=["saved once", "saved after each batch"])
@pytest.mark.parametrize("loss", [lose_nothing, lose_the_partial_sum, lose_the_last_shard])
@pytest.mark.parametrize("batches", [2, len(VALIDATION)])
def test_a_stopped_validation_ends_in_the_same_files(
    stage, whole, loss, batches, share_of_time_saving, monkeypatch
):
    monkeypatch.setattr(sketch_stage, "SHARE_OF_TIME_SAVING", share_of_time_saving)
    with pytest.raises(StoppedError):
        run_validation_sketches(stage, VALIDATION, StopAfter(batches))
    assert not stage.direction.exists()
    assert read_record(stage.partial).batches == (batches if share_of_time_saving else 1)
    loss(stage)
    before = [identity(path) for path in shard_paths(stage.folder)]
    run_validation_sketches(stage, VALIDATION, Silent())
    assert stage.direction.read_bytes() == whole.direction.read_bytes()
    assert shards(stage, "validation") == shards(whole, "validation")
    assert set(before) <= {identity(path) for path in shard_paths(stage.folder)}  # none was written again
    assert not stage.partial.exists()


def test_fewer_batches_would_have_ended_in_another_direction(stage, whole):
    """The control of the test above: the files compared there do tell runs apart."""
    run_validation_sketches(stage, VALIDATION[:-1], Silent())
    assert stage.direction.read_bytes() != whole.direction.read_bytes()
    assert shards(stage, "validation") != shards(whole, "validation")


def test_a_lost_shard_is_made_again_and_not_summed_twice(stage, whole):
    run_validation_sketches(stage, VALIDATION, Silent())
    lost = shard_path(stage.folder, VALIDATION[2])
    lost.unlink()
    run_validation_sketches(stage, VALIDATION, Silent())
    assert lost.exists()
    assert stage.direction.read_bytes() == whole.direction.read_bytes()


def test_a_lost_direction_is_made_again_from_all_batches(stage, whole):
    run_validation_sketches(stage, VALIDATION, Silent())
    before = [identity(path) for path in shard_paths(stage.folder)]
    stage.direction.unlink()
    run_validation_sketches(stage, VALIDATION, Silent())
    assert stage.direction.read_bytes() == whole.direction.read_bytes()
    assert [identity(path) for path in shard_paths(stage.folder)] == before


def test_a_stopped_pool_ends_in_the_same_files(stage, whole):
    run_validation_sketches(stage, VALIDATION, Silent())
    with pytest.raises(StoppedError):
        run_pool_sketches(stage, POOL, StopAfter(2))
    before = {identity(path) for path in shard_paths(stage.folder)}
    assert len(shards(stage, "pool")) == 2
    run_pool_sketches(stage, POOL, Silent())
    assert before <= {identity(path) for path in shard_paths(stage.folder)}
    assert shards(stage, "pool") == shards(whole, "pool")


def test_a_finished_stage_loads_no_policy(whole):
    def load():
        raise AssertionError("the policy was loaded")

    finished = SketchStage(load, whole.folder, whole.direction, FINGERPRINT)
    run_validation_sketches(finished, VALIDATION, Silent())
    run_pool_sketches(finished, POOL, Silent())
    with pytest.raises(AssertionError, match="the policy was loaded"):
        run_pool_sketches(finished, cut(random_rollouts(8)[6:]), Silent())


def test_progress_counts_rollouts_and_tokens_and_what_was_done_before(stage):
    with pytest.raises(StoppedError):
        run_validation_sketches(stage, VALIDATION, StopAfter(2))
    recorder = Recorder()
    run_validation_sketches(stage, VALIDATION, recorder)
    done = len(VALIDATION[0]) + len(VALIDATION[1])
    assert recorder.announced == [("sketch validation", 9, done, "rollouts")]
    assert recorder.advanced == [(len(batch), sum(r.tokens for r in batch)) for batch in VALIDATION[2:]]


def test_the_direction_is_the_exact_weighted_gradient(whole, sketcher):
    rollouts = [rollout for batch in VALIDATION for rollout in batch]
    expected = exact(sketcher, rollouts, [rollout.weight for rollout in rollouts])
    stored = load_direction(whole.direction, sketcher.space, torch.device("cpu"))
    assert norm({name: stored[name] - expected[name] for name in stored}) < 1e-5 * norm(expected)
    record = read_record(whole.direction)
    assert record.norm == pytest.approx(norm(expected), rel=1e-5)
    assert (record.batches, record.fingerprint) == (len(VALIDATION), FINGERPRINT)


def test_every_shard_has_the_contracts_schema_and_fingerprint(whole):
    paths = shard_paths(whole.folder)
    assert len(paths) == len(VALIDATION) + len(POOL)
    for path in paths:
        assert pq.read_schema(path).remove_metadata() == sketches_schema(DIM)
        assert pq.read_schema(path).field("sketch").type == pa.list_(pa.float16(), DIM)
        assert read_fingerprint(path) == FINGERPRINT


def test_rows_are_those_of_the_rollouts(whole, sketcher):
    direction = load_direction(whole.direction, sketcher.space, torch.device("cpu"))
    for batch in POOL:
        rows = read_table(shard_path(whole.folder, batch)).to_pylist()
        gradients = sketch_batch(sketcher, as_batch(batch), along=direction)
        assert [(row["problem_id"], row["rollout"], row["split"]) for row in rows] == [
            (r.problem_id, r.rollout, r.split) for r in batch
        ]
        assert [row["response_tokens"] for row in rows] == [len(r.completion) for r in batch]
        assert [row["norm"] for row in rows] == gradients.sketches.norm(dim=1).tolist()
        assert [row["directional"] for row in rows] == gradients.directional.tolist()
        assert [row["logprob"] for row in rows] == gradients.logprobs.tolist()


def test_sketches_are_stored_with_unit_norm(whole):
    table = read_shards(whole.folder, sketches_schema(DIM))
    unit = np.stack(table["sketch"].to_numpy()).astype(np.float64)
    assert np.linalg.norm(unit, axis=1) == pytest.approx(1.0, abs=1e-3)
    norms = table["norm"].to_numpy()
    assert norms.max() > 1.5 * norms.min()  # their lengths are kept beside them


def test_validation_has_no_derivative_and_the_pool_has(whole):
    table = read_shards(whole.folder, sketches_schema(DIM), ["split", "directional"])
    for row in table.to_pylist():
        assert (row["directional"] is None) == (row["split"] == "validation")


NOT_FINITE = ", and the weight lm_head.weight is not finite"


@pytest.mark.parametrize(
    ("value", "length", "cause"),
    [(float("nan"), "nan", NOT_FINITE), (float("inf"), "nan", NOT_FINITE), (0.0, "0.0", "")],
)
def test_a_gradient_that_is_no_number_stops_the_stage_by_name(tmp_path, value, length, cause):
    model = tiny_llama(num_hidden_layers=1)
    model.lm_head.weight.data.fill_(value)
    stage = stage_in(tmp_path, build_sketcher(model, Projection(DIM)))
    with pytest.raises(NumericalError) as raised:
        run_validation_sketches(stage, VALIDATION, Silent())
    first = VALIDATION[0][0]
    assert str(raised.value) == (
        "Every gradient must be finite and not zero; "
        f"rollout {first.rollout} of problem {first.problem_id} has norm {length}{cause}. "
        "Look for NaN in the checkpoint's weights; bfloat16 overflows where float32 does not."
    )
    assert list(tmp_path.rglob("*.*")) == []


def test_a_gradient_that_overflows_names_its_module(tmp_path):
    model = tiny_llama(num_hidden_layers=2)
    stage = stage_in(tmp_path, build_sketcher(model, Projection(DIM)))
    model.model.layers[0].mlp.up_proj.register_forward_hook(overflow)
    match = r"and the gradient of model\.layers\.0\.mlp\.gate_proj\+up_proj is not finite\. "
    with pytest.raises(NumericalError, match=match):
        run_validation_sketches(stage, VALIDATION, Silent())


def overflow(_module, _args, output):
    output.register_hook(lambda grad: grad * 1e40)


def sampled_by(model, rollouts, temperature=1.0):
    """The same rollouts with the model's own log-probabilities, as a sampler would have noted them."""
    found = sketch_batch(build_sketcher(model, Projection(DIM), temperature=temperature), as_batch(rollouts))
    parts = found.token_logprobs.split([len(r.completion) for r in rollouts])
    return [replace(r, sampling_logprobs=part.tolist()) for r, part in zip(rollouts, parts, strict=True)]


def test_the_sampler_s_logprobs_are_compared_with_the_recomputed_ones(tmp_path, sketcher):
    stage = replace(stage_in(tmp_path, sketcher), mismatch_limit=1e-6)
    rollouts = sampled_by(sketcher.model, random_rollouts(3, split="validation"))
    run_validation_sketches(stage, [(*rollouts[:2], replace(rollouts[2], sampling_logprobs=None))], Silent())
    table = read_shards(stage.folder, sketches_schema(DIM), ["logprob_kl", "logprob_gap"])
    assert max(table["logprob_kl"].to_pylist()[:2]) < 1e-9
    assert max(table["logprob_gap"].to_pylist()[:2]) < 1e-4
    assert table["logprob_kl"][2].as_py() is table["logprob_gap"][2].as_py() is None


@pytest.mark.parametrize("change", ["another temperature", "other weights", "a second BOS"])
def test_rollouts_of_another_policy_stop_the_stage(tmp_path, sketcher, change):
    rollouts = random_rollouts(6, split="validation")
    other = tiny_llama(seed=1, num_hidden_layers=1) if change == "other weights" else sketcher.model
    rollouts = sampled_by(other, rollouts, temperature=0.7 if change == "another temperature" else 1.0)
    if change == "a second BOS":
        rollouts = [replace(r, prompt=(1, *r.prompt)) for r in rollouts]
    stage = replace(stage_in(tmp_path, sketcher), mismatch_limit=0.1)
    with pytest.raises(NumericalError) as raised:
        run_validation_sketches(stage, [tuple(rollouts)], Silent())
    assert str(raised.value).startswith(
        "Sampled and recomputed log-probabilities must agree (KL of at most 0.1 nats a token); "
        f"over {sum(r.response_tokens for r in rollouts)} tokens it is "
    )
    assert "a prompt with a second BOS, another chat template, another temperature." in str(raised.value)
    run_validation_sketches(replace(stage, mismatch_limit=float("inf")), [tuple(rollouts)], Silent())


def test_a_few_rows_are_sketched_with_a_second_seed(whole, sketcher):
    first = {
        (r["problem_id"], r["rollout"]): r
        for r in read_shards(whole.folder, sketches_schema(DIM)).to_pylist()
    }
    again = read_table(whole.second_seed).to_pylist()
    middle = [rollout for batch in POOL[len(POOL) // 2 :] for rollout in batch]
    assert [(r["problem_id"], r["rollout"]) for r in again] == [r.identity for r in middle]
    other = sketch_batch(with_seed(sketcher, 1), as_batch(middle)).sketches
    assert [r["norm"] for r in again] == pytest.approx(other.norm(dim=1).tolist(), rel=1e-5)
    for row in again:
        before = first[row["problem_id"], row["rollout"]]
        assert row["logprob"] == before["logprob"]
        assert row["norm"] != before["norm"]


def test_one_row_a_problem_is_the_weighted_sum_of_its_rollouts(stage, sketcher):
    rollouts = [
        replace(r, problem_id=f"p{number // 3}", rollout=number % 3, prompt=(number // 3 + 1, 2, 3))
        for number, r in enumerate(random_rollouts(9))
    ]
    groups = live_groups(rollouts)
    run_validation_sketches(stage, VALIDATION, Silent())
    run_pool_sketches(stage, [tuple(groups[:2]), tuple(groups[2:])], Silent())
    rows = list(read_rows(stage.folder, "pool", {group.problem_id: [None] for group in groups}))
    direction = load_direction(stage.direction, sketcher.space, torch.device("cpu"))
    alone = sketch_batch(sketcher, as_batch(rollouts), along=direction)
    assert [row.problem_id for row in rows] == [group.problem_id for group in groups]
    for number, row in enumerate(rows):
        mine = slice(3 * number, 3 * number + 3)
        weights = torch.tensor([r.weight for r in rollouts[mine]])
        expected = (weights @ alone.sketches[mine]).numpy()
        length = np.linalg.norm(expected)
        assert np.linalg.norm(row.sketches[0] - expected) < 1e-3 * length
        assert np.linalg.norm(row.sketches[0] + expected) > length
        dot = (weights.double() @ alone.directional[mine]).item()
        assert row.derivatives == pytest.approx([dot], rel=1e-3, abs=float(1e-4 * length))


# By forward passes alone


@pytest.fixture(scope="module")
def forward(tmp_path_factory, sketcher):
    """A stage without sketches of the pool that ran through."""
    stage = replace(stage_in(tmp_path_factory.mktemp("forward"), sketcher), scorer="forward")
    run_validation_sketches(stage, VALIDATION, Silent())
    run_pool_sketches(stage, POOL, Silent())
    return stage


def test_forward_rows_have_the_derivatives_and_no_more(forward, whole):
    assert shards(forward, "validation") == shards(whole, "validation")
    assert forward.direction.read_bytes() == whole.direction.read_bytes()
    assert not forward.second_seed.exists()
    for batch in POOL:
        path, known = shard_path(forward.folder, batch), read_table(shard_path(whole.folder, batch))
        rows = read_table(path)
        assert pq.read_schema(path).remove_metadata() == sketches_schema(DIM)
        assert rows["norm"].null_count == rows["sketch"].null_count == len(batch)
        for name in ("problem_id", "rollout", "split", "response_tokens", "logprob_kl"):
            assert rows[name] == known[name]
        true, found = (table["directional"].to_numpy() for table in (known, rows))
        assert found == pytest.approx(true, rel=5e-3, abs=1e-3 * np.abs(true).max())
        assert found != pytest.approx(-true, rel=0.1)
        assert rows["logprob"].to_numpy() == pytest.approx(known["logprob"].to_numpy(), rel=1e-3)


def lose_the_step(stage):
    stage.step.unlink()


@pytest.mark.parametrize("loss", [lose_nothing, lose_the_step])
def test_a_stopped_forward_pool_ends_in_the_same_files(stage, forward, loss):
    stage = replace(stage, scorer="forward")
    run_validation_sketches(stage, VALIDATION, Silent())
    with pytest.raises(StoppedError):
        run_pool_sketches(stage, POOL, StopAfter(2))
    loss(stage)
    run_pool_sketches(stage, POOL, Silent())
    assert shards(stage, "pool") == shards(forward, "pool")
    assert stage.step.read_bytes() == forward.step.read_bytes()


def test_another_step_ends_in_other_files(stage, forward):
    """The control of the test above."""
    stage = replace(stage, scorer="forward")
    run_validation_sketches(stage, VALIDATION, Silent())
    record = json.loads(forward.step.read_text())
    stage.step.write_text(json.dumps({**record, "relative_step": 2 * record["relative_step"]}))
    run_pool_sketches(stage, POOL, Silent())
    assert shards(stage, "pool").keys() == shards(forward, "pool").keys()
    assert shards(stage, "pool") != shards(forward, "pool")


def test_a_finished_forward_stage_loads_no_policy(forward):
    def load():
        raise AssertionError("the policy was loaded")

    finished = replace(forward, sketcher=load)
    run_validation_sketches(finished, VALIDATION, Silent())
    run_pool_sketches(finished, POOL, Silent())


def test_a_derivative_that_is_no_number_stops_the_stage_by_name(stage, forward):
    model = tiny_llama(num_hidden_layers=1)
    stage = replace(stage, scorer="forward", sketcher=lambda: build_sketcher(model, Projection(DIM)))
    run_validation_sketches(stage, VALIDATION, Silent())
    stage.step.write_bytes(forward.step.read_bytes())
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError) as raised:
        run_pool_sketches(stage, POOL, Silent())
    first = POOL[0][0]
    assert str(raised.value) == (
        f"Every gradient must be finite; rollout {first.rollout} of problem {first.problem_id} has "
        "derivative nan, and the weight model.norm.weight is not finite. "
        "Look for NaN in the checkpoint's weights; bfloat16 overflows where float32 does not."
    )


def test_rollouts_of_another_policy_stop_the_forward_pool(stage, sketcher):
    run_validation_sketches(stage, VALIDATION, Silent())
    rollouts = sampled_by(tiny_llama(seed=1, num_hidden_layers=1), random_rollouts(6))
    with pytest.raises(NumericalError, match="Sampled and recomputed log-probabilities must agree"):
        run_pool_sketches(replace(stage, scorer="forward", mismatch_limit=0.1), [tuple(rollouts)], Silent())
    own = sampled_by(sketcher.model, rollouts)
    run_pool_sketches(replace(stage, scorer="forward", mismatch_limit=1e-3), [tuple(own)], Silent())


def test_unit_vectors_of_rows_without_a_sketch_are_no_numbers(forward, whole):
    tables = [read_shards(stage.folder, sketches_schema(DIM)) for stage in (forward, whole)]
    without, known = (unit_sketches(table) for table in tables)
    pool = np.array(tables[0]["split"].to_pylist()) == "pool"
    assert np.isnan(without[pool]).all()
    assert np.array_equal(without[~pool], known[~pool])
