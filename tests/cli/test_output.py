"""Where output goes: results on standard output, the rest on standard error, and the exit code."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradcurate
from finished_runs import contents, flags
from gradcurate.report.checks import Checks
from gradcurate.report.summary import PartSummary, RankedProblem, Summary
from gradcurate.report.verification import Fidelity, Proxy, Verification
from gradcurate.scores.confidence import Confidence, SetCheck
from gradcurate.scores.reliability import Reliability
from gradcurate.scores.validation import DirectionCheck
from gradcurate.store.lock import locked
from gradcurate_cli.running import console, run
from gradcurate_cli.summary import show_summary
from gradcurate_cli.verify import show_verification

RUN = ("--run", "runs/1")
COMMAND = Path(sys.executable).with_name("gradcurate")


def strict(text):
    """Parse exactly one line of JSON, without the numbers that JSON does not have."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    [line] = text.splitlines()
    return json.loads(line, parse_constant=refuse)


def best_id():
    return gradcurate.summary("runs/1").best[0].problem_id


@pytest.mark.parametrize(
    ("verb", "keys"),
    [
        (("summary", *RUN), {"run", "pool_statuses", "best", "parts", "failed_rollouts"}),
        (
            ("select", *RUN, "--top-k", 2, "--accept-unreliable"),
            {"selected", "scored", "inseparable", "export", "recipe", "notes"},
        ),
        (("rescore", *RUN, "--score", "t"), {"best", "worst", "confidence"}),
        (("verify", *RUN, "--problems", 3), {"score", "sketched_cosine", "direction_error"}),
        (("inspect", *RUN), {"problem_id", "prompt", "rollouts", "score"}),
        (("score",), {"run", "best", "worst"}),
        (("rollout",), {"rollouts", "failed_rollouts"}),
        (("sketch",), {"sketches", "sketch_bytes", "direction_norm"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_json_is_one_object_on_standard_output(finished, invoke, verb, keys):
    more = [best_id()] if verb[0] == "inspect" else flags(finished) if len(verb) == 1 else []
    asked = invoke(*verb, *more, "--json")
    assert asked.exit_code == 0
    assert keys <= strict(asked.stdout).keys()
    shown = invoke(*verb, *more)
    assert shown.exit_code == 0
    assert shown.stdout.strip()
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown.stdout)


def test_json_has_no_nan():
    perfect = Fidelity(1.0, 0.0, 0.0, "a")
    with pytest.raises(ValueError, match="not JSON compliant"):
        run(lambda: Fidelity(math.nan, 0.0, 0.0, "a"), print, as_json=True)
    run(lambda: Verification(2, 64, 0.125, perfect, perfect, 0.0), print, as_json=True)


def test_an_undefined_correlation_is_null_and_a_word(capsys):
    found = Fidelity(None, 0.5, 0.5, "a")
    run(lambda: found, print, as_json=True)
    assert strict(capsys.readouterr().out)["spearman"] is None
    show_verification(Verification(2, 64, 0.125, found, found, 0.0))
    assert capsys.readouterr().out.count("undefined") == 2


def test_a_gradient_model_is_shown_beside_what_is_stored(capsys):
    found = Fidelity(0.75, 0.5, 0.5, "a")
    show_verification(Verification(2, 64, 0.125, found, found, 0.0, Proxy("models/small", found, 0.254)))
    shown = capsys.readouterr().out
    assert "exact under models/small" in shown
    assert shown.endswith("models/small took 0.25 times the policy's time\n")


ENVELOPE = {
    "kind": "RunDirectoryError",
    "expected": "nowhere/scores.parquet must exist",
    "received": "that stage has not finished in this run directory",
    "remedy": "Run `gradcurate score` first.",
}
LINE = (
    "error: nowhere/scores.parquet must exist; that stage has not finished in this run directory. "
    "Run `gradcurate score` first.\n"
)


def test_an_error_is_one_line_and_with_json_an_envelope_too(invoke):
    plain, as_json = invoke("summary", "--run", "nowhere"), invoke("summary", "--run", "nowhere", "--json")
    assert (plain.exit_code, plain.stdout, plain.stderr) == (2, "", LINE)
    assert (as_json.exit_code, as_json.stderr) == (2, LINE)
    assert strict(as_json.stdout) == {"error": ENVELOPE}


def test_an_unusable_input_leaves_with_2_and_no_traceback(workspace, invoke):
    with Path("pool.jsonl").open("a") as file:
        file.write('{"question": \n')
    result = invoke("score", *flags(workspace))
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("error: pool.jsonl:13: expected ")
    assert not Path("runs").exists()


def test_no_signal_leaves_with_3(workspace, invoke):
    Path("rewards.py").write_text("def parity(**request):\n    return 0.0\n")
    result = invoke("score", *flags(workspace), "--quiet")
    assert (result.exit_code, result.stdout) == (3, "")
    line = result.stderr.splitlines()[-1]  # before it, transformers' bar: `main` is what silences that
    assert line.startswith("error: At least one validation problem must have rollouts of different rewards; ")
    assert "of 5 problems, 5 all_wrong. " in line


def test_a_held_run_directory_leaves_with_4(finished, invoke):
    before = contents("runs/1")
    with locked(Path("runs/1")):
        result = invoke("score", *flags(finished))
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(
        f"error: One process at a time may work in runs/1; it is held by process {os.getpid()} "
    )
    assert contents("runs/1") == before


def test_an_interrupt_leaves_with_130_and_says_what_is_kept(invoke, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradcurate, "summary", interrupted)
    result = invoke("summary", *RUN)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "interrupted; finished batches are kept, and the same command goes on from them\n"


def test_progress_goes_to_standard_error_and_quiet_silences_it(finished, invoke):
    loud, quiet = invoke("score", *flags(finished)), invoke("score", *flags(finished), "--quiet")
    assert loud.stderr.splitlines()[:2] == [
        "roll out validation: 20 rollouts, 20 of them finished before",
        "roll out pool: 48 rollouts, 48 of them finished before",
    ]
    assert quiet.stderr == ""
    assert loud.stdout == quiet.stdout != ""


def test_flags_win_over_the_toml_file(workspace, invoke):
    Path("run.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in workspace.items())
    )
    result = invoke("rollout", "--config", "run.toml", "--rollouts", 2, "--run", "runs/2", "--json")
    assert strict(result.stdout)["rollouts"] == (12 + 5) * 2
    assert not Path("runs/1").exists()
    assert json.loads(Path("runs/2/run.json").read_text())["settings"]["max_tokens"] == 8


# How it looks


def awkward_summary():
    ranked = RankedProblem(
        rank=12345,
        problem_id="05aeb627a89f76d7",
        source="openai/gsm8k-main-train",
        score=-0.0123,
        score_low=-0.0345,
        score_high=0.0099,
        pass_rate=0.25,
        prompt="[/b] :warning: " + "long " * 9,
        answer="2",
    )
    part = PartSummary("difficulty", "x" * 50, problems=100, scored=0, mean_score=None, mean_pass_rate=None)
    rates = dict.fromkeys(("0", "up to 1/4", "up to 1/2", "up to 3/4", "below 1", "1"), 10000)
    dump = {"matched": 90, "unmatched": 4, "ambiguous": 1, "unusable": 0}
    checks = Checks(0.00123, 12.5, 10000, 0.0123, 0.0156, 0.00123, dump)
    one = {"scored": 1}
    confidence = Confidence(
        "rank(t) + 0.5 * rank(learnability)",
        of_direction=True,
        sets=(SetCheck("openai/gsm8k", DirectionCheck(100, 16.0, 0.1, 0.12, 0.05), 0.0123),),
        ranking=Reliability(100.0, 16.0, 0.2, 0.35, 0.1, 0.5, 0.59, 60),
    )
    return Summary("runs/[1]", one, one, 3, 7, rates, (part,), checks, confidence, (ranked,), (ranked,))


def test_a_summary_is_whole_on_80_columns(capsys):
    show_summary(awkward_summary())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if "05aeb627a89f76d7" in line]
    assert len(rows) == 2
    assert all("12345  -0.0123  0.0222  0.25  openai/gsm8k" in row and "[/b] :w" in row for row in rows)
    assert sum("10000      10000" in line for line in lines) == 1
    assert "sampler's log-probabilities: KL 0.001 nats a token, largest gap 1e+01" in lines
    assert "sketch error, by a second seed on 10000 rows: scores ±1.2%, cosines ±0.0156" in lines
    assert "derivatives by forward passes, of two steps: ±0.1%" in lines
    assert "rollouts of the dump: 90 matched, 4 unmatched, 1 ambiguous, 0 unusable" in lines
    assert "rows set aside: 3; runs/[1]/bad_rows.jsonl says why" in lines
    assert "rollouts without a reward: 7; `gradcurate inspect` shows why" in lines
    assert lines[-1] == "scores: runs/[1]/scores.parquet"
    told = " ".join(" ".join(lines).split())
    assert (
        "direction of openai/gsm8k: 100 problems x 16 rollouts, cosine of halves of the rollouts 0.10, "
        "of the problems 0.12 ± 0.05 numerators are in part of sketches: cosines ±0.0123 ranking by "
        "rank(t) + 0.5 * rank(learnability): reliability 0.35 (90 %: 0.10 to 0.50, 100 problems), 59% of "
        "the gain of a ranking without noise; 0.5 needs about 60 rollouts a problem UNRELIABLE: halves "
        "of the direction should have a cosine of at least 0.2. Use about 36 rollouts a validation "
        "problem or about 184 validation problems with a signal, and validation problems that the policy "
        "solves sometimes."
    ) in told


@pytest.mark.parametrize("width", [1, 10, 30])
def test_a_narrow_terminal_is_no_error(capsys, monkeypatch, width):
    monkeypatch.setattr(console, "_width", width)
    show_summary(awkward_summary())
    assert "scores: runs/[1]/scores.parquet" in capsys.readouterr().out


def test_what_the_policy_wrote_is_printed_as_it_is(finished, invoke):
    inspection = gradcurate.inspect("runs/1", best_id())
    shown = invoke("inspect", *RUN, best_id()).stdout
    for rollout in inspection.rollouts:
        assert f"\n{rollout.completion}\n" in shown
    assert shown.startswith(f"{best_id()} (pool, {inspection.source})\n")
    assert f"rank 1, score {inspection.score['score']:+.4f}, by sketches alone " in shown


def test_colours_are_for_terminals_alone():
    plain, forced = (
        subprocess.run(
            [COMMAND, "summary", "--run", "nowhere"], capture_output=True, env=os.environ | more, check=False
        )
        for more in ({}, {"FORCE_COLOR": "1"})
    )
    assert plain.returncode == forced.returncode == 2
    assert b"\x1b[" not in plain.stderr
    assert b"\x1b[" in forced.stderr


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        (("select", *RUN, "--top-k", "x"), "Input should be a valid integer"),
        (("summary",), "Missing"),
        (("score", "--nope"), "No such option"),
    ],
)
def test_wrong_flags_are_json_where_that_was_asked_for(arguments, received):
    done = subprocess.run([COMMAND, *arguments, "--json"], capture_output=True, text=True)
    assert done.returncode == 2
    error = strict(done.stdout)["error"]
    assert error["kind"] == "SettingsError"
    assert received in error["received"]
    assert done.stderr == f"error: {error['expected']}; {error['received']}. {error['remedy']}\n"


def test_a_locale_without_utf_8_costs_no_result(finished):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([COMMAND, "summary", *RUN], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "best aligned" in done.stdout
