"""Sampling from a server: what it is asked, what is kept of its answers, and what happens when it fails."""

import threading

import pytest

from fake_openai_server import FakeServer, refusal, serving, text_completion
from gradcurate.config import Settings
from gradcurate.errors import EngineError, SettingsError
from gradcurate.rollouts.engines.journal import Journal
from gradcurate.rollouts.engines.server_engine import ServerEngine
from gradcurate.rollouts.rollout import Completion, PromptedProblem
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id
PROBLEMS = [PromptedProblem(f"p{number}", "pool", (10 + number, 7)) for number in range(6)]
BATCHES = [tuple(PROBLEMS[:4]), tuple(PROBLEMS[4:])]
SETTINGS = {
    "pool": "pool",
    "validation": "validation",
    "model": "model",
    "run": "run",
    "engine": "openai",
    "rollouts": 3,
    "max_tokens": 5,
    "server_retries": 1,
    "server_concurrency": 4,
}


def echo(body):
    """The prompt's first token and the end, as vLLM tells it."""
    first = body["prompt"][0]
    return text_completion(
        text="ignored",
        token_ids=[first, EOS],
        logprobs={"token_logprobs": [-0.5, -0.25], "tokens": ["a", ""]},
    )


def echoed(problem, logprobs=(-0.5, -0.25)):
    return Completion((problem.prompt_token_ids[0], EOS), logprobs, "stop")


@pytest.fixture
def sample(tmp_path):
    """Everything that an engine yields, from a server with this answer."""

    def run(server, **changes):
        settings = Settings(**{**SETTINGS, "server": server.address, **changes})
        journal = Journal(tmp_path, "digest")
        engine = ServerEngine(settings, TOKENIZER, frozenset({EOS}), journal)
        return dict(engine.sample(BATCHES))

    return run


def test_tokens_and_log_probabilities_are_the_server_s(sample):
    with serving(FakeServer(echo)) as server:
        found = sample(server)
    assert found == {batch: [echoed(p) for p in batch for _ in range(3)] for batch in BATCHES}
    rollouts = server.asked[1:]  # the first finds out what the server takes
    assert sorted(tuple(body["prompt"]) for body in rollouts) == sorted(
        p.prompt_token_ids for p in PROBLEMS for _ in range(3)
    )
    for body in rollouts:
        assert {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p")} == {
            "model": "policy",
            "max_tokens": 5,
            "temperature": 1.0,
            "top_p": 1.0,
        }
        # What a generation configuration may say of sampling is not the policy's.
        assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
        assert body["return_token_ids"] is True
        assert body["stop_token_ids"] == [EOS]
        assert "seed" not in body


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"top_p": 0.9}], ids=str)
def test_log_probabilities_of_another_distribution_are_not_kept(sample, changes):
    with serving(FakeServer(echo)) as server:
        found = sample(server, **changes)
    assert found[BATCHES[1]] == [echoed(p, logprobs=None) for p in BATCHES[1] for _ in range(3)]


@pytest.mark.parametrize(
    ("text", "finish_reason", "tokens"),
    [
        ("15", "stop", [*TOKENIZER("15")["input_ids"], EOS]),
        ("15", "length", TOKENIZER("15")["input_ids"]),
        ("", "stop", [EOS]),
        ("", "length", [EOS]),
    ],
)
def test_of_a_server_that_tells_no_tokens_the_text_is_cut_again(sample, text, finish_reason, tokens):
    logprobs = {"token_logprobs": [-0.5], "tokens": ["15"]}
    answer = text_completion(text=text, finish_reason=finish_reason, logprobs=logprobs)
    with serving(FakeServer(lambda _: answer)) as server:
        found = sample(server)
    expected = Completion(tuple(tokens), None, finish_reason, provenance="text")
    assert {completion for batch in found.values() for completion in batch} == {expected}


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_takes_only_openai_s_own_fields_is_given_no_other(sample, status):
    def strict(body):
        return refusal(status, "unknown field") if "top_k" in body else echo(body)

    with serving(FakeServer(strict)) as server:
        sample(server)
    assert ["top_k" in body for body in server.asked] == [True] + [False] * 18


def test_as_many_requests_as_allowed_are_under_way_and_no_more(sample):
    together = threading.Barrier(4)

    def answer(body):
        if body["max_tokens"] > 1 and body["prompt"][0] != 15:  # 15 questions for 4 at once leave some
            try:
                together.wait(timeout=2)
            except threading.BrokenBarrierError:
                together.reset()
        return echo(body)

    with serving(FakeServer(answer)) as server:
        sample(server)
    assert server.most_at_once == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(sample, status):
    refused = set()

    def busy(body):
        first = tuple(body["prompt"])
        if first not in refused:
            refused.add(first)
            return refusal(status, "busy")
        return echo(body)

    with serving(FakeServer(busy)) as server:
        found = sample(server)
    assert len(refused) == len(PROBLEMS)
    assert found == {batch: [echoed(p) for p in batch for _ in range(3)] for batch in BATCHES}


def test_a_server_that_stays_busy_stops_the_run_which_then_goes_on(sample):
    answered = []

    def failing(body):
        if len(answered) > 7:
            return refusal(429, "slow down")
        answered.append(body)
        return echo(body)

    with serving(FakeServer(failing)) as server, pytest.raises(EngineError) as caught:
        sample(server, server_concurrency=1)
    assert str(caught.value) == (
        f"The server {server.address} must answer; Error code: 429 - slow down; 7 of the 18 rollouts "
        "asked of it are kept. Wait, or ask it for less at once (--server-concurrency; a judge, "
        "--reward-workers). The same command then goes on from there."
    )
    with serving(FakeServer(echo)) as server:
        found = sample(server)
    assert len(server.asked) == 1 + 18 - 7
    assert found == {batch: [echoed(p) for p in batch for _ in range(3)] for batch in BATCHES}


def test_a_server_that_is_not_there_is_named(sample):
    with serving(FakeServer(echo)) as server:
        pass
    with pytest.raises(EngineError) as caught:
        sample(server)
    assert caught.value.expected == f"The server {server.address} must answer"
    assert caught.value.received == (
        "Connection error (All connection attempts failed); 0 of the 18 rollouts asked of it are kept"
    )
    assert caught.value.remedy == (
        "Start it, or correct its address. The same command then goes on from there."
    )


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "Set OPENAI_API_KEY."),
        (404, "Correct its address; it must have /completions."),
        (413, "Look at its log."),
    ],
)
def test_a_server_that_refuses_is_not_asked_again(sample, status, remedy):
    with serving(FakeServer(lambda _: refusal(status, "no"))) as server, pytest.raises(EngineError) as caught:
        sample(server)
    assert caught.value.remedy.startswith(remedy)
    assert len(server.asked) == 1


def test_an_answer_without_a_choice_is_refused(sample):
    answer = (200, {"id": "1", "object": "text_completion", "created": 1, "model": "policy", "choices": []})
    with serving(FakeServer(lambda _: answer)) as server, pytest.raises(EngineError) as caught:
        sample(server)
    assert caught.value.expected == (
        f"The server {server.address} must answer a request for one completion with one"
    )


def test_an_address_of_something_else_is_named(sample):
    class Page(FakeServer):
        def serve(self, path, body):
            return 200, "a web page"

    with serving(Page(echo)) as server, pytest.raises(EngineError) as caught:
        sample(server)
    assert caught.value.expected == f"The server {server.address} must list its models at /models"


@pytest.mark.parametrize(
    ("models", "wanted", "message"),
    [
        (
            ["base", "policy-1"],
            None,
            "--server-model must name a model of the server; it serves base, policy-1. "
            "Choose from: base, policy-1.",
        ),
        (
            ["base", "policy-1"],
            "policy",
            "--server-model must name a model of the server; 'policy' is none. Did you mean 'policy-1'?",
        ),
        (
            [],
            None,
            "--server-model must name a model of the server; it serves none. Start it with the policy.",
        ),
    ],
)
def test_a_model_that_is_not_served_is_refused(sample, models, wanted, message):
    with serving(FakeServer(echo, models)) as server, pytest.raises(SettingsError) as caught:
        sample(server, server_model=wanted)
    assert str(caught.value) == message
    assert not server.asked


def test_one_of_several_models_is_asked(sample, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(FakeServer(echo, ["base", "adapter"])) as server:
        sample(server, server_model="adapter")
    assert {body["model"] for body in server.asked} == {"adapter"}
    assert server.keys == {"Bearer secret"}


def test_a_consumer_that_leaves_ends_the_asking(tmp_path):
    going = threading.Event()

    def slow(body):
        if body["prompt"][0] >= 14:  # the second batch
            going.wait(timeout=30)
        return echo(body)

    with serving(FakeServer(slow)) as server:
        settings = Settings(**{**SETTINGS, "server": server.address})
        results = ServerEngine(settings, TOKENIZER, frozenset({EOS}), Journal(tmp_path, "digest")).sample(
            BATCHES
        )
        next(results)
        results.close()
        asked = len(server.asked)
        going.set()
    assert len(server.asked) == asked < 19
