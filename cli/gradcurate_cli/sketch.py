"""``gradcurate sketch``."""

from typing import Any

import gradcurate
from gradcurate.api import SketchReport
from gradcurate_cli.options import ConfigOption, JsonOption, QuietOption, with_settings
from gradcurate_cli.progress import progress_for
from gradcurate_cli.running import console, log, run


@with_settings
def sketch(
    settings: dict[str, Any],
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sketch the rollouts of a run, and stop there.

    Reads rollouts/ in the run directory, and the checkpoint. Writes validation/ and sketches/.

    Example: gradcurate sketch --config gradcurate.toml --run runs/1
    """
    progress = progress_for(log, quiet)
    run(lambda: gradcurate.sketch(config=config, progress=progress, **settings), _show, as_json)


def _show(report: SketchReport) -> None:
    size = report.sketch_bytes / 1e6
    console.print(f"{report.sketches} sketches in {report.run} ({size:.1f} MB)")
    console.print(f"length of the validation gradient: {report.direction_norm:.4g}")
