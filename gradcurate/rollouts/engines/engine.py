"""What samples: problems in, completions out, batch by batch as they become complete."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from gradcurate.rollouts.batches import Batch
from gradcurate.rollouts.rollout import Completion


class Engine(ABC):
    """Where completions come from. Nothing is loaded or contacted before the first batch is asked for."""

    @abstractmethod
    def sample(self, batches: Sequence[Batch]) -> Generator[tuple[Batch, list[Completion]], None, None]:
        """Yield every batch once, in any order, with the G completions of each problem next to each other.

        Closing the generator ends the sampling.

        Raises:
            EngineError: The engine does not answer (any more).
        """

    def committed(self, batch: Batch) -> None:  # noqa: B027 - most engines keep nothing
        """Learn that a batch's shard is written, so that nothing of it need be kept."""

    def close(self) -> None:  # noqa: B027 - most engines hold nothing
        """Release what the engine holds: the gradient passes need the memory."""
