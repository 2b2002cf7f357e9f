"""The user's own reward: ``path/to/file.py:function``, loaded from the file as it is.

The function is plain or ``async``, and has the signature of a trainer's reward (`styles`), or it is a
rubric of several. The
file's own folder is put first on ``sys.path``, as Python does for a script, so that it can import its
neighbours. Loading runs the file's code: call it in a worker process.
"""

import asyncio
import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gradcurate.errors import RewardError
from gradcurate.rewards.rubric import rubric_parts
from gradcurate.suggestion import did_you_mean


def load_user_rewards(spec: str) -> tuple[list[Callable[..., Any]], Sequence[float]]:
    """Return the function that ``spec`` names, or those of a rubric with their weights.

    Raises:
        RewardError: If the file or function is missing, or the file fails.
    """
    file, _, name = spec.rpartition(":")
    if not file or not name:
        raise RewardError(
            "a reward of your own is written path/to/file.py:function",
            f"got {spec!r}",
            f"Write {spec.strip(':')}:compute_score, with the name of your function.",
        )
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise RewardError(
            f"the reward {spec!r} must name a Python file",
            f"there is no file {path}",
            "Check the path; a relative one starts at the working directory.",
        )
    module = _import_file(path)
    rubric = rubric_parts(getattr(module, name, None))
    functions, weights = rubric or ([_find_function(module, name, path)], ())
    if not functions:
        expected = f"the rubric {spec!r} must have a function"
        raise RewardError(expected, "it has none", "Give it one, as in Rubric(funcs=[f]).")
    return [_run_to_its_end(function) for function in functions], weights


def _import_file(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    # The name is unique so that the user's "json.py" or "math.py" replaces nobody's module.
    loaded = importlib.util.spec_from_file_location(f"gradcurate_reward_{digest}", path)
    if loaded is None or loaded.loader is None:
        raise RewardError("a reward file must be Python source", f"got {path}", "Give it the suffix .py.")
    module = importlib.util.module_from_spec(loaded)
    sys.path.insert(0, str(path.parent))
    sys.modules[loaded.name] = module  # dataclasses look their module up there
    try:
        loaded.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"the reward file {path} must import without an error",
            f"it raised {type(error).__name__}: {error}{_line_in(path, error)}",
            f"Run `{sys.executable} {path}` to see the whole traceback.",
        ) from error
    return module


def _line_in(path: Path, error: BaseException) -> str:
    """Return where in the user's file the error came from: deeper frames are other people's code."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f" (line {lines[-1]})" if lines else ""


def _find_function(module: ModuleType, name: str, path: Path) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    raise RewardError(
        f"{path} must define a function {name!r}",
        f"its functions are {', '.join(own)}" if own else "it defines no function",
        f"Name the function after the colon.{did_you_mean(name, own)}",
    )


def _run_to_its_end(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def reward(**request: Any) -> Any:
        returned = function(**request)
        return asyncio.run(_awaited(returned)) if inspect.isawaitable(returned) else returned

    return reward


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
