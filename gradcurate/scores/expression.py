"""Scores as expressions over signals: ``cosine``, or ``rank(t) + 0.5 * rank(learnability)``.

The grammar is Python's for numbers, names, ``+ - * / **`` and calls of `FUNCTIONS`; nothing else is
evaluated. Values are arrays over problems, NaN where a problem has none, and an operation on NaN is NaN: a
problem without a signal never gets a score by arithmetic.
"""

import ast
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradcurate.errors import SettingsError
from gradcurate.scores.ranks import mean_ranks
from gradcurate.scores.signals import SIGNALS, Signal
from gradcurate.suggestion import choose_from

Values = Float[np.ndarray, " P"]
LONGEST = 500
LARGEST = sys.float_info.max


def rank(values: Values) -> Values:
    """Return each value's place among those there are, from 0 for the least to 1, ties sharing theirs."""
    known = ~np.isnan(values)
    places = np.full(len(values), np.nan)
    places[known] = (mean_ranks(values[known]) - 1) / max(1, known.sum() - 1)
    return places


def standardise(values: Values) -> Values:
    """Return values less their mean, over their standard deviation."""
    if np.isnan(values).all():
        return values
    return (values - np.nanmean(values)) / np.nanstd(values)


FUNCTIONS: Mapping[str, Callable[..., Values]] = {
    "rank": rank,
    "z": standardise,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log": np.log,
    "exp": np.exp,
    "min": np.minimum,
    "max": np.maximum,
}
ARGUMENTS = {"min": 2, "max": 2}
OPERATORS: Mapping[type[ast.operator], Callable[[Values, Values], Values]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}


@dataclass(frozen=True)
class Expression:
    """A score that parses.

    Attributes:
        text: As it was given.
        tree: Parsed, and known to hold nothing but what this module evaluates.
        names: The signals it reads.
    """

    text: str
    tree: ast.expr
    names: tuple[str, ...]

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Return the signals it reads."""
        return tuple(SIGNALS[name] for name in self.names)

    @property
    def of_direction(self) -> bool:
        """Say whether the validation direction plays a part."""
        return any(signal.of_direction for signal in self.signals)

    def __call__(self, values: Mapping[str, Values]) -> Values:
        """Evaluate over problems; what is not finite becomes NaN."""
        with np.errstate(all="ignore"):
            found = _evaluate(self.tree, values)
        known = ~np.any([np.isnan(values[name]) for name in self.names], axis=0)  # numpy has nan ** 0 == 1
        return np.where(known, _finite(found), np.nan)


def parse_expression(text: str) -> Expression:
    """Parse a score.

    Raises:
        SettingsError: It is no expression, or has a name, operator or function that there is not.
    """
    plain = text.strip().replace("-", "_")
    if plain in SIGNALS:  # cosine-corrected is a name, and no difference
        return Expression(plain, ast.Name(plain), (plain,))
    try:
        if len(text) > LONGEST:
            raise SyntaxError(f"it has more than {LONGEST} characters")
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise _refused(
            text, f"it does not parse: {reason}", "Write it as in 'cosine * learnability'."
        ) from error
    names = tuple(dict.fromkeys(_names(tree, text)))
    if not names:
        raise _refused(text, "it reads no signal", f"Choose from: {', '.join(SIGNALS)}.")
    return Expression(text.strip(), tree, names)


def _names(tree: ast.expr, text: str) -> list[str]:
    """Return the signals that a tree reads, having refused whatever else it holds."""
    match tree:
        case ast.Constant(value=int() | float() as value) if (
            not isinstance(value, bool) and abs(value) <= LARGEST
        ):
            return []
        case ast.Name(id=name):
            if name not in SIGNALS:
                raise _refused(text, f"{name!r} is no signal", choose_from(name, SIGNALS))
            return [name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _names(operand, text)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            return _names(left, text) + _names(right, text)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name not in FUNCTIONS:
                raise _refused(text, f"{name!r} is no function", choose_from(name, FUNCTIONS))
            if len(arguments) != ARGUMENTS.get(name, 1):
                raise _refused(
                    text,
                    f"{name} was given {len(arguments)} arguments",
                    f"Give it {ARGUMENTS.get(name, 1)}.",
                )
            return [found for argument in arguments for found in _names(argument, text)]
    raise _refused(
        text,
        f"{ast.unparse(tree)!r} is neither",
        f"Functions are {', '.join(FUNCTIONS)}; operators + - * / **.",
    )


def _evaluate(tree: ast.expr, values: Mapping[str, Values]) -> Values:
    match tree:
        case ast.Constant(value=number):
            size = len(next(iter(values.values())))
            return np.full(size, float(number))  # type: ignore[arg-type]  # _names let only numbers through
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=operator, operand=operand):
            found = _evaluate(operand, values)
            return -found if isinstance(operator, ast.USub) else found
        case ast.BinOp(left=left, op=operator, right=right):
            return _finite(OPERATORS[type(operator)](_evaluate(left, values), _evaluate(right, values)))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _finite(FUNCTIONS[name](*(_evaluate(argument, values) for argument in arguments)))
    raise AssertionError(f"_names let {ast.dump(tree)} through")


def _finite(values: Values) -> Values:
    """Let one problem's quotient by zero not reach the others, through a mean or a rank."""
    return np.where(np.isfinite(values), values, np.nan)


def _refused(text: str, received: str, remedy: str) -> SettingsError:
    return SettingsError(
        "--score must be a signal, or an expression of signals, numbers and functions",
        f"in {text!r}, {received}",
        remedy,
    )
