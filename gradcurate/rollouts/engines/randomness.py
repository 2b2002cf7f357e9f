"""The random numbers behind a rollout, fixed by (seed, problem, rollout) alone.

Each sampled token uses up one uniform number of its rollout's own stream. So a rollout does not
depend on its batch, on the order of problems, or on where a run was interrupted. An engine that draws
its own numbers is seeded with the first rollout that it samples.
"""

import hashlib

import numpy as np
from jaxtyping import Float


def rollout_uniforms(seed: int, problem_id: str, rollout: int, tokens: int) -> Float[np.ndarray, " T"]:
    """Return the uniform numbers in [0, 1) that choose a rollout's tokens."""
    key = np.frombuffer(_key(seed, problem_id, rollout), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(tokens, dtype=np.float32)


def rollout_seed(seed: int, problem_id: str, rollout: int) -> int:
    """Return the seed, below 2^31, of an engine that draws a rollout's numbers itself."""
    return int.from_bytes(_key(seed, problem_id, rollout)[:4], "little") >> 1


def _key(seed: int, problem_id: str, rollout: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{problem_id}/{rollout}".encode(), digest_size=16).digest()
