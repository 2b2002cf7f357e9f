"""A judge as a reward: what it is asked, how often, and what stops the run."""

import threading
from pathlib import Path

import pytest

import gradcurate
from fake_openai_server import FakeServer, chat_reply, refusal, serving
from gradcurate.errors import EngineError, RewardError, SettingsError
from gradcurate.rewards import RewardPool, RewardRequest, RewardSpec, load_rewards
from gradcurate.rewards.judges.replies import Replies


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADCURATE_CACHE", str(tmp_path / "cache"))


def write_judge(path, server, **lines):
    fields = {
        "server": f"'{server.address}'",
        "template": "'{{ prompt }} | {{ response }} | {{ answer }}'",
        "pattern": "'(right|wrong)'",
        "scores": "{ right = 1, wrong = 0 }",
        "model": "'policy'",
    }
    path.write_text("\n".join(f"{name} = {value}" for name, value in {**fields, **lines}.items()))
    return str(path)


def parity(body):
    """Right for every response of odd length."""
    response = body["messages"][0]["content"].split(" | ")[1]
    return chat_reply(f"Hm. {'right' if len(response) % 2 else 'wrong'}")


def request(response):
    return RewardRequest("s", response, "4", {}, prompt=[{"role": "user", "content": "2 + 2?"}])


def test_a_judge_is_asked_what_its_file_says(tmp_path):
    with serving(FakeServer(parity)) as server:
        judge = write_judge(tmp_path / "judge.toml", server, max_tokens=7, temperature=0.5)
        reward = load_rewards(RewardSpec([judge]))
        outcome = reward(request("4"))
    assert (outcome.reward, outcome.detail) == (1.0, {"reply": "Hm. right"})
    (asked,) = server.asked
    assert asked == {
        "model": "policy",
        "messages": [{"role": "user", "content": "2 + 2? | 4 | 4"}],
        "max_tokens": 7,
        "temperature": 0.5,
    }


def test_a_reply_is_paid_for_once(tmp_path):
    with serving(FakeServer(parity)) as server:
        first = write_judge(tmp_path / "judge.toml", server)
        assert [load_rewards(RewardSpec([first]))(request("4")).reward for _ in range(2)] == [1.0, 1.0]
        assert len(server.asked) == 1
        other_reading = write_judge(tmp_path / "b.toml", server, pattern="'H(m)'", scores="{ m = 5 }")
        assert load_rewards(RewardSpec([other_reading]))(request("4")).reward == 5.0
        assert len(server.asked) == 1
        other_question = write_judge(tmp_path / "c.toml", server, temperature="1.0")
        load_rewards(RewardSpec([other_question]))(request("4"))
        assert len(server.asked) == 2


def test_a_judge_adds_up_with_other_rewards(tmp_path):
    with serving(FakeServer(parity)) as server:
        judge = write_judge(tmp_path / "judge.toml", server)
        outcome = load_rewards(RewardSpec([judge, "exact"], weights=[0.5, 1.0]))(request("4"))
    assert outcome.reward == 1.5
    assert outcome.detail == {judge: {"reply": "Hm. right", "reward": 1.0}, "exact": 1.0}


def test_a_reply_without_a_verdict_costs_its_rollout_alone(tmp_path):
    def answer(body):
        return chat_reply(None) if "| 5 |" in body["messages"][0]["content"] else parity(body)

    with serving(FakeServer(answer)) as server:
        judge = write_judge(tmp_path / "judge.toml", server)
        with RewardPool(RewardSpec([judge], timeout_seconds=20), workers=2, timeout_seconds=20) as pool:
            bad, good = pool.score([request("5"), request("4")])
    assert bad.reward is None
    assert bad.detail["error"] == "ValueError: the judge's reply has no match of '(right|wrong)': ''"
    assert good.reward == 1.0


def test_a_question_that_the_judge_refuses_costs_its_rollout_alone(tmp_path):
    def answer(body):
        return refusal(400, "too long") if "| 5 |" in body["messages"][0]["content"] else parity(body)

    with serving(FakeServer(answer)) as server:
        judge = write_judge(tmp_path / "judge.toml", server)
        with RewardPool(RewardSpec([judge], timeout_seconds=20), workers=1, timeout_seconds=20) as pool:
            bad, good = pool.score([request("5"), request("4")])
    assert bad.detail["error"] == "ValueError: the judge refuses the question: Error code: 400 - too long"
    assert (bad.reward, good.reward) == (None, 1.0)


def test_a_judge_that_is_not_served_stops_the_run(tmp_path):
    with serving(FakeServer(parity)) as server:
        judge = write_judge(tmp_path / "judge.toml", server, model="'polcy'")
        with (
            RewardPool(RewardSpec([judge], timeout_seconds=20), workers=1, timeout_seconds=20) as pool,
            pytest.raises(SettingsError) as caught,
        ):
            pool.score([request("4")])
    assert str(caught.value) == (
        f"model of {judge} must name a model of the server; 'polcy' is none. Did you mean 'policy'?"
    )


def test_another_judge_at_another_address_is_asked_itself(tmp_path):
    for verdict, reward in (("right", 1.0), ("wrong", 0.0)):
        with serving(FakeServer(lambda _, verdict=verdict: chat_reply(verdict))) as server:
            judge = write_judge(tmp_path / "judge.toml", server)
            text = Path(judge).read_text().replace("model = 'policy'", "")
            Path(judge).write_text(text)
            assert load_rewards(RewardSpec([judge]))(request("4")).reward == reward


def test_a_busy_judge_is_asked_again(tmp_path):
    answers = iter([refusal(429, "busy"), refusal(503, "starting"), chat_reply("right")])
    with serving(FakeServer(lambda _: next(answers))) as server:
        judge = write_judge(tmp_path / "judge.toml", server)
        assert load_rewards(RewardSpec([judge]))(request("4")).reward == 1.0
    assert len(server.asked) == 3


def test_a_judge_that_is_down_stops_and_spends_nothing(tmp_path):
    with serving(FakeServer(lambda _: refusal(503, "starting"))) as server:
        judge = write_judge(tmp_path / "judge.toml", server, budget=1)
        spec = RewardSpec([judge], timeout_seconds=2)
        with RewardPool(spec, workers=1, timeout_seconds=20) as pool, pytest.raises(EngineError) as caught:
            pool.score([request("4")])
    assert str(caught.value) == (
        f"The server {server.address} must answer; Error code: 503 - starting. Look at its log."
    )
    with serving(FakeServer(parity)) as server:
        write_judge(tmp_path / "judge.toml", server, budget=1)
        assert load_rewards(spec)(request("4")).reward == 1.0


def test_a_judge_that_takes_too_long_stops(tmp_path):
    done = threading.Event()

    def slow(body):
        done.wait(timeout=30)
        return parity(body)

    with serving(FakeServer(slow)) as server:
        judge = write_judge(tmp_path / "judge.toml", server)
        with pytest.raises(EngineError) as caught:
            load_rewards(RewardSpec([judge], timeout_seconds=0.5))(request("4"))
        done.set()
    assert caught.value.received == "Request timed out (timed out)"
    assert caught.value.remedy == (
        "Give it more time (--server-timeout-seconds; a judge, --reward-timeout-seconds)."
    )


def test_a_budget_holds_for_all_workers_together(tmp_path):
    with serving(FakeServer(parity)) as server:
        judge = write_judge(tmp_path / "judge.toml", server, budget=3)
        spec = RewardSpec([judge], timeout_seconds=20)
        with RewardPool(spec, workers=3, timeout_seconds=20) as pool, pytest.raises(EngineError) as caught:
            pool.score([request("x" * number) for number in range(9)])
        assert len(server.asked) <= 3
        assert caught.value.received == f"{judge} has none left"
        write_judge(tmp_path / "judge.toml", server, budget=9)
        with RewardPool(spec, workers=3, timeout_seconds=20) as pool:
            outcomes = pool.score([request("x" * number) for number in range(9)])
    assert [outcome.reward for outcome in outcomes] == [number % 2 for number in range(9)]
    assert 9 <= len(server.asked) <= 9 + 2  # replies to the two other workers may have come to nobody


def test_a_run_stops_where_the_budget_does_and_goes_on(workspace):
    with serving(FakeServer(parity)) as server:
        judge = write_judge(Path("judge.toml"), server, budget=20)
        settings = {**workspace, "reward": judge, "reward_timeout_seconds": 30}
        with pytest.raises(EngineError):
            gradcurate.score(**settings)
        write_judge(Path("judge.toml"), server)
        gradcurate.score(**settings)
        asked = [body["messages"][0]["content"] for body in server.asked]
        assert len(asked) == len(set(asked))
        gradcurate.score(**{**workspace, "run": "runs/2"})
    first, second = ([row.pass_rate for row in gradcurate.summary(run).best] for run in ("runs/1", "runs/2"))
    assert first == second


def test_a_faulty_file_is_refused_before_anything_is_written(workspace):
    Path("judge.toml").write_text("server = 'http://localhost:1/v1'")
    with pytest.raises(RewardError, match="template: Field required"):
        gradcurate.score(**{**workspace, "reward": "judge.toml"})
    assert not Path("runs").exists()


def test_a_reserved_row_is_no_reply(tmp_path):
    replies = Replies(tmp_path / "replies.sqlite")
    assert replies.reserve("q", budget=1)
    assert replies.find("q") is None
    assert replies.reserve("q", budget=1)  # its worker may have died
    assert not replies.reserve("other", budget=1)
    replies.keep("q", "é")
    replies.release("q")
    assert replies.find("q") == "é"
    replies.close()
