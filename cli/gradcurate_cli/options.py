"""Options shared by verbs; those of settings are made from `gradcurate.config.Settings` itself.

`with_settings` gives a command one option for every setting, so that flags, help texts and types
have one source. An option that is not given is None, and the TOML file or the default decides.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import typer

from gradcurate.config import base_type, flag, setting_fields

JSON_FLAG = "--json"
JsonOption = Annotated[bool, typer.Option(JSON_FLAG, help="Print the result as JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Report no progress.")]
RunOption = Annotated[str, typer.Option("--run", help="The run directory.", show_default=False)]
ConfigOption = Annotated[
    Optional[Path],  # noqa: UP045 (typer reads it)
    typer.Option("--config", help="A TOML file of settings; flags win over it.", show_default=False),
]

WIDEST_CHOICES = 20
PANELS = {
    None: "Inputs and machine",
    "problems": "Problems",
    "rollouts": "Rollouts and rewards",
    "sketches": "Gradients and sketches",
    "scores": "Scores",
}


def with_settings(command: Callable[..., None], only: Collection[str] | None = None) -> Callable[..., None]:
    """Give ``command(settings, ...)`` an option for every setting instead of its first argument.

    Args:
        command: A verb.
        only: Only these settings; their defaults are then those of the run.
    """
    fields = [field for field in setting_fields() if only is None or field.name in only]
    names = [field.name for field in fields]
    own = list(inspect.signature(command).parameters.values())[1:]

    def wrapped(**given: Any) -> None:
        settings = {name: given.pop(name) for name in names}
        command({name: value for name, value in settings.items() if value is not None}, **given)

    parameters = [*(_parameter(field, show_default=only is None) for field in fields), *own]
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _parameter(field: "dataclasses.Field[Any]", show_default: bool) -> inspect.Parameter:
    told = show_default and field.default not in (None, dataclasses.MISSING)
    default = f"  [dim]\\[default: {field.default}][/dim]" if told else ""
    option = typer.Option(
        flag(field.name),
        help=f"{field.metadata['help']}{default}",
        rich_help_panel=PANELS[field.metadata["stage"]],
        show_default=False,
    )
    choices = get_args(base_type(field.name))
    if len("|".join(choices)) > WIDEST_CHOICES:  # the help text lists them, and keeps its column wide
        option.metavar = "<name>"
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[base_type(field.name)], option],  # noqa: UP045 (a runtime type)
    )
