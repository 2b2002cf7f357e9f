"""Reading pools and validation sets: file layouts, columns, ids.

`read_problems` gives a `ProblemSet`, `check_disjoint` keeps the two splits apart, and `table`
holds what a run directory stores. Needs neither torch nor transformers; `datasets` is imported
only to load from the hub.
"""

from gradcurate.problems.columns import ColumnChoice
from gradcurate.problems.disjoint import check_disjoint
from gradcurate.problems.problem import Message, Problem, Split, content_id
from gradcurate.problems.reading import ProblemSet, read_problems
from gradcurate.problems.rows import BadRow, OnBadRow
from gradcurate.problems.table import PROBLEMS_SCHEMA, problems_to_table, table_to_problems

__all__ = [
    "PROBLEMS_SCHEMA",
    "BadRow",
    "ColumnChoice",
    "Message",
    "OnBadRow",
    "Problem",
    "ProblemSet",
    "Split",
    "check_disjoint",
    "content_id",
    "problems_to_table",
    "read_problems",
    "table_to_problems",
]
