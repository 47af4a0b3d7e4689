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
    """float64, figures without a display, and compiled programs kept from run to run.

    The cache lies in $JAX_COMPILATION_CACHE_DIR, else in gflow/jax-<version> under
    $XDG_CACHE_HOME or ~/.cache; delete the folder to be rid of it.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    # On every hit XLA complains about two tuning flags that are no features of any machine.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_enable_x64", True)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "gflow" / f"jax-{jax.__version__}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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
