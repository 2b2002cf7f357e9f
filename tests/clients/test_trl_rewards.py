"""TRL's own reward functions, as a user names them."""

import pytest

from gradcurate.rewards import RewardPool, RewardRequest, RewardSpec

FILE = """
from trl.rewards import get_soft_overlong_punishment, think_format_reward

overlong = get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2)
"""


@pytest.mark.parametrize(
    ("name", "text", "tokens", "reward"),
    [
        ("think_format_reward", "<think>two and two</think>4", 2, 1.0),
        ("think_format_reward", "4", 2, 0.0),
        ("overlong", "4", 2, 0.0),
        ("overlong", "4", 3, -0.5),
        ("overlong", "4", 5, -1.0),
    ],
)
def test_trl_s_own_functions_reward_a_chat(tmp_path, name, text, tokens, reward):
    (tmp_path / "mine.py").write_text(FILE)
    request = RewardRequest(
        data_source="s",
        solution_str=text,
        ground_truth="4",
        extra_info={},
        prompt=[{"role": "user", "content": "2 + 2?"}],
        completion_token_ids=[9] * tokens,
    )
    with RewardPool(RewardSpec([f"{tmp_path / 'mine.py'}:{name}"]), 1, 60) as pool:
        assert pool.score([request])[0].reward == reward
