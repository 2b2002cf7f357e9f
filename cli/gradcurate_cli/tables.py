"""Tables that stay readable on 80 columns: no frame, and long text cut instead of folded."""

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text


def open_table(title: str) -> Table:
    """Return an empty table with its title above."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def add_columns(table: Table, names: Sequence[str], justify: Literal["left", "right"] = "right") -> None:
    """Add columns that keep their width: numbers, and what a person copies."""
    for name in names:
        table.add_column(name, justify=justify, no_wrap=True)


def cut(text: str) -> Text:
    """Return a cell that ends with … where it does not fit; its brackets are no markup."""
    return Text(text, no_wrap=True, overflow="ellipsis")
