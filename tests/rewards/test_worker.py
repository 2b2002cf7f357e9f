"""The worker's protocol as another program would speak it, and what it must not import."""

import json
import subprocess
import sys
from dataclasses import asdict

from gradcurate.rewards import RewardRequest, RewardSpec


def talk(spec, lines):
    """Return the messages of a worker that is sent ``lines`` and then the end of its stdin."""
    command = [sys.executable, "-m", "gradcurate.rewards.worker", RewardSpec([spec]).to_json()]
    done = subprocess.run(command, input="".join(lines), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_says_ready_then_answers_line_by_line_and_leaves_when_stdin_ends():
    lines = [json.dumps(asdict(RewardRequest("s", text, "é\n2", {}))) + "\n" for text in ("é\n2", "x")]
    assert talk("exact", lines) == [
        {"ready": True},
        {"reward": 1.0, "detail": {}},
        {"reward": 0.0, "detail": {}},
    ]


def test_a_reward_that_cannot_be_loaded_is_told_in_three_parts():
    (message,) = talk("nonsense", [])
    assert list(message) == ["error"]
    assert list(message["error"]) == ["expected", "received", "remedy"]
    assert message["error"]["received"] == "got 'nonsense'"


def test_the_heavy_rewards_answer_through_the_worker():
    request = json.dumps(asdict(RewardRequest("chain_sum", "The answer is 12.", "12", {}))) + "\n"
    for spec in ("math", "reasoning_gym", "numeric"):
        assert talk(spec, [request])[1:] == [{"reward": 1.0, "detail": {}}]


def test_a_worker_does_not_import_torch():
    program = "import sys, gradcurate.rewards.worker; print('torch' in sys.modules, 'json' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
