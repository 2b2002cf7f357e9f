"""A batch that does not fit is cut; what is left behind by the failed attempt is not used twice."""

import functools
import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradcurate.errors import OutOfMemoryError
from gradcurate.sketches.direction import norm, zero_direction
from gradcurate.sketches.halving import Budget
from gradcurate.sketches.kernels import KERNELS, Kernel
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from sketches.architectures import tiny_model
from sketches.reference import as_batch, random_rollouts, relative_error
from tiny_models import tiny_llama

TOLERANCE = 1e-5
ROLLOUTS = random_rollouts(4)


def sketcher_of(model):
    return build_sketcher(model, Projection(256))


class SmallMemory(Kernel):
    """A kernel that runs out of memory, as a GPU would, on batches of more tokens than it can hold."""

    def __init__(self, tokens, module):
        self.tokens, self.module, self.sizes = tokens, module, []

    def buckets(self, projection, inputs, output_grads):
        size = inputs.shape[0] * inputs.shape[1]
        if size > self.tokens and projection is self.module:
            self.sizes.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return KERNELS["fft"]().buckets(projection, inputs, output_grads)


@pytest.mark.parametrize("module", [0, 3, 7])
def test_a_batch_that_does_not_fit_is_cut_and_nothing_is_summed_twice(module):
    """It fails at the first, a middle or the last module: others are in the direction by then."""
    whole = sketcher_of(tiny_llama())
    failing = whole.projections[whole.space.modules[module].name]
    longest = max(rollout.tokens for rollout in ROLLOUTS) - 1
    small = replace(whole, kernel=SmallMemory(longest, failing), budget=Budget())
    weights = torch.tensor([rollout.weight for rollout in ROLLOUTS])
    sums = [zero_direction(whole.space, torch.device("cpu")) for _ in range(2)]
    found, expected = (
        sketch_batch(sketcher, as_batch(ROLLOUTS), onto=onto, weights=weights)
        for sketcher, onto in zip((small, whole), sums, strict=True)
    )
    assert relative_error(found.sketches, expected.sketches) < TOLERANCE
    assert relative_error(found.token_logprobs, expected.token_logprobs) < TOLERANCE
    assert norm({name: sums[0][name] - sums[1][name] for name in sums[0]}) < TOLERANCE * norm(sums[1])
    assert small.kernel.sizes[0] == 4 * longest


def test_what_did_not_fit_once_is_not_tried_again():
    sketcher = sketcher_of(tiny_llama())
    longest = max(rollout.tokens for rollout in ROLLOUTS) - 1
    kernel = SmallMemory(longest, next(iter(sketcher.projections.values())))
    small = replace(sketcher, kernel=kernel, budget=Budget())
    sketch_batch(small, as_batch(ROLLOUTS))
    tried = list(kernel.sizes)
    assert tried
    sketch_batch(small, as_batch(ROLLOUTS))
    assert kernel.sizes == tried
    assert small.budget.too_many_tokens <= 2 * longest


def test_a_single_rollout_that_does_not_fit_is_an_error_with_its_length():
    sketcher = sketcher_of(tiny_llama())
    small = replace(
        sketcher, kernel=SmallMemory(0, next(iter(sketcher.projections.values()))), budget=Budget()
    )
    with pytest.raises(OutOfMemoryError) as raised:
        sketch_batch(small, as_batch(ROLLOUTS[:1]))
    assert str(raised.value) == (
        f"A rollout of {ROLLOUTS[0].tokens - 1} tokens must fit in memory with its activations; it does not: "
        "CUDA out of memory. Use --gradient-checkpointing, --dtype bfloat16, or a device with more memory."
    )


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    sketcher = sketcher_of(tiny_llama())
    sketcher.model.model.layers[1].register_forward_pre_hook(fail_otherwise)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        sketch_batch(sketcher, as_batch(ROLLOUTS))


def fail_otherwise(_module, _args):
    raise RuntimeError("expected scalar type Float but found Half")


OUT_OF_MEMORY = """
import resource, sys, torch
from gradcurate.sketches.projection import Projection
from gradcurate.sketches.sketcher import build_sketcher, sketch_batch
from gradcurate.sketches.token_batch import pad_rollouts
from tiny_models import tiny_llama

def batch(rows):
    return pad_rollouts([[1] * 60] * rows, [[2] * 60] * rows, torch.device("cpu"))

model = tiny_llama(hidden_size=128, intermediate_size=2048, num_hidden_layers=4, vocab_size=3000)
sketcher = build_sketcher(model, Projection(256))
sketch_batch(sketcher, batch(1))
in_use = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (in_use * 1024 + 2**28, resource.RLIM_INFINITY))
found = sketch_batch(sketcher, batch(128))
assert found.sketches.shape == (128, 256)
assert found.sketches[0].norm() > 0
print(sketcher.budget.too_many_tokens / 119)
"""


def test_memory_that_the_system_really_refuses():
    """256 MiB for activations of 15,232 tokens, which need several times as much."""
    paths = [path for path in sys.path if path]
    finished = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(Path(__file__).parents[1])])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert 1 < float(finished.stdout) <= 128


MODELS = {name: functools.partial(tiny_model, name) for name in ("Llama", "Gemma3", "Phi", "Mixtral")}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_running_blocks_again_changes_nothing(model):
    sketcher = sketcher_of(model())
    direction = {m.name: torch.randn(m.out_features, m.in_features) for m in sketcher.space.modules}
    kept, again = (
        sketch_batch(replace(sketcher, recompute=recompute), as_batch(ROLLOUTS), along=direction)
        for recompute in (False, True)
    )
    assert torch.equal(again.sketches, kept.sketches)
    assert torch.equal(again.directional, kept.directional)
    assert "forward" not in vars(sketcher.model.model.layers[0])


def test_running_blocks_again_keeps_no_inputs_of_modules():
    """What the hooks hold when the backward pass begins, of modules that read 64 features."""
    sketcher, held = sketcher_of(tiny_llama(num_hidden_layers=4)), []

    def count(_module, _args):
        held.append(sum(type(o) is torch.Tensor and o.shape[-1:] == (64,) for o in gc.get_objects()))

    before = sum(type(o) is torch.Tensor and o.shape[-1:] == (64,) for o in gc.get_objects())
    handle = sketcher.model.lm_head.register_forward_pre_hook(count)
    for recompute in (False, True):
        sketch_batch(replace(sketcher, recompute=recompute), as_batch(ROLLOUTS))
        gc.collect()
    handle.remove()
    calls = (
        len(held) // 2
    )  # the output layer runs several times a pass; the first is before the backward pass
    assert held[0] - before >= 4  # one a block, and more
    assert held[calls] - before <= 1
