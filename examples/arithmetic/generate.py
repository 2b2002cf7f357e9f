"""Make pool.jsonl and validation.jsonl with reasoning-gym: the same bytes on every run.

Six skills and difficulties, each question behind three worked examples. Some answers of the pool are
deliberately wrong: those of a question with one number changed by one, as a policy that is unsure may well
give. The column ``corrupted`` marks them for the report, and the ranking never sees it.

    pip install reasoning-gym
    python generate.py
"""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import reasoning_gym

ONE_DIGIT = {"min_digits": 1, "max_digits": 1}
TWO_DIGITS = {"min_digits": 2, "max_digits": 2}
TWO_TERMS = {"min_terms": 2, "max_terms": 2}

# source: reasoning-gym dataset, its settings, pool problems, of which corrupted, validation problems
SOURCES: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "sum-1": ("chain_sum", {**TWO_TERMS, **ONE_DIGIT}, 40, 12, 10),
    "product-1": ("products", {**TWO_TERMS, **ONE_DIGIT}, 40, 12, 10),
    "gcd-12": ("gcd", {"min_numbers": 2, "max_numbers": 2, "max_value": 12}, 16, 6, 4),
    "sum3-1": ("chain_sum", {"min_terms": 3, "max_terms": 3, **ONE_DIGIT}, 8, 0, 0),
    "sum-2": ("chain_sum", {**TWO_TERMS, **TWO_DIGITS}, 8, 0, 0),
    "product-2": ("products", {**TWO_TERMS, **TWO_DIGITS}, 8, 0, 0),
}
CANDIDATES = 400  # drawn per source, so that enough are left once repeats are dropped
SEED = 2602
EXAMPLES = """\
Q: What is 3 + 4?
A: 7

Q: What is 2 * 5?
A: 10

Q: What is the gcd of 4 and 6?
A: 2

"""


def question(dataset: str, asked: str) -> str:
    """Word a question in few tokens."""
    if dataset == "gcd":
        numbers = re.findall(r"\d+", asked)
        return f"What is the gcd of {' and '.join(numbers)}?"
    expression = re.search(r"\d[\d+* -]*\d", asked)
    if expression is None:
        raise ValueError(f"no expression in {asked!r}")
    return f"What is {expression.group()}?"


def problems(source: str) -> list[dict[str, Any]]:
    """Return distinct problems of one source."""
    dataset, settings, *_ = SOURCES[source]
    distinct = {}
    for entry in reasoning_gym.create_dataset(dataset, size=CANDIDATES, seed=SEED, **settings):
        asked = question(dataset, entry["question"])
        distinct[asked] = {
            "prompt": f"{EXAMPLES}Q: {asked}\nA:",
            "answer": entry["answer"],
            "source": source,
            "corrupted": False,
            "metadata": {"source_dataset": dataset},
        }
    return list(distinct.values())


def corrupt(problem: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return the problem with the answer of a question that has one number changed by one."""
    asked = problem["prompt"].removeprefix(EXAMPLES)
    while True:
        place = rng.choice(list(re.finditer(r"\d+", asked)))
        changed = abs(int(place.group()) + rng.choice([-1, 1]))
        wrong = answer(asked[: place.start()] + str(changed) + asked[place.end() :])
        if str(wrong) != problem["answer"]:
            return {**problem, "answer": str(wrong), "corrupted": True}


def answer(asked: str) -> int:
    """Return the answer of a question of two numbers."""
    left, right = (int(number) for number in re.findall(r"\d+", asked))
    if "gcd" in asked:
        return math.gcd(left, right)
    if "*" in asked:
        return left * right
    return left + right if "+" in asked else left - right


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} problems in {path}")


def main() -> None:
    """Write both files beside this script."""
    rng = random.Random(SEED)
    pool, validation = [], []
    for source, (_, _, in_pool, corrupted, in_validation) in SOURCES.items():
        rows = rng.sample(problems(source), in_pool + in_validation)
        validation += rows[:in_validation]
        pool += [corrupt(row, rng) for row in rows[in_validation:][:corrupted]]
        pool += rows[in_validation + corrupted :]
    rng.shuffle(pool)
    folder = Path(__file__).parent
    write(folder / "pool.jsonl", pool)
    write(folder / "validation.jsonl", validation)


if __name__ == "__main__":
    main()
