"""Both kernels compute the map that the definition states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcurate.sketches import kernels
from gradcurate.sketches.kernels import KERNELS, add_buckets, transform_size
from gradcurate.sketches.modules import FusedModule, Member
from gradcurate.sketches.projection import Projection, project_module
from sketches.reference import relative_error, sketch_by_definition

TOLERANCE = 1e-5


def drawn(outputs, inputs, dim, seed=0, buckets=None):
    module = FusedModule("m", (Member("m", "m.weight", (outputs, inputs)),))
    return project_module(Projection(dim, seed), module, buckets or dim, torch.device("cpu"))


def random_pair(outputs, inputs, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tokens, inputs, generator=generator),
        torch.randn(tokens, outputs, generator=generator),
    )


def by_kernel(kernel, projection, inputs, *grads):
    """The sketch of one rollout, by a kernel of its own; the gradients are of one member or of several."""
    sketches = torch.zeros(1, projection.dim)
    buckets = KERNELS[kernel]().buckets(projection, inputs[None], [grad[None] for grad in grads])
    add_buckets(sketches, buckets, projection.offset)
    return sketches[0].double()


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 80),
    inputs=st.integers(1, 80),
    tokens=st.one_of(st.integers(1, 12), st.integers(250, 600)),
    dim=st.integers(2, 120),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_a_kernel_is_the_definition(kernel, outputs, inputs, tokens, dim, share, seed):
    projection = drawn(outputs, inputs, dim, seed, buckets=max(1, round(share * dim)))
    a, d = random_pair(outputs, inputs, tokens, seed)
    expected = sketch_by_definition(projection, d.double().T @ a.double())
    error = (by_kernel(kernel, projection, a, d) - expected).norm()
    # Relative to what was added up, since a sketch of few buckets may cancel to nearly nothing.
    assert error <= TOLERANCE * (d.norm(dim=1) * a.norm(dim=1)).norm()


SHAPES = {
    "one token": (24, 16, 1, 64),
    "more than a chunk of tokens": (24, 16, 300, 64),
    "O > K": (70, 16, 5, 64),
    "I > K": (16, 70, 5, 64),
    "both > 2 K": (140, 150, 5, 64),
    "O + I > K": (40, 40, 5, 64),
    "O + I = K": (32, 32, 5, 64),
    "odd K": (24, 16, 5, 63),
}


@pytest.mark.parametrize(("outputs", "inputs", "tokens", "dim"), SHAPES.values(), ids=SHAPES)
def test_the_kernels_agree_and_another_seed_does_not(outputs, inputs, tokens, dim):
    a, d = random_pair(outputs, inputs, tokens)
    fft, outer = (by_kernel(kernel, drawn(outputs, inputs, dim), a, d) for kernel in ("fft", "outer"))
    assert relative_error(fft, outer) < TOLERANCE
    assert relative_error(by_kernel("fft", drawn(outputs, inputs, dim, seed=1), a, d), outer) > 0.5


@pytest.mark.parametrize("kernel", KERNELS)
def test_tokens_add_up(kernel):
    """Linear in the gradient: the sketch of a sequence is the sum of its tokens' sketches."""
    projection = drawn(24, 16, 64)
    a, d = random_pair(24, 16, 300)
    whole = by_kernel(kernel, projection, a, d)
    parts = sum(by_kernel(kernel, projection, a[t : t + 1], d[t : t + 1]) for t in range(300))
    assert relative_error(parts, whole) < TOLERANCE
    assert relative_error(by_kernel(kernel, projection, a[:299], d[:299]), whole) > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("position", [(0, 0), (0, 149), (139, 0), (139, 149), (70, 75)])
def test_every_weight_lands_in_one_bucket_with_its_sign(kernel, position):
    """A vector longer than K must be folded: an FFT of K points would cut it off silently."""
    output, input_ = position
    projection = drawn(140, 150, 64)
    a, d = torch.zeros(1, 150), torch.zeros(1, 140)
    a[0, input_], d[0, output] = 1, 3
    expected = torch.zeros(64, dtype=torch.float64)
    sign = projection.output_signs[output] * projection.input_signs[input_]
    expected[(projection.offset + output + input_) % 64] = 3 * sign
    assert torch.allclose(by_kernel(kernel, projection, a, d), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_inputs_are_summed_in_float32(kernel):
    projection = drawn(24, 16, 64)
    a, d = (x.bfloat16() for x in random_pair(24, 16, 600))
    expected = sketch_by_definition(projection, d.double().T @ a.double())
    assert relative_error(by_kernel(kernel, projection, a, d), expected) < TOLERANCE
    rounded = sketch_by_definition(projection, d.T @ a)
    assert relative_error(rounded, expected) > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    tokens=st.integers(1, 40),
    block=st.integers(1, 50),
    members=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    inputs=st.integers(1, 40),
    dim=st.integers(2, 90),
)
def test_rows_of_a_batch_and_members_of_a_module_may_lie_across_blocks(
    kernel, rows, tokens, block, members, inputs, dim
):
    """One kernel serves modules of several sizes in turn, and its buffers carry nothing over."""
    outputs = sum(members)
    generator = torch.Generator().manual_seed(rows * 1000 + tokens)
    a, d = (torch.randn(rows, tokens, n, generator=generator) for n in (inputs, outputs))
    projection, used = drawn(outputs, inputs, dim), KERNELS[kernel]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kernels.TOKENS_PER_BLOCK, "cpu", block)
        used.buckets(
            drawn(outputs + 3, inputs + 1, dim), torch.ones(1, 9, inputs + 1), [torch.ones(1, 9, outputs + 3)]
        )
        sketches = torch.zeros(rows, dim)
        add_buckets(sketches, used.buckets(projection, a, list(d.split(members, dim=2))), projection.offset)
    for row in range(rows):
        expected = sketch_by_definition(projection, d[row].double().T @ a[row].double())
        scale = (d[row].norm(dim=1) * a[row].norm(dim=1)).norm()
        assert (sketches[row] - expected).norm() <= TOLERANCE * scale


@pytest.mark.parametrize(
    ("outputs", "inputs", "dim", "size"),
    [
        (960, 576, 4096, 1536),
        (576, 576, 4096, 1152),
        (3072, 576, 4096, 3840),
        (2048, 2048, 4096, 4096),
        (9, 8, 63, 16),
    ],
)
def test_a_transform_is_as_short_as_the_convolution_allows(outputs, inputs, dim, size):
    assert transform_size(drawn(outputs, inputs, dim)) == size
