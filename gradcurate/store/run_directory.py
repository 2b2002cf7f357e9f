"""The run directory: where each dataset of a run lies, and what it may be resumed with.

Layout (a contract; other tools may read it)::

    run.json                          settings, fingerprints, versions, git state; rewritten atomically
    problems.parquet  bad_rows.jsonl  the problems; rows set aside by --on-bad-row skip
    rollouts/*.parquet                one shard a batch of problems
    rewards/*.parquet                 later rewards of the same rollouts, where `gradcurate reward` gave some
    vllm.log                          what vLLM printed, where it sampled
    ingest.json                       what became of a trainer's dump, where rollouts are from one
    validation/direction.safetensors  the exact validation gradient
    validation/weights.parquet        what it is a sum of
    validation/second_seed.parquet    a few rows of sketches of another seed: their error
    validation/step.json              the step of differences, with --scorer forward
    sketches/*.parquet                one shard a batch of rollouts
    scores.parquet  selection.parquet
    reliability.json                  how far the scores can be believed
    audit.csv                         answers to check
    exports/<trainer>/

What a stage still owes is computed from what exists. A stage whose finished files carry another
fingerprint is refused, and the keys that differ are named.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gradcurate.errors import RunDirectoryError
from gradcurate.store.tables import Fingerprint, read_fingerprint, shard_paths

SECOND_SEED = "second_seed.parquet"
STEP = "step.json"


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run."""

    root: Path

    @property
    def manifest(self) -> Path:
        """Return the path of ``run.json``."""
        return self.root / "run.json"

    @property
    def problems(self) -> Path:
        """Return the path of the problems."""
        return self.root / "problems.parquet"

    @property
    def bad_rows(self) -> Path:
        """Return the path of the rows set aside."""
        return self.root / "bad_rows.jsonl"

    @property
    def rollouts(self) -> Path:
        """Return the folder of rollout shards."""
        return self.root / "rollouts"

    @property
    def ingest(self) -> Path:
        """Return the path of what became of a trainer's dump."""
        return self.root / "ingest.json"

    @property
    def rewards(self) -> Path:
        """Return the folder of rewards that stand for those in the rollouts' own rows."""
        return self.root / "rewards"

    @property
    def vllm_log(self) -> Path:
        """Return the path of what vLLM printed."""
        return self.root / "vllm.log"

    @property
    def sketches(self) -> Path:
        """Return the folder of sketch shards."""
        return self.root / "sketches"

    @property
    def direction(self) -> Path:
        """Return the path of the exact validation direction."""
        return self.root / "validation" / "direction.safetensors"

    @property
    def direction_weights(self) -> Path:
        """Return the path of the weights that the direction is a sum with."""
        return self.direction.with_name("weights.parquet")

    @property
    def second_seed(self) -> Path:
        """Return the path of the rows that were sketched with a second seed."""
        return self.direction.with_name(SECOND_SEED)

    @property
    def step(self) -> Path:
        """Return the path of the step of differences."""
        return self.direction.with_name(STEP)

    @property
    def scores(self) -> Path:
        """Return the path of the scores."""
        return self.root / "scores.parquet"

    @property
    def reliability(self) -> Path:
        """Return the path of how far the scores can be believed."""
        return self.root / "reliability.json"

    @property
    def audit(self) -> Path:
        """Return the path of the answers to check."""
        return self.root / "audit.csv"

    @property
    def selection(self) -> Path:
        """Return the path of the selection."""
        return self.root / "selection.parquet"

    def exports(self, trainer: str) -> Path:
        """Return the folder of one trainer's export."""
        return self.root / "exports" / trainer


def require_same_fingerprint(path: Path, fingerprint: Fingerprint) -> None:
    """Refuse to go on from a file that was made under another fingerprint.

    Raises:
        RunDirectoryError: Names each key that differs, with both values.
    """
    require_equal_fingerprints(path, read_fingerprint(path), fingerprint)


def require_equal_fingerprints(path: Path, stored: Fingerprint, fingerprint: Fingerprint) -> None:
    """Refuse a file whose stored fingerprint is not this one.

    Raises:
        RunDirectoryError: Names each key that differs, with both values.
    """
    keys = sorted({*stored, *fingerprint})
    differing = [key for key in keys if stored.get(key) != fingerprint.get(key)]
    if differing:
        changes = ", ".join(f"{key} {stored.get(key)!r} -> {fingerprint.get(key)!r}" for key in differing)
        raise RunDirectoryError(
            "A run directory is resumed only with the settings and inputs it was made with",
            f"{path} differs in {changes}",
            "Use the settings of run.json, or choose another --run.",
        )


def require_same_shards(folder: Path, fingerprint: Fingerprint, yet_unknown: Collection[str] = ()) -> None:
    """Apply `require_same_fingerprint` to every finished shard of a stage, but for keys not known yet."""
    for path in shard_paths(folder):
        stored = read_fingerprint(path)
        known = {key: value for key, value in stored.items() if key not in yet_unknown}
        require_equal_fingerprints(path, known, fingerprint)


def remove_temporary_files(run: RunDirectory) -> None:
    """Remove what killed processes left half-written; only for who holds the run."""
    for folder in (run.root, run.rollouts, run.rewards, run.sketches, run.direction.parent):
        for suffix in ("json", "jsonl", "parquet", "safetensors"):
            for path in folder.glob(f".*.{suffix}.*"):
                path.unlink()


def require_empty(folder: Path) -> None:
    """Refuse to begin a run among files that are not gradcurate's; names that start with a dot do not count.

    Raises:
        RunDirectoryError: Names one of them.
    """
    found = [path for path in sorted(folder.glob("*")) if not path.name.startswith(".")]
    if found:
        raise RunDirectoryError(
            "A new run needs a folder of its own",
            f"{folder} holds {found[0].name} and no problems.parquet",
            "Choose another --run.",
        )


def require_stage(path: Path, verb: str) -> None:
    """Refuse to read a stage that has not run.

    Raises:
        RunDirectoryError: Names the verb that makes what is missing.
    """
    if not path.exists():
        raise RunDirectoryError(
            f"{path} must exist", "that stage has not finished in this run directory", f"Run `{verb}` first."
        )
