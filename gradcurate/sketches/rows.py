"""The sketches' schema: one row a rollout, or one a problem, whose ``rollout`` is then null.

The sketch is stored with unit norm in float16 and its norm beside it in float32, so that long and
short gradients are kept equally well. Both are null where only the derivative along the validation
direction was taken (``--scorer forward``).
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float


def sketches_schema(dim: int) -> pa.Schema:
    """Return the schema of ``sketches/*.parquet`` for sketch dimension K."""
    return pa.schema(
        [
            pa.field("problem_id", pa.string(), nullable=False),
            pa.field("rollout", pa.int32()),
            pa.field("split", pa.string(), nullable=False),
            pa.field("response_tokens", pa.int32(), nullable=False),
            pa.field("logprob", pa.float64(), nullable=False),
            pa.field("logprob_kl", pa.float64()),
            pa.field("logprob_gap", pa.float64()),
            pa.field("norm", pa.float32()),
            pa.field("directional", pa.float64()),
            pa.field("sketch", pa.list_(pa.float16(), dim)),
        ]
    )


def unit_sketches(rows: pa.Table) -> Float[np.ndarray, "N K"]:
    """Return the stored unit vectors of some rows, in float16 as stored; NaN where a row has none."""
    sketches = rows["sketch"].combine_chunks()
    units = np.full((len(rows), sketches.type.list_size), np.nan, dtype=np.float16)
    units[sketches.is_valid().to_numpy(zero_copy_only=False)] = (
        sketches.flatten().to_numpy().reshape(-1, units.shape[1])
    )
    return units
