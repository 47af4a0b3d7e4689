"""The process that an experiment runs in: `python -m theory.reproduce._child TASK`.

How it ends is in its report.json; `_process` is the other side.
"""

import json
import os
import signal
import sys
from pathlib import Path

from ._load import load


def set_up() -> None:
    """float64, and figures without a display."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import jax

    jax.config.update("jax_enable_x64", True)


def main() -> None:
    """Run the experiment described in the argument."""
    # Ctrl-C reaches both processes; the parent stops this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up()
    task = json.loads(sys.argv[1])
    from ._report import Report

    experiment, _ = load(task["reference"])
    report = Report(experiment.name, experiment.paper, Path(task["folder"]), live=task["live"])
    report.write()
    try:
        experiment.run(report, fast=task["fast"])
    except BaseException:
        report.write()
        raise
    report.finish()


if __name__ == "__main__":
    main()
