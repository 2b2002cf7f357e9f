"""The gradient space: the matrices whose gradients make up a policy's gradient.

Linear modules that read the very same tensor (q/k/v; gate/up) are one `FusedModule`: one input
transform, one output transform and one product serve them all. Matrices that no hook can see
(fused experts, routers, convolutions) are fused modules of their own; their gradient is formed by
autograd, a rollout at a time.
"""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Member:
    """One weight of the model, seen as a matrix of outputs by inputs.

    Attributes:
        module: The linear module that owns it; the parameter itself where none does.
        parameter: The weight's name in the model.
        shape: The weight's shape, of two or more dimensions.
        transposed: The weight is stored as inputs by outputs, as in GPT-2.
    """

    module: str
    parameter: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def in_features(self) -> int:
        """Return the matrix's columns."""
        return self.shape[0] if self.transposed else self.shape[-1]

    @property
    def out_features(self) -> int:
        """Return the matrix's rows: outputs, stacked over all other dimensions (experts)."""
        return math.prod(self.shape) // self.in_features

    def to_matrix(self, weight: Tensor) -> Float[Tensor, "O I"]:
        """View a tensor of the weight's shape as a matrix."""
        return weight.T if self.transposed else weight.reshape(-1, self.in_features)

    def to_weight(self, matrix: Float[Tensor, "O I"]) -> Tensor:
        """View a matrix in the weight's shape."""
        return matrix.T if self.transposed else matrix.reshape(self.shape)


@dataclass(frozen=True)
class FusedModule:
    """Weights that multiply the same input, stacked along their outputs.

    Attributes:
        name: The modules' common prefix and own names, as in ``layers.0.self_attn.q_proj+k_proj``.
        members: The weights, in the order in which they are stacked.
        hooked: Whether hooks see all of its gradient; if not, autograd forms it.
    """

    name: str
    members: tuple[Member, ...]
    hooked: bool = True

    @property
    def in_features(self) -> int:
        """Return the shared input size."""
        return self.members[0].in_features

    @property
    def member_features(self) -> tuple[int, ...]:
        """Return the members' output sizes."""
        return tuple(member.out_features for member in self.members)

    @property
    def out_features(self) -> int:
        """Return the stacked output size."""
        return sum(self.member_features)


@dataclass(frozen=True)
class GradientSpace:
    """The fused modules that make up a policy's gradient, in forward order."""

    modules: tuple[FusedModule, ...]

    @property
    def digest(self) -> str:
        """Return a hash of names, members and shapes."""
        listing = [(f.name, [(m.parameter, m.shape, m.transposed) for m in f.members]) for f in self.modules]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    @property
    def members(self) -> tuple[Member, ...]:
        """Return all weights."""
        return tuple(itertools.chain.from_iterable(f.members for f in self.modules))

    @property
    def by_autograd(self) -> bool:
        """Return whether any gradient is formed by autograd, so that rollouts must pass one at a time."""
        return not all(f.hooked for f in self.modules)
