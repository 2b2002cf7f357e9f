"""The sketch stage: live rows in, one shard of sketches per batch out.

The validation split goes first, in the order of its batches: its weighted gradients add up to the
exact direction, which the pool's rollouts are then differentiated along. Between batches the sum
so far is kept in ``validation/partial.safetensors``, with the number of batches in it; a run that
was killed goes on from there. Saving it is rationed, so that a large model does not spend its time
on writing; batches after the last save are run once more for the sum, and their shards are kept.

With ``scorer="forward"`` the pool's derivatives are differences of two forward passes, and its rows
have neither norm nor sketch.

Every batch is checked: gradients finite and not zero, log-probabilities those of the sampler. A
few rows in the middle of the pool are sketched with a second seed as well, into
``validation/second_seed.parquet``: the difference is the error that sketching makes.
"""

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from gradcurate.errors import NumericalError
from gradcurate.progress import Progress, Task
from gradcurate.sketches.diagnosis import first_not_finite
from gradcurate.sketches.direction import Direction, dot, load_direction, save_direction, zero_direction
from gradcurate.sketches.direction_record import DirectionRecord, read_record
from gradcurate.sketches.live_rollouts import LiveRow
from gradcurate.sketches.live_sketches import difference_rows, lay_out, sketch_rows
from gradcurate.sketches.mismatch import require_agreement, row_mismatches
from gradcurate.sketches.preconditioner import precondition_direction
from gradcurate.sketches.rows import sketches_schema
from gradcurate.sketches.sketcher import BatchGradients, Sketcher, with_seed
from gradcurate.sketches.step import settle_differences
from gradcurate.store.atomic import replacing
from gradcurate.store.run_directory import SECOND_SEED, STEP, require_equal_fingerprints
from gradcurate.store.tables import Fingerprint, read_fingerprint, shard_paths, write_table

Batch = tuple[LiveRow, ...]
SHARE_OF_TIME_SAVING = 0.2
SECOND_SEED_ROWS = 16
REFERENCE_SHARDS = ("pool-reference-", "validation-reference-")
STEP_ROWS = 8


@dataclass(frozen=True)
class SketchStage:
    """Everything a batch of sketches is made with.

    Attributes:
        sketcher: Loads the policy when the first batch is due, and returns the same one after.
        folder: Where shards go.
        direction: Where the validation direction goes.
        fingerprint: What the shards depend on.
        mismatch_limit: The largest divergence from the sampler that a batch may have.
        scorer: How the pool's derivatives are taken.
    """

    sketcher: Callable[[], Sketcher]
    folder: Path
    direction: Path
    fingerprint: Fingerprint
    mismatch_limit: float = float("inf")
    scorer: Literal["sketch", "forward"] = "sketch"

    @property
    def second_seed(self) -> Path:
        """Return where sketches of another seed go."""
        return self.direction.with_name(SECOND_SEED)

    @property
    def step(self) -> Path:
        """Return where the step of differences is kept."""
        return self.direction.with_name(STEP)

    @property
    def partial(self) -> Path:
        """Return where the unfinished direction is kept."""
        return self.direction.with_name("partial.safetensors")


def require_same_direction(stage: SketchStage) -> None:
    """Refuse a direction, finished or not, that was summed under another fingerprint.

    Raises:
        RunDirectoryError: Names each key that differs.
    """
    for path in (stage.direction, stage.partial):
        if path.exists():
            require_equal_fingerprints(path, read_record(path).fingerprint, stage.fingerprint)
    if stage.second_seed.exists():
        found = read_fingerprint(stage.second_seed)
        require_equal_fingerprints(stage.second_seed, found, stage.fingerprint)


def remove_other_shards(stage: SketchStage, batches: Sequence[Batch]) -> None:
    """Remove shards of another cut: rewards that were computed again can make other rollouts live."""
    expected = {shard_path(stage.folder, batch) for batch in batches}
    for path in set(shard_paths(stage.folder)) - expected:
        if path.name.startswith(REFERENCE_SHARDS):  # no reward moves them
            continue
        path.unlink()
        stage.second_seed.unlink(missing_ok=True)


def shard_path(folder: Path, batch: Batch) -> Path:
    """Return where a batch's shard lies."""
    key = hashlib.sha256("\n".join(f"{r.problem_id} {r.rollout}" for r in batch).encode()).hexdigest()[:16]
    kind = "-reference" if batch[0].of_reference else ""
    return folder / f"{batch[0].split}{kind}-{key}.parquet"


def run_validation_sketches(stage: SketchStage, batches: Sequence[Batch], progress: Progress) -> None:
    """Sketch the validation split, and leave its exact direction."""
    summed = _batches_summed(stage, len(batches))
    with _task(stage, batches, "sketch validation", progress) as task:
        if stage.direction.exists() and all(shard_path(stage.folder, batch).exists() for batch in batches):
            return
        sketcher = stage.sketcher()
        direction = _resume_direction(stage, sketcher)
        saver = _Saver(stage, sketcher, direction)
        for number, batch in enumerate(batches):
            owed = not shard_path(stage.folder, batch).exists()
            if number < summed and not owed:
                continue
            gradients = sketch_rows(sketcher, batch, onto=direction if number >= summed else None)
            table = _table(stage, batch, gradients)
            saver.save_in_time(max(number + 1, summed))
            if owed:
                write_table(shard_path(stage.folder, batch), table, "sketches", stage.fingerprint)
                task.advance(len(batch), tokens=sum(r.tokens for r in batch))
        saver.finish(len(batches))


def run_pool_sketches(stage: SketchStage, batches: Sequence[Batch], progress: Progress) -> None:
    """Take each pool rollout's exact derivative along the validation direction, with its sketch or alone."""
    owed = [batch for batch in batches if not shard_path(stage.folder, batch).exists()]
    sketched_again = stage.scorer == "forward" or stage.second_seed.exists()
    with _task(stage, batches, "sketch pool", progress) as task:
        if not owed and (sketched_again or not batches):
            return
        sketcher = stage.sketcher()
        differentiate = _along_direction(stage, sketcher, batches)
        for batch in owed:
            table = _table(stage, batch, differentiate(batch))
            write_table(shard_path(stage.folder, batch), table, "sketches", stage.fingerprint)
            task.advance(len(batch), tokens=sum(r.tokens for r in batch))
        if not sketched_again:
            _sketch_again(stage, sketcher, batches)


def _along_direction(
    stage: SketchStage, sketcher: Sketcher, batches: Sequence[Batch]
) -> Callable[[Batch], BatchGradients]:
    """Return what takes a batch's derivatives along the finished direction, as the stage's scorer does."""
    dual = _dual(load_direction(stage.direction, sketcher.space, sketcher.model.device), sketcher)
    if stage.scorer == "forward":
        sample = batches[len(batches) // 2][:STEP_ROWS]
        differences = settle_differences(sketcher, dual, sample, stage.step)
        return lambda batch: difference_rows(differences, batch)
    along = {name: matrix.to(sketcher.model.dtype) for name, matrix in dual.items()}
    return lambda batch: sketch_rows(sketcher, batch, along=along)


def _sketch_again(stage: SketchStage, sketcher: Sketcher, batches: Sequence[Batch]) -> None:
    """Sketch the middle of the pool, from which lengths go either way, with another seed."""
    middle = batches[len(batches) // 2 :]
    sizes = itertools.accumulate((len(batch) for batch in middle), initial=0)
    sample = [batch for batch, before in zip(middle, sizes, strict=False) if before < SECOND_SEED_ROWS]
    other = with_seed(sketcher, sketcher.projection.seed + 1)
    tables = [_table(stage, batch, sketch_rows(other, batch)) for batch in sample]
    write_table(stage.second_seed, pa.concat_tables(tables), "sketches", stage.fingerprint)


@final
class _Saver:
    """Writes the direction after a batch, unless writing would take too much of the time."""

    def __init__(self, stage: SketchStage, sketcher: Sketcher, direction: Direction) -> None:
        self.stage, self.sketcher, self.direction = stage, sketcher, direction
        self.saved_at, self.seconds_to_save = time.monotonic(), 0.0

    def save_in_time(self, batches: int) -> None:
        started = time.monotonic()
        if (started - self.saved_at) * SHARE_OF_TIME_SAVING >= self.seconds_to_save:
            self._save(self.stage.partial, batches)
            self.saved_at = time.monotonic()
            self.seconds_to_save = self.saved_at - started

    def finish(self, batches: int) -> None:
        self._save(self.stage.direction, batches)
        self.stage.partial.unlink(missing_ok=True)

    def _save(self, path: Path, batches: int) -> None:
        length = math.sqrt(dot(self.direction, _dual(self.direction, self.sketcher)))
        record = DirectionRecord(length, batches, dict(self.stage.fingerprint))
        with replacing(path) as temporary:
            save_direction(self.direction, self.sketcher.space, temporary, record)


def _dual(direction: Direction, sketcher: Sketcher) -> Direction:
    """Return what gradients are multiplied with for the sketcher's inner product with a direction."""
    if sketcher.preconditioner is None:
        return direction
    return precondition_direction(direction, sketcher.preconditioner)


def _batches_summed(stage: SketchStage, batches: int) -> int:
    if stage.direction.exists():
        return batches
    return read_record(stage.partial).batches if stage.partial.exists() else 0


def _resume_direction(stage: SketchStage, sketcher: Sketcher) -> Direction:
    device = sketcher.model.device
    for path in (stage.direction, stage.partial):
        if path.exists():
            return load_direction(path, sketcher.space, device)
    return zero_direction(sketcher.space, device)


def _task(
    stage: SketchStage, batches: Sequence[Batch], name: str, progress: Progress
) -> AbstractContextManager[Task]:
    done = sum(len(batch) for batch in batches if shard_path(stage.folder, batch).exists())
    of_problems = any(row.rollout is None for batch in batches for row in batch)
    unit = "problems" if of_problems else "rollouts"
    return progress.task(name, total=sum(map(len, batches)), done=done, unit=unit)


def _table(stage: SketchStage, batch: Batch, gradients: BatchGradients) -> pa.Table:
    schema = sketches_schema(stage.sketcher().projection.dim)
    stored = _stored(stage, batch, gradients)
    mismatches = row_mismatches(batch, gradients.token_logprobs.cpu().numpy())
    require_agreement(batch, mismatches, stage.mismatch_limit)
    columns = {
        "problem_id": [r.problem_id for r in batch],
        "rollout": [r.rollout for r in batch],
        "split": [r.split for r in batch],
        "response_tokens": [r.response_tokens for r in batch],
        "logprob": gradients.logprobs.double().cpu().numpy(),
        "logprob_kl": [found and found[0] for found in mismatches],
        "logprob_gap": [found and found[1] for found in mismatches],
        **stored,
    }
    nulls = [None] * len(batch)
    arrays = [pa.array(columns.get(field.name, nulls), field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def _stored(stage: SketchStage, batch: Batch, gradients: BatchGradients) -> dict[str, Any]:
    """Return what is kept of a batch's gradients: columns by name, where there is something to keep."""
    stored: dict[str, Any] = {}
    if gradients.directional is not None:
        stored["directional"] = gradients.directional.cpu().numpy()
    if gradients.sketches is None:
        _require_finite(stage, batch, "derivative", stored["directional"], not_zero=False)
        return stored
    norms = gradients.sketches.norm(dim=1)
    _require_finite(stage, batch, "norm", norms.cpu().numpy(), not_zero=True)
    unit = (gradients.sketches / norms[:, None]).half().cpu().numpy()
    sketches = pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), unit.shape[1])
    return stored | {"norm": norms.cpu().numpy(), "sketch": sketches}


def _require_finite(
    stage: SketchStage, batch: Batch, name: str, values: Float[np.ndarray, " B"], *, not_zero: bool
) -> None:
    bad = np.flatnonzero(~np.isfinite(values) | (not_zero & (values == 0)))
    if len(bad):
        first, sketcher = batch[bad[0]], stage.sketcher()
        cause = first_not_finite(sketcher, lay_out((first,), sketcher.model).tokens)
        rollout = "the row" if first.rollout is None else f"rollout {first.rollout}"
        raise NumericalError(
            f"Every gradient must be finite{' and not zero' if not_zero else ''}",
            f"{rollout} of problem {first.problem_id} has {name} {values[bad[0]]}"
            + (f", and {cause} is not finite" if cause else ""),
            "Look for NaN in the checkpoint's weights; bfloat16 overflows where float32 does not.",
        )
