"""The verbs as functions."""

import json
from pathlib import Path

import pytest

import gradcurate
from finished_runs import contents, finish
from gradcurate import api
from gradcurate.errors import RunDirectoryError, SettingsError
from gradcurate.results import read_problems
from gradcurate.store.run_directory import RunDirectory

RUN = "runs/1"


@pytest.fixture
def finished(workspace, tmp_path_factory):
    return finish(workspace, tmp_path_factory)


def test_the_package_exports_every_verb_and_nothing_else():
    public = {
        name for name, value in vars(api).items() if callable(value) and value.__module__ == api.__name__
    }
    verbs = {name for name in public if not name.startswith("_") and name.islower()}
    assert set(gradcurate.__all__) == verbs | {"GradcurateError", "__version__"}
    assert all(hasattr(gradcurate, name) for name in gradcurate.__all__)
    assert gradcurate.__all__ == sorted(gradcurate.__all__)


def test_the_verbs_follow_one_another(finished):
    before = contents(RUN)
    summary = gradcurate.summary(RUN)
    assert summary == gradcurate.score(**finished)
    assert sum(summary.pool_statuses.values()) == 12
    assert sum(summary.validation_statuses.values()) == 5
    best = summary.best[0]

    selected = gradcurate.select(RUN, top_k=1, out="out", accept_unreliable=True)
    [row] = [json.loads(line) for line in Path(selected.export).read_text().splitlines()]
    assert best.prompt in json.dumps(row)
    assert (selected.selected, selected.scored) == (1, summary.pool_statuses["scored"])
    assert Path(selected.recipe).is_file()

    inspection = gradcurate.inspect(RUN, best.problem_id[:8])
    assert inspection.problem_id == best.problem_id
    assert inspection.score["score"] == best.score
    dot = sum(rollout.weight * rollout.directional for rollout in inspection.rollouts)
    assert dot == pytest.approx(inspection.score["dot"], rel=1e-9)
    rewards = [rollout.reward for rollout in inspection.rollouts]
    assert sum(reward >= 0.5 for reward in rewards) / 4 == best.pass_rate

    written = {"run.json", "selection.parquet"}
    assert {name for name, content in contents(RUN).items() if before.get(name) != content} == written


def test_a_validation_problem_is_inspected_without_a_score(finished):
    lines = Path("validation.jsonl").read_text().splitlines()
    ids = {p.problem_id: p for p in read_problems(RunDirectory(Path(RUN))) if p.split == "validation"}
    assert len(ids) == len(lines)
    inspection = gradcurate.inspect(RUN, next(iter(ids)))
    assert (inspection.split, inspection.score) == ("validation", None)
    assert {rollout.directional for rollout in inspection.rollouts} == {None}
    assert len(inspection.rollouts) == 4


def test_a_table_of_settings_yields_to_keywords(workspace):
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in workspace.items())
    Path("gradcurate.toml").write_text(text)
    report = gradcurate.rollout(config="gradcurate.toml", rollouts=2)
    assert (report.run, report.rollouts) == (RUN, (12 + 5) * 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gradcurate.score(pol="pool.jsonl"),
            "Settings must be known ones; 'pol' is not. Did you mean 'pool'?",
        ),
        (
            lambda: gradcurate.select(RUN),
            "Exactly one of --top-k and --top-fraction must be given; neither was. "
            "Use --top-k 100, or --top-fraction 0.25.",
        ),
        (
            lambda: gradcurate.select(RUN, top_k=1, top_fraction=0.5),
            "Exactly one of --top-k and --top-fraction must be given; both were. "
            "Use --top-k 100, or --top-fraction 0.25.",
        ),
        (
            lambda: gradcurate.verify(RUN, problems=1),
            "--problems must be at least 2; 1 was given. Use 32.",
        ),
        (lambda: gradcurate.summary(RUN, top=-1), "--top must be 0 or more; -1 was given. Use 10."),
        (
            lambda: gradcurate.summary(RUN, by=["levl"]),
            "--by must name a column of the pool; 'levl' is not one. Did you mean 'level'?",
        ),
        (
            lambda: gradcurate.summary(RUN, by=["zzz"]),
            "--by must name a column of the pool; 'zzz' is not one. "
            "Choose from: answer, level, question, source.",
        ),
        (
            lambda: gradcurate.inspect(RUN, "no-such-id"),
            "PROBLEM_ID must be the id of one problem of the run, or the beginning of one; "
            "'no-such-id' matches 0. `gradcurate summary --run DIR` shows ids.",
        ),
    ],
)
def test_wrong_arguments_are_named(finished, call, message):
    before = contents(RUN)
    with pytest.raises(SettingsError) as caught:
        call()
    assert str(caught.value) == message
    assert contents(RUN) == before


@pytest.mark.parametrize(
    ("call", "lacking"),
    [
        (lambda: gradcurate.summary(RUN), "scores.parquet"),
        (lambda: gradcurate.select(RUN, top_k=1), "run.json"),
        (lambda: gradcurate.verify(RUN), "run.json"),
        (lambda: gradcurate.inspect(RUN, "0"), "problems.parquet"),
    ],
)
def test_verbs_that_read_a_run_say_which_stage_it_lacks(workspace, call, lacking):
    with pytest.raises(RunDirectoryError) as caught:
        call()
    assert str(caught.value) == (
        f"{RUN}/{lacking} must exist; that stage has not finished in this run directory. "
        "Run `gradcurate score` first."
    )
    assert not Path(RUN).exists()
