"""A prompt that passes once, with all of its completions behind it."""

import pytest
import torch

from gradcurate.errors import PolicyError
from gradcurate.sketches.direction import norm, zero_direction
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.prompt_sharing import require_prompt_sharing
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from gradcurate.sketches.token_batch import pack_groups
from sketches.architectures import tiny_gpt2, tiny_model
from sketches.reference import exact_gradient, relative_error, sketch_gradient

CPU = torch.device("cpu")
PROMPTS = [[3, 4, 5, 6, 7], [8]]
COMPLETIONS = [[[9, 10, 11], [12], [13, 14]], [[15, 16], [17, 18, 19, 20]]]
WEIGHTS = [[1.0, -0.5, 0.25], [-1.0, 2.0]]
MODELS = {
    **{
        name: lambda name=name: tiny_model(name) for name in ("Llama", "Qwen3", "Gemma2", "Gemma3", "Mixtral")
    },
    "GPT2": tiny_gpt2,
}


def packed():
    return pack_groups(PROMPTS, COMPLETIONS, WEIGHTS, CPU, torch.float32)


def expected(sketcher, row):
    weighted = [(PROMPTS[row], c, w) for c, w in zip(COMPLETIONS[row], WEIGHTS[row], strict=True)]
    return exact_gradient(sketcher.model, sketcher.space, weighted, sketcher.temperature)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_row_is_the_weighted_gradient_of_its_rollouts(model):
    sketcher = build_sketcher(model(), Projection(256), temperature=0.8)
    require_prompt_sharing(sketcher.model)
    gradients = [expected(sketcher, row) for row in range(2)]
    total = zero_direction(sketcher.space, CPU)
    found = sketch_batch(sketcher, packed(), along=gradients[0], onto=total, weights=torch.ones(2))
    for row in range(2):
        assert relative_error(found.sketches[row], sketch_gradient(sketcher, gradients[row])) < 1e-5
        assert relative_error(found.sketches[row], sketch_gradient(sketcher, gradients[1 - row])) > 0.1
    assert found.directional[0] == pytest.approx(norm(gradients[0]) ** 2, rel=1e-5)
    difference = {name: total[name] - gradients[0][name] - gradients[1][name] for name in total}
    assert norm(difference) < 1e-5 * norm(total)


def test_the_prompt_is_there_once_and_each_completion_continues_it():
    batch = packed()
    assert batch.input_ids.tolist() == [[3, 4, 5, 6, 7, 9, 10, 13], [8, 15, 17, 18, 19, 0, 0, 0]]
    assert batch.lengths == (8, 5)
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5]
    assert batch.targets.tolist() == [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    assert batch.columns.tolist() == [4, 5, 6, 4, 4, 7, 0, 1, 0, 2, 3, 4]
    seen = (batch.attention[0, 0] == 0).int()
    assert seen[6].tolist() == [1, 1, 1, 1, 1, 1, 1, 0]  # the prompt and its own completion
    assert seen[7].tolist() == [1, 1, 1, 1, 1, 0, 0, 1]  # and not another's


def test_a_model_that_looks_at_what_it_should_not_is_refused():
    """Control: attention that ignores the mask, as a recurrent state would."""
    model = tiny_model("Llama")
    model.model.register_forward_pre_hook(drop_the_mask, with_kwargs=True)
    with pytest.raises(PolicyError) as raised:
        require_prompt_sharing(model)
    assert str(raised.value).startswith(
        "--granularity problem needs a model that follows an attention mask and positions; "
        "with a shared prompt, log-probabilities of LlamaForCausalLM differ by "
    )
    assert str(raised.value).endswith(". Use --granularity rollout.")


def drop_the_mask(_module, args, kwargs):
    return args, {**kwargs, "attention_mask": None}


def test_a_model_that_takes_no_positions_is_refused():
    with pytest.raises(PolicyError) as raised:
        require_prompt_sharing(tiny_model("Bloom"))
    assert str(raised.value) == (
        "--granularity problem needs a model that follows an attention mask and positions; "
        "BloomForCausalLM takes no position_ids. Use --granularity rollout."
    )
