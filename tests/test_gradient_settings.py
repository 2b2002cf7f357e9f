"""Whole runs with other gradients: other rows, models, modules and inner products."""

import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import gradcurate
from finished_runs import contents, finish
from gradcurate.errors import NumericalError, PolicyError, RunDirectoryError, SettingsError
from tiny_models import save_tiny_checkpoint, tiny_tokenizer

RUN = "runs/1"

# transformers 5 warns of a name that PEFT still uses.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def finished(workspace, tmp_path_factory):
    return finish(workspace, tmp_path_factory)


def scores(run):
    rows = pq.read_table(Path(run, "scores.parquet")).to_pylist()
    return {row["problem_id"]: row["score"] for row in rows if row["score"] is not None}


def sketched(run):
    return pa.concat_tables(pq.read_table(path) for path in Path(run, "sketches").glob("*.parquet"))


def again(settings, **changes):
    """Score the same rollouts with other settings of the sketches."""
    shutil.copytree(RUN, "runs/2")
    for path in (*Path("runs/2/sketches").glob("*"), *Path("runs/2/validation").glob("*")):
        path.unlink()
    gradcurate.score(**{**settings, "run": "runs/2", **changes})
    return scores("runs/2")


def test_one_row_a_problem_gives_the_scores_of_one_row_a_rollout(finished):
    by_problem = again(finished, granularity="problem")
    rows = sketched("runs/2")
    assert rows["rollout"].null_count == len(rows) < len(sketched(RUN))
    # Both are the same linear map; what differs is the rounding of more or fewer stored rows.
    assert by_problem == pytest.approx(scores(RUN), abs=2e-3)
    assert max(by_problem.values()) - min(by_problem.values()) > 0.1
    assert gradcurate.verify("runs/2", problems=5).score.spearman > 0.9
    assert gradcurate.inspect("runs/2", next(iter(by_problem))).rollouts[0].directional is None


def rewrite_rollouts(change):
    """Change the columns of every shard of rollouts, its fingerprint aside."""
    for path in Path(RUN, "rollouts").glob("*.parquet"):
        table = pq.read_table(path)
        columns = change(table.to_pydict())
        arrays = [pa.array(columns[field.name], field.type) for field in table.schema]
        pq.write_table(pa.table(arrays, schema=table.schema), path)


def test_completions_that_cancel_leave_a_problem_without_gradient(finished):
    """Equal completions of different rewards, as a reward that is not deterministic judges them."""
    problem, other = list(scores(RUN))[:2]

    def repeat_the_first(columns):
        first = columns["problem_id"].index(problem) if problem in columns["problem_id"] else None
        for row, problem_id in enumerate(columns["problem_id"]):
            if problem_id == problem:
                for name in ("completion_token_ids", "sampling_logprobs"):
                    columns[name][row] = columns[name][first]
        return columns

    rewrite_rollouts(repeat_the_first)
    found = again(finished, granularity="problem")
    rows = pq.read_table("runs/2/scores.parquet").to_pylist()
    assert {row["problem_id"]: row["status"] for row in rows}[problem] == "no_gradient"
    assert found.keys() == scores(RUN).keys() - {problem}
    assert found[other] == pytest.approx(scores(RUN)[other], abs=2e-3)


def test_a_gradient_model_is_used_and_judged(finished, tmp_path):
    cheaper = save_tiny_checkpoint(tmp_path / "cheaper", seed=1, num_hidden_layers=1)
    proxied = again(finished, gradient_model=str(cheaper))
    own = scores(RUN)
    assert proxied.keys() == own.keys()
    assert proxied != pytest.approx(own, abs=0.05)
    found = gradcurate.verify("runs/2", problems=100)
    assert found.score.spearman > 0.9  # of its own exact gradients
    assert found.proxy.model == str(cheaper)
    asked = gradcurate.verify(RUN, problems=100, gradient_model=str(cheaper))
    assert asked.proxy.agreement.spearman == pytest.approx(found.proxy.agreement.spearman)
    assert asked.proxy.agreement.rmse > 0.05
    assert gradcurate.verify(RUN, problems=5).proxy is None


def test_the_policy_as_its_own_gradient_model_changes_nothing(finished, checkpoint):
    gradcurate.score(**finished, gradient_model=str(checkpoint))
    copied = shutil.copytree(checkpoint, "copied")
    gradcurate.score(**finished, gradient_model=str(copied))


def test_a_gradient_model_of_another_tokenizer_is_refused(workspace, tmp_path):
    other = save_tiny_checkpoint(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(other)
    with pytest.raises(PolicyError) as caught:
        gradcurate.score(**workspace, gradient_model=str(other))
    assert str(caught.value) == (
        "--gradient-model must share the policy's tokenizer; 1 entries of their vocabularies differ. "
        "Use a smaller sibling, an earlier checkpoint, or a pruned version of the policy."
    )
    assert not Path("runs").exists()


def test_a_gradient_model_that_is_not_there_is_named_by_its_own_option(workspace):
    with pytest.raises(PolicyError) as caught:
        gradcurate.score(**workspace, gradient_model="./nowhere")
    assert str(caught.value) == (
        "--gradient-model must be a checkpoint folder, a .gguf file, a Hugging Face id or smollm2-135m; "
        "./nowhere is not there. Check the path."
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize("granularity", ["rollout", "problem"])
def test_forward_passes_alone_score_by_the_same_dots(finished, granularity):
    again(finished, scorer="forward", granularity=granularity, score="dot")
    known, found = (pq.read_table(Path(run, "scores.parquet")).to_pylist() for run in (RUN, "runs/2"))
    dots = {row["problem_id"]: row["dot"] for row in known if row["score"] is not None}
    largest = max(abs(dot) for dot in dots.values())
    for row in found:
        expected = dots.get(row["problem_id"])
        if row["status"] != "scored":
            assert row["score"] is expected is None
            continue
        assert row["dot"] == row["score"] == pytest.approx(expected, abs=2e-3 * largest)
        assert row["norm"] is row["sketched_cosine"] is None
        assert row["numerator"] == "exact"
    assert [row["rank"] for row in found if row["rank"]] == list(range(1, len(dots) + 1))
    verified = gradcurate.verify("runs/2", problems=5)
    assert verified.score.spearman > 0.9
    assert verified.sketched_cosine is None
    checks = gradcurate.summary("runs/2").checks
    assert checks.second_seed_rows == 0
    assert checks.difference_error < 0.01
    gradcurate.select("runs/2", top_k=2, accept_unreliable=True)


def test_forward_scores_stand_as_long_as_the_direction_does(finished):
    again(finished, scorer="forward", score="t")
    before = scores("runs/2")
    gradcurate.reward("runs/2")
    assert scores("runs/2") == before
    Path("other.py").write_text(
        "def length(data_source, solution_str, ground_truth, extra_info):\n"
        "    return float(len(solution_str) % 3 == 0)\n"
    )
    with pytest.raises(RunDirectoryError) as caught:
        gradcurate.reward("runs/2", reward="other.py:length")
    assert str(caught.value) == (
        "Scores along another direction than that of the stored derivatives need sketches; runs/2/sketches "
        "has none of the pool (--scorer forward). Score into another --run; if later rewards moved the "
        "direction, removing rewards/ brings the first ones back."
    )
    shutil.rmtree("runs/2/rewards")
    gradcurate.score(**{**finished, "run": "runs/2", "scorer": "forward", "score": "t"})
    with pytest.raises(SettingsError) as caught:
        gradcurate.rescore("runs/2", score="cosine")
    assert str(caught.value) == (
        "--score cosine needs sketches; --scorer forward makes none of the pool. Use --score dot or t, or "
        "--scorer sketch in a new --run."
    )
    assert scores("runs/2") == before


def test_modules_narrow_the_gradient(finished):
    narrowed = again(finished, modules="q_proj, layers.1.mlp.*")
    assert narrowed != pytest.approx(scores(RUN), abs=0.02)
    assert gradcurate.verify("runs/2", problems=5).score.spearman > 0.9
    with pytest.raises(RunDirectoryError, match="modules"):
        gradcurate.score(**finished | {"run": "runs/2"}, modules="q_proj")


def test_the_output_layer_alone(finished):
    again(finished, modules="lm_head")
    assert gradcurate.verify("runs/2", problems=5).score.spearman > 0.9


@pytest.fixture
def adapter(checkpoint, tmp_path):
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), config)
    model.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


@pytest.mark.parametrize("use", ["own", "merged"])
def test_an_adapter_is_sampled_and_differentiated(workspace, adapter, use):
    gradcurate.score(**workspace | {"model": adapter, "adapter": use})
    found = gradcurate.verify(RUN, problems=5)
    assert found.score.spearman > 0.9
    assert found.direction_error < 1e-4
    assert gradcurate.summary(RUN).checks.logprob_gap < 1e-3


def test_rollouts_of_other_weights_stop_the_run_and_leave_the_rollouts(finished):
    """As if the folder's rollouts had been sampled by something else than the checkpoint."""
    for folder in ("sketches", "validation"):
        shutil.rmtree(Path(RUN, folder))

    def shift(columns):
        shifted = [[value - 1.0 for value in row] for row in columns["sampling_logprobs"]]
        return {**columns, "sampling_logprobs": shifted}

    rewrite_rollouts(shift)
    before = contents(RUN)
    with pytest.raises(NumericalError, match="Likely causes: other weights or another --dtype"):
        gradcurate.score(**finished)
    after = contents(RUN)
    assert {name: after[name] for name in before if name.startswith("rollouts")} == {
        name: before[name] for name in before if name.startswith("rollouts")
    }
    gradcurate.score(**finished, mismatch_limit=1.0)
    assert gradcurate.summary(RUN).checks.logprob_kl == pytest.approx(math.e - 2, rel=1e-3)


def test_the_summary_shows_what_was_checked(finished):
    checks = gradcurate.summary(RUN).checks
    assert checks.logprob_kl < 1e-8
    assert checks.logprob_gap < 1e-4
    assert 16 <= checks.second_seed_rows < 40
    # An ideal sketch of K = 256 has 0.0625; sketches of so narrow a model have more.
    assert 0.03 < checks.cosine_error < 0.25
    assert 0.02 < checks.norm_error < 0.25


def test_a_checkpoint_without_an_optimizer_cannot_be_preconditioned(workspace):
    with pytest.raises(PolicyError, match=r"it has no optimizer\.pt"):
        gradcurate.score(**workspace, precondition="adam")
    assert not Path("runs").exists()


def test_settings_of_gradients_are_in_the_manifest(finished):
    again(finished, modules="mlp.*", granularity="problem")
    settings = json.loads(Path("runs/2/run.json").read_text())["settings"]
    assert (settings["modules"], settings["granularity"]) == ("mlp.*", "problem")
