"""The inner product of Adam's geometry, factored for hooks and exact in the oracle."""

import pytest
import torch

from gradcurate.errors import PolicyError
from gradcurate.sketches.direction import dot, norm, zero_direction
from gradcurate.sketches.optimizer_state import read_second_moments
from gradcurate.sketches.preconditioner import (
    exact_scales,
    factor_moments,
    precondition_direction,
    stack_moments,
)
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, preconditioned, sketch_batch, with_seed
from sketches.architectures import tiny_gpt2
from sketches.reference import as_batch, exact, random_rollouts, relative_error, sketch_by_definition
from tiny_models import tiny_llama

CPU = torch.device("cpu")
ROLLOUTS = random_rollouts(4)


def moments_of(model, rank_one, seed=0):
    """Positive second moments of every matrix; those of rank one are what the factors hold exactly."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.rand(*shape, generator=generator).add(0.1).pow(4)

    return {
        name: drawn(p.shape[0], 1) * torch.ones(p.shape) if rank_one else drawn(*p.shape)
        for name, p in model.named_parameters()
        if p.ndim == 2
    }


@pytest.fixture(params=["rank one", "any"])
def adam(request):
    """A sketcher in Adam's geometry, its plain twin, and the exact scale of every entry."""
    model = tiny_llama()
    plain = build_sketcher(model, Projection(256))
    moments = moments_of(model, request.param == "rank one")
    factors = factor_moments(moments, plain.space, CPU)
    scales = {f.name: exact_scales(stack_moments(moments, f)) for f in plain.space.modules}
    return request.param, plain, preconditioned(plain, factors), scales


def scaled(gradient, scales):
    return {name: gradient[name] * scales[name] for name in gradient}


def test_sketches_and_derivatives_are_of_scaled_gradients(adam):
    kind, plain, sketcher, scales = adam
    factored = {name: s.outputs[:, None] * s.inputs for name, s in sketcher.preconditioner.items()}
    if kind == "rank one":
        assert max(relative_error(factored[name], scales[name]) for name in scales) < 1e-3
    else:
        assert max(relative_error(factored[name], scales[name]) for name in scales) > 0.05
    direction = exact(plain, random_rollouts(3, seed=1))
    along = precondition_direction(direction, sketcher.preconditioner)
    found = sketch_batch(sketcher, as_batch(ROLLOUTS), along=along)
    unscaled = sketch_batch(plain, as_batch(ROLLOUTS)).sketches
    for row, rollout in enumerate(ROLLOUTS):
        gradient = scaled(exact(plain, [rollout]), factored)
        expected = sum(sketch_by_definition(plain.projections[name], gradient[name]) for name in gradient)
        assert relative_error(found.sketches[row], expected) < 1e-5
        assert relative_error(unscaled[row], expected) > 0.1
        aim = scaled(direction, factored)
        assert abs(found.directional[row] - dot(gradient, aim)) < 1e-5 * norm(gradient) * norm(aim)


def test_a_second_seed_keeps_the_inner_product(adam):
    _, plain, sketcher, _ = adam
    other = with_seed(sketcher, 1)
    expected = preconditioned(with_seed(plain, 1), sketcher.preconditioner)
    one, two = (sketch_batch(s, as_batch(ROLLOUTS)).sketches for s in (other, expected))
    assert torch.equal(one, two)


def test_a_step_of_adam_gains_what_the_inner_product_says():
    """<g[V], P g> with P = 1 / (sqrt(v) + eps), the step that Adam takes along g."""
    model = tiny_llama()
    plain = build_sketcher(model, Projection(256))
    moments = moments_of(model, rank_one=True)
    gradient, aim = exact(plain, ROLLOUTS[:2]), exact(plain, ROLLOUTS[2:])
    step = {f.name: gradient[f.name] / (stack_moments(moments, f).sqrt() + 1e-8) for f in plain.space.modules}
    dual = precondition_direction(gradient, factor_moments(moments, plain.space, CPU))
    assert dot(aim, dual) == pytest.approx(dot(aim, step), rel=1e-3, abs=1e-4 * norm(aim) * norm(step))


def trained(model, folder, names=None, named=False):
    """The optimizer.pt that a trainer would have written after one step."""
    parameters = [(n, p) for n, p in model.named_parameters() if names is None or n in names]
    norms = [(n, p) for n, p in parameters if "norm" in n or "ln_" in n or n.endswith("bias")]
    undecayed = {name for name, _ in norms}
    others = [pair for pair in parameters if pair[0] not in undecayed]
    groups = [{"params": part if named else [p for _, p in part]} for part in (others, norms) if part]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    generator = torch.Generator().manual_seed(0)
    for _, parameter in parameters:
        parameter.requires_grad_()
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    expected = {n: p.grad.square() * 0.001 for n, p in parameters}
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return expected


@pytest.mark.parametrize("named", [False, True], ids=["in the trainer's order", "by name"])
@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2])
def test_moments_are_found_by_name_in_a_trainer_s_checkpoint(tmp_path, model, named):
    expected = trained(model(), tmp_path, named=named)
    found = read_second_moments(tmp_path, model())
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name]) for name in expected)


def refusal(folder, model):
    with pytest.raises(PolicyError) as raised:
        read_second_moments(folder, model)
    message = str(raised.value)
    start, end = (
        f"--precondition adam needs the second moments of {folder}'s optimizer; ",
        ". Give a checkpoint that a Hugging Face or TRL trainer wrote with its Adam state.",
    )
    assert message.startswith(start)
    assert message.endswith(end)
    return message[len(start) : -len(end)]


def test_a_checkpoint_without_optimizer(tmp_path):
    assert refusal(tmp_path, tiny_llama()) == "it has no optimizer.pt"


def test_an_optimizer_of_another_model(tmp_path):
    trained(tiny_llama(hidden_size=16), tmp_path)
    assert refusal(tmp_path, tiny_llama()) == (
        "those of optimizer.pt have other shapes than the 21 parameters of the model"
    )


def test_an_optimizer_without_second_moments(tmp_path):
    model = tiny_llama().requires_grad_()
    torch.save(torch.optim.SGD(model.parameters(), lr=0.1).state_dict(), tmp_path / "optimizer.pt")
    assert refusal(tmp_path, tiny_llama()) == "optimizer.pt has none: KeyError: 0"


def test_a_file_that_would_run_code_is_not_run(tmp_path):
    torch.save({"state": Bomb(tmp_path), "param_groups": []}, tmp_path / "optimizer.pt")
    assert refusal(tmp_path, tiny_llama()).startswith("optimizer.pt has none: UnpicklingError: ")
    assert not (tmp_path / "burst").exists()


class Bomb:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (self.folder.joinpath("burst").touch, ())


def test_zero_moments_are_as_finite_as_adam_is():
    plain = build_sketcher(tiny_llama(), Projection(256))
    moments = {member.parameter: torch.zeros(member.shape) for member in plain.space.members}
    factors = factor_moments(moments, plain.space, CPU)
    direction = {name: torch.ones_like(m) for name, m in zero_direction(plain.space, CPU).items()}
    assert all(torch.isfinite(m).all() for m in precondition_direction(direction, factors).values())
