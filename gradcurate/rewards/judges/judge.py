"""A judge's file: whom to ask, what, and how to read the reply.

For example::

    server = "http://localhost:8000/v1"
    model = "Qwen/Qwen3-32B"              # may be left out where the server has one
    template = '''
    Problem: {{ prompt }}
    Reference: {{ answer }}
    Response: {{ response }}
    Is the response right? End with "Verdict: yes" or "Verdict: no".'''
    pattern = "Verdict: (yes|no)"         # a regular expression; its last match counts
    scores = { yes = 1.0, no = 0.0 }      # left out: the match is read as a number
    divide_by = 1.0                       # 10 for marks out of 10
    budget = 20000                        # replies that may be paid for; left out: all that it takes
    max_tokens = 512
    temperature = 0.0

The template is Jinja's and knows the names in `NAMES`.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt
from jinja2 import Environment, StrictUndefined, TemplateError, meta
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gradcurate.errors import RewardError, SettingsError, first_line
from gradcurate.servers import base_url

NAMES = ("prompt", "response", "answer", "source", "row")
"""The problem's prompt as text, the completion, the reference answer, the source, the whole record."""

ENVIRONMENT = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701 - no web page


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What a judge's file says."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    server: str
    template: str
    pattern: str
    model: str | None = None
    scores: Mapping[str, float] | None = None
    divide_by: Annotated[float, Gt(0)] = 1.0
    budget: Annotated[int, Ge(0)] | None = None
    max_tokens: Annotated[int, Ge(1)] = 512
    temperature: Annotated[float, Ge(0)] = 0.0

    @property
    def digest(self) -> str:
        """Return a hash of what rewards depend on: not of where a named judge is, nor of its budget."""
        return _digest(self, without=("budget",))

    @property
    def question_digest(self) -> str:
        """Return a hash of what replies depend on: not of how they are read, either."""
        return _digest(self, without=("budget", "pattern", "scores", "divide_by"))

    def question(self, **values: Any) -> str:
        """Return what the judge is asked; values are those of `NAMES`."""
        return ENVIRONMENT.from_string(self.template).render(**values)

    def verdict(self, reply: str) -> float:
        """Return the reward that a reply means.

        Raises:
            ValueError: It has no match of the pattern, or one that means nothing.
        """
        matches = list(re.finditer(self.pattern, reply))
        if not matches:
            raise ValueError(f"the judge's reply has no match of {self.pattern!r}: {reply[-200:]!r}")
        found = matches[-1]
        matched = found.group(1 if found.re.groups else 0).strip()
        if self.scores is None:
            return float(matched) / self.divide_by
        if matched not in self.scores:
            raise ValueError(f"the judge said {matched!r}, which is none of {', '.join(self.scores)}")
        return self.scores[matched] / self.divide_by


def _digest(judge: Judge, without: tuple[str, ...]) -> str:
    if judge.model is not None:  # else only the server tells who judges
        without = (*without, "server")
    fields = {name: value for name, value in asdict(judge).items() if name not in without}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def read_judge(path: Path) -> Judge:
    """Read a judge's file.

    Raises:
        RewardError: It cannot be read, or says something else.
    """
    try:
        judge: Judge = TypeAdapter(Judge).validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
        base_url(judge.server)
        re.compile(judge.pattern)
        unknown = meta.find_undeclared_variables(ENVIRONMENT.parse(judge.template)) - set(NAMES)
        if unknown:
            raise ValueError(f"template: {min(unknown)} is none of {', '.join(NAMES)}")
    except OSError as error:
        raise _faulty(path, str(error.strerror)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _faulty(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except SettingsError as error:
        raise _faulty(path, f"server: {error.received}") from error
    except re.error as error:
        raise _faulty(path, f"pattern: {error}") from error
    except TemplateError as error:
        raise _faulty(path, f"template: {first_line(error)}") from error
    except ValueError as error:
        raise _faulty(path, first_line(error)) from error
    return judge


def _faulty(path: Path, received: str) -> RewardError:
    return RewardError(
        "a judge is a TOML file with server, template and pattern",
        f"{path}: {received}",
        "docs/rewards.md has an example.",
    )
