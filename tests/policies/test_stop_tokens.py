"""Which token ends a response that has lost its own."""

from gradcurate.policies.stop_tokens import end_token_id
from tiny_models import tiny_tokenizer


def test_of_several_end_tokens_the_template_s_own_ends_a_text():
    tokenizer = tiny_tokenizer()
    stops = frozenset(tokenizer.convert_tokens_to_ids(["<pad>", "<eos>"]))
    assert end_token_id(tokenizer, stops) == tokenizer.eos_token_id
    tokenizer.chat_template = "{{ messages[0]['content'] }}<pad>"
    assert end_token_id(tokenizer, stops) == tokenizer.pad_token_id
