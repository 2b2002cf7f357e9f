"""The random numbers behind a rollout, fixed by (seed, problem, rollout) alone.

Each sampled token uses up one uniform number of its rollout's own stream. So a rollout does not
depend on its batch, on the order of problems, or on where a run was interrupted. An engine that draws
its own numbers is seeded with all rollouts that it is asked for.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float


def rollout_uniforms(seed: int, problem_id: str, rollout: int, tokens: int) -> Float[np.ndarray, " T"]:
    """Return the uniform numbers in [0, 1) that choose a rollout's tokens."""
    key = np.frombuffer(_key(seed, problem_id, rollout), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(tokens, dtype=np.float32)


def seed_of_all(seed: int, rollouts: Iterable[tuple[str, int]]) -> int:
    """Return the seed, below 2^31, of an engine that draws the numbers of these rollouts itself."""
    key = hashlib.blake2b(str(seed).encode(), digest_size=4)
    for problem_id, rollout in rollouts:
        key.update(f"/{problem_id}/{rollout}".encode())
    return int.from_bytes(key.digest(), "little") >> 1


def _key(seed: int, problem_id: str, rollout: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{problem_id}/{rollout}".encode(), digest_size=16).digest()
