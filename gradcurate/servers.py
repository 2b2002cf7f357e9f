"""Reaching servers that speak OpenAI's protocol, and saying plainly what is wrong with one.

The client repeats requests, with growing pauses, while a server is down or busy; errors arrive here once it
has given up. The key is that of ``OPENAI_API_KEY``, and none need be set for servers that ask for none.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from gradcurate.errors import EngineError, SettingsError, first_line
from gradcurate.suggestion import choose_from

CONNECT_SECONDS = 10.0


def import_openai() -> ModuleType:
    """Return the package ``openai``.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise SettingsError(
            "A server needs the package openai",
            f"importing it failed: {error}",
            "Run `pip install 'gradcurate[openai]'`.",
        ) from error
    return openai


def base_url(address: str) -> str:
    """Return the address that paths such as ``/completions`` are put behind.

    Raises:
        SettingsError: It is no http address.
    """
    try:
        parts = urlsplit(address)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        usable = False
    if not usable:
        raise SettingsError(
            "A server's address begins with http:// or https://",
            f"{address!r} was given",
            "Write it as in http://localhost:8000/v1.",
        )
    return address if parts.path.strip("/") else f"{address.rstrip('/')}/v1"


def client_options(address: str, timeout_seconds: float, retries: int) -> dict[str, Any]:
    """Return the arguments of ``openai.OpenAI`` and ``openai.AsyncOpenAI`` for a server."""
    openai = import_openai()
    return {
        "base_url": base_url(address),
        "api_key": os.environ.get("OPENAI_API_KEY") or "none",
        "timeout": openai.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
        "max_retries": retries,
    }


def choose_model(served: list[str], wanted: str | None, option: str) -> str:
    """Return the model to ask a server for: the one that is wanted, else the only one.

    Raises:
        SettingsError: It serves no such model, or several where none is named.
    """
    if wanted is None and len(served) == 1:
        return served[0]
    if wanted in served:
        return str(wanted)
    raise SettingsError(
        f"{option} must name a model of the server",
        f"{wanted!r} is none" if wanted else f"it serves {', '.join(served) or 'none'}",
        choose_from(wanted or "", served) if served else "Start it with the policy.",
    )


@contextmanager
def listing_models(address: str) -> Iterator[None]:
    """Turn what the client makes of an answer that is no list of models into an error that says so.

    Raises:
        EngineError: It is none.
    """
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise EngineError(
            f"The server {address} must list its models at /models",
            f"what it answers there is no such list ({first_line(error)})",
            "Check that the address is that of its OpenAI-compatible interface.",
        ) from error


@contextmanager
def server_errors(address: str) -> Iterator[None]:
    """Turn the client's errors into one that says what to do.

    Raises:
        EngineError: The server is down, busy, or refuses.
    """
    openai = import_openai()
    try:
        yield
    except (openai.OpenAIError, BaseExceptionGroup) as error:
        first = _first(error)
        if not isinstance(first, openai.OpenAIError):
            raise first from error
        raise _explained(address, first) from error


def _first(error: BaseException) -> BaseException:
    """Return what a group of tasks failed with at first."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _explained(address: str, error: BaseException) -> EngineError:
    status = getattr(error, "status_code", None)
    cause = f" ({first_line(error.__cause__)})" if error.__cause__ else ""
    if isinstance(error, import_openai().APITimeoutError):
        status = 408
    remedy = {
        None: "Start it, or correct its address.",
        408: "Give it more time (--server-timeout-seconds; a judge, --reward-timeout-seconds).",
        401: "Set OPENAI_API_KEY.",
        404: "Correct its address; it must have /completions.",
        429: "Wait, or ask it for less at once (--server-concurrency; a judge, --reward-workers).",
    }.get(status, "Look at its log.")
    return EngineError(f"The server {address} must answer", f"{first_line(error)}{cause}", remedy)
