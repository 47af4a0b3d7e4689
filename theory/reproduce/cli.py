"""The `gflow` command: list experiments, reproduce them, check the installation."""

import argparse
import difflib
import json
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="gflow", description="Exact gradient flow, simulated and predicted."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the experiments")
    commands.add_parser("doctor", help="check versions, devices, precision, known-bad toolchains")
    reproduce = commands.add_parser("reproduce", help="run experiments and write their results")
    reproduce.add_argument("names", nargs="*", metavar="NAME", help="see `gflow list`")
    reproduce.add_argument("--all", action="store_true", help="every experiment")
    reproduce.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    reproduce.add_argument("--json", action="store_true", help="print report.json, not the table")
    reproduce.add_argument("--fast", action="store_true", help="smaller problems, fewer runs")
    arguments = parser.parse_args(argv)
    if arguments.command == "list":
        return _list()
    if arguments.command == "doctor":
        from gflow import doctor

        return doctor.main()
    return _reproduce(arguments)


def _list() -> int:
    from .registry import EXPERIMENTS

    for experiment in EXPERIMENTS.values():
        print(f"{experiment.name:16} {experiment.summary}\n{'':16} {experiment.paper}")
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    _set_up()
    from .registry import EXPERIMENTS

    names = list(EXPERIMENTS) if arguments.all else arguments.names
    if not names:
        print(
            f"Name an experiment or pass --all. There are: {', '.join(EXPERIMENTS)}.",
            file=sys.stderr,
        )
        return 2
    for name in names:
        if name not in EXPERIMENTS:
            near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(EXPERIMENTS)}."
            print(f"No experiment is called {name!r}. {hint}", file=sys.stderr)
            return 2
    passed = True
    for name in names:
        passed &= _run(EXPERIMENTS[name], arguments)
    return 0 if passed else 1


def _set_up() -> None:
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


def _run(experiment, arguments: argparse.Namespace) -> bool:
    from .report import Report

    folder = arguments.out / experiment.name
    report = Report(
        experiment.name, experiment.paper, folder, fast=arguments.fast, live=not arguments.json
    )
    experiment.run(report)
    path = report.write()
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        failed = [row.quantity for row in report.rows if not row.passed]
        verdict = "all agree" if not failed else f"{len(failed)} do not: {'; '.join(failed)}"
        print(f"{experiment.name}: {len(report.rows)} quantities, {verdict}.")
        print(f"Figures ({', '.join(report.figures)}), data and report.json are in {path.parent}.")
    return report.passed


if __name__ == "__main__":
    sys.exit(main())
