"""Rewards for many completions, from worker processes that may hang, crash or be killed.

Every worker has at most one request in flight, with a deadline of its own. A worker that misses it is
killed, one that dies is buried, and both are replaced; the rollout fails with the reason, and no other
one is touched. Loading the reward does not count as reward time.

On Linux workers end with the thread that started them, so a pool starts them all in one of its own.
"""

import selectors
import shlex
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar, final

from gradcurate.errors import EngineError, GradcurateError, RewardError, SettingsError
from gradcurate.rewards.process import START_LIMIT_SECONDS, WorkerProcess
from gradcurate.rewards.request import RewardOutcome, RewardRequest, failed
from gradcurate.rewards.spec import RewardSpec

LONGEST_WAIT_SECONDS = 0.5
"""After which the thread that scores looks whether another one has closed the pool."""

STOPS: dict[str, type[GradcurateError]] = {kind.__name__: kind for kind in (EngineError, SettingsError)}
"""What a worker says of a judge, which ends the run and not a rollout."""

Result = TypeVar("Result")


@final
class RewardPool:
    """Worker processes that all serve the same rewards; a context manager that leaves none behind.

    Args:
        spec: The rewards.
        workers: How many processes.
        timeout_seconds: How long one reward may take.

    Raises:
        RewardError: If the reward cannot be loaded.
    """

    def __init__(self, spec: RewardSpec, workers: int, timeout_seconds: float) -> None:
        self._spec, self._timeout_seconds = spec, timeout_seconds
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._in_thread(lambda: self._load(workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, requests: Sequence[RewardRequest]) -> list[RewardOutcome]:
        """Return one outcome for each request, in the order of the requests.

        The pool is closed if this raises, so that no late answer can be taken for another's.

        Raises:
            RewardError: If a replaced worker cannot load the reward any more.
            EngineError: If a judge does not answer, or its budget is spent.
            SettingsError: If its server has no such model.
            ValueError: If the pool is closed.
        """
        if not self._workers:
            raise ValueError("a closed RewardPool scores nothing; open another")
        return self._in_thread(lambda: self._score(requests))

    def close(self) -> None:
        """Kill all workers; harmless when done twice."""
        while self._workers:
            self._stop(self._workers[0])
        self._selector.close()
        self._thread.shutdown(wait=False)

    def _in_thread(self, work: Callable[[], Result]) -> Result:
        """Work in the pool's own thread, which lives as long as its workers may."""
        try:
            return self._thread.submit(work).result()
        except BaseException:
            self.close()
            raise

    def _load(self, workers: int) -> None:
        for _ in range(workers):
            self._start()
        while not all(worker.ready for worker in self._workers):
            self._collect()

    def _score(self, requests: Sequence[RewardRequest]) -> list[RewardOutcome]:
        waiting = deque(range(len(requests)))
        outcomes: dict[int, RewardOutcome] = {}
        while len(outcomes) < len(requests):
            self._hand_out(requests, waiting)
            outcomes.update(self._collect())
        return [outcomes[position] for position in range(len(requests))]

    def _start(self) -> None:
        worker = WorkerProcess(self._spec)
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)

    def _stop(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        registered = self._selector.get_map() or {}  # none once the pool is closed
        for pipe in (worker.answers, worker.requests):
            if pipe in registered:
                self._selector.unregister(pipe)
        worker.kill()

    def _hand_out(self, requests: Sequence[RewardRequest], waiting: deque[int]) -> None:
        for worker in [worker for worker in self._workers if worker.ready and worker.position is None]:
            if not worker.is_alive():  # it died idle: nobody's rollout
                self._stop(worker)
                self._start()
            elif waiting:
                position = waiting.popleft()
                worker.assign(position, vars(requests[position]), self._timeout_seconds)
                self._selector.register(worker.requests, selectors.EVENT_WRITE, worker)

    def _collect(self) -> dict[int, RewardOutcome]:
        """Wait for the next thing to happen, and return the outcomes that it brought."""
        if not self._workers:
            raise ValueError("another thread closed this RewardPool")
        first_deadline = min(worker.deadline for worker in self._workers)
        outcomes: dict[int, RewardOutcome] = {}
        patience_seconds = min(LONGEST_WAIT_SECONDS, max(0.0, first_deadline - time.monotonic()))
        for key, _ in self._selector.select(patience_seconds):
            worker: WorkerProcess = key.data
            if key.fd == worker.answers:
                outcomes |= self._receive(worker)
            elif worker in self._workers and worker.send():
                self._selector.unregister(worker.requests)
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline <= now]:
            limit = self._timeout_seconds if worker.ready else START_LIMIT_SECONDS
            outcomes |= self._lose(worker, f"timed out after {limit:g} s")
        return outcomes

    def _receive(self, worker: WorkerProcess) -> dict[int, RewardOutcome]:
        try:
            message = worker.receive()
        except EOFError:
            return self._lose(worker, f"the worker process died (exit code {worker.exit_code()})")
        if message is None:
            return {}
        if "error" in message:
            raise RewardError(**message["error"])
        if "stop" in message:
            raise STOPS[message["stop"].pop("kind")](**message["stop"])
        position = worker.position
        worker.rest()
        return {} if position is None else {position: RewardOutcome(**message)}

    def _lose(self, worker: WorkerProcess, reason: str) -> dict[int, RewardOutcome]:
        """Replace a worker that is dead or late; its request, if it had one, fails for ``reason``."""
        tail = worker.stderr_tail().strip()
        self._stop(worker)
        if not worker.ready:
            raise RewardError(
                f"the reward {', '.join(self._spec.names)} must load in a worker process",
                f"{reason}; its stderr ends with: {tail or '(nothing)'}",
                f"See it fail: python -m gradcurate.rewards.worker {shlex.quote(self._spec.to_json())}",
            )
        self._start()
        return {} if worker.position is None else {worker.position: failed(reason)}
