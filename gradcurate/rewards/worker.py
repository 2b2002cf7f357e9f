r"""One reward worker: ``python -m gradcurate.rewards.worker SPEC``, a `RewardSpec` as JSON.

It loads the reward and writes ``{"ready": true}``, or ``{"error": {expected, received, remedy}}`` and
leaves. Then it answers each line of JSON on stdin, the fields of a `RewardRequest`, with one line, the
fields of a `RewardOutcome`, or ``{"stop": {...}}`` if nothing can be rewarded for now. It leaves when stdin
ends.

The protocol keeps private copies of stdin and stdout. The reward itself finds an empty stdin, and
its prints go to stderr. SIGINT is ignored: the parent decides. On Linux the kernel kills the worker
when the thread that started it ends, so that an endless reward does not outlive a killed parent.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import TextIO

from gradcurate.errors import EngineError, GradcurateError, InputError, SettingsError
from gradcurate.rewards.loading import Reward, load_rewards
from gradcurate.rewards.request import RewardRequest, failed
from gradcurate.rewards.spec import RewardSpec
from gradcurate.rewards.verdict import storable

PR_SET_PDEATHSIG = 1


def main(spec: RewardSpec) -> None:
    """Serve the rewards that ``spec`` names until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    _limit_memory(spec.memory_mebibytes)
    requests, answers = _take_streams()
    try:
        reward = load_rewards(spec)
    except InputError as error:
        _send(answers, json.dumps({"error": _parts(error)}))
        return
    _send(answers, json.dumps({"ready": True}))
    process = os.getpid()
    for line in requests:
        answer = answer_to(line, reward)
        # A reward that forked and came back twice must not answer twice.
        if os.getpid() != process:
            os._exit(1)
        _send(answers, answer)


def answer_to(line: str, reward: Reward) -> str:
    """Return the outcome of one request, both as JSON text.

    This is the one boundary where exceptions of a user's code become data.
    """
    try:
        request = RewardRequest(**json.loads(line))
        return json.dumps(asdict(reward(request)))
    except (
        EngineError,
        SettingsError,
    ) as error:  # a judge that does not answer, or is none: no rollout's fault
        return json.dumps({"stop": {"kind": type(error).__name__, **_parts(error)}})
    except BaseException as error:  # noqa: BLE001 - any exception, SystemExit too, costs one rollout, not the run
        return json.dumps(asdict(failed(storable(f"{type(error).__name__}: {error}"))))


def _parts(error: GradcurateError) -> dict[str, str]:
    return {"expected": error.expected, "received": error.received, "remedy": error.remedy}


def _take_streams() -> tuple[TextIO, TextIO]:
    """Keep stdin and stdout for the protocol alone, and give the reward others."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _send(answers: TextIO, line: str) -> None:
    answers.write(line + "\n")
    answers.flush()


def _limit_memory(mebibytes: int | None) -> None:
    """Let allocations beyond the limit fail, as a MemoryError, in this process and its children."""
    if mebibytes is not None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        size = mebibytes << 20 if hard == resource.RLIM_INFINITY else min(mebibytes << 20, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(RewardSpec.from_json(sys.argv[1]))
