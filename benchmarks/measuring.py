"""Ratios of times in one run, peak memory of a process, and where the tables go."""

import itertools
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
RELIABILITY_PAGE = PAGE.with_name("reliability.md")
MEBIBYTE = 2**20


def seconds(work: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Time several pieces of work in turn, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for name, call in itertools.chain(work.items(), *[work.items()] * repetitions):
        started = time.perf_counter()
        call()
        times[name].append(time.perf_counter() - started)
    return {name: taken[1:] for name, taken in times.items()}


def median_ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Return the median over repetitions of one time over another's of the same repetition."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark script as a process of its own; return the JSON of its last line."""
    command = [sys.executable, script, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{finished.stderr}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def peak_mebibytes() -> float:
    """Return the most memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEBIBYTE


def write_table(name: str, header: Sequence[str], rows: Sequence[Sequence[Any]], page: Path = PAGE) -> None:
    """Print a table, and put it into a page in place of the one of that name."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
    print(f"\n{name}\n{table}", flush=True)
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    found = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    page.write_text(found.sub(lambda _: f"{start}\n{table}\n{end}", text), encoding="utf-8")
