"""Results of a producer that works on while its consumer is busy with something else."""

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def in_background(
    produce: Callable[[Callable[[Result], None]], None], stop: Callable[[], None]
) -> Generator[Result, None, None]:
    """Call ``produce(deliver)`` in a thread of its own, and yield what it delivers.

    Args:
        produce: Delivers results until there are no more; what it raises is raised here, after them.
        stop: Makes it return soon, when the consumer wants no more.
    """
    results: queue.SimpleQueue[Result | _End] = queue.SimpleQueue()

    def work() -> None:
        try:
            produce(results.put)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            results.put(_End(error))
        else:
            results.put(_End(None))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(result := results.get(), _End):
            yield result
    except BaseException:  # the consumer's end, or an interrupt
        stop()
        thread.join()
        raise
    if result.error is not None:
        raise result.error
