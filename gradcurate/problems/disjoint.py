"""No problem may be in both splits.

The score of a validation problem found in the pool would be the alignment of its own gradient
with itself, and would rank it first for no reason.
"""

from gradcurate.problems.problem import Problem, content_id
from gradcurate.problems.reading import ProblemSet, problem_set
from gradcurate.problems.rows import OnBadRow, RowError, RowGate


def check_disjoint(pool: ProblemSet, validation: ProblemSet, on_bad_row: OnBadRow = "stop") -> ProblemSet:
    """Return the pool without what is also in the validation set, by id or by prompt and answer.

    Raises:
        ProblemsError: With ``stop``, the two share a problem; with ``skip``, nothing is left.
    """
    gate = RowGate(pool.file, on_bad_row)
    kept: list[tuple[int, Problem]] = []
    where = {
        key: f"{validation.file}:{line}"
        for line, problem in zip(validation.lines, validation.problems, strict=True)
        for key in _keys(problem)
    }
    for line, problem in zip(pool.lines, pool.problems, strict=True):
        try:
            _require_absent(problem, where)
        except RowError as fault:
            gate.refuse(line, problem.row, fault)
        else:
            kept.append((line, problem))
    return problem_set(kept, [*pool.bad_rows, *gate.bad_rows], pool.file)


def _keys(problem: Problem) -> tuple[tuple[str, str], ...]:
    return ("content", content_id(problem.prompt, problem.answer)), ("id", problem.problem_id)


def _require_absent(problem: Problem, where: dict[tuple[str, str], str]) -> None:
    content, identity = _keys(problem)
    if content in where:
        raise RowError(
            "a problem that is not in the validation set (it would be scored against its own gradient)",
            f"{where[content]} has the same prompt and answer",
            "Remove it from the pool",
        )
    if identity in where:
        raise RowError(
            "an id that is not in the validation set",
            f"{where[identity]} is another problem with the id {problem.problem_id!r}",
            "Make the ids unique across both files, take ids from content with --id-column ''",
        )
