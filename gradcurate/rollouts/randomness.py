"""The random numbers behind a rollout, fixed by (seed, problem, rollout) alone.

Each sampled token uses up one uniform number of its rollout's own stream. So a rollout does not
depend on its batch, on the order of problems, or on where a run was interrupted.
"""

import hashlib

import numpy as np
from jaxtyping import Float


def rollout_uniforms(seed: int, problem_id: str, rollout: int, tokens: int) -> Float[np.ndarray, " T"]:
    """Return the uniform numbers in [0, 1) that choose a rollout's tokens."""
    key = hashlib.blake2b(f"{seed}/{problem_id}/{rollout}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))
    return rng.random(tokens, dtype=np.float32)
