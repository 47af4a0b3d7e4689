"""The `gflow` command: list, reproduce, report, begin experiments, sweep, check the installation.

It belongs to `gflow`, which knows no paper: experiments are looked for when they are asked for,
in `theory.reproduce`, and `gflow doctor` works without.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from ._theory import find_theory
from ._version import __version__

STATUS = """exit status:
  0  every experiment ran to its end and nothing is refuted; what is undecided is listed and
     does not change it
  1  a comparison is refuted, an experiment died, or one of --all could not be loaded
  2  nothing was run: wrong usage, or `theory` is not gflow's own
  130, 143  interrupted, terminated"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read our output has seen enough; nothing is left to be flushed at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "doctor":
        return importlib.import_module("gflow.doctor").main(as_json=arguments.json)
    if arguments.command == "sweep":
        return importlib.import_module("gflow.sweeps._command").main(arguments)
    found = find_theory()
    if found.fault is not None:
        print(found.fault, file=sys.stderr)
        return 2
    command: ModuleType = importlib.import_module("theory.reproduce._command")
    if arguments.command == "list":
        return command.list_experiments(as_json=arguments.json)
    if arguments.command == "new":
        return command.new(arguments.name, arguments.folder)
    if arguments.command == "report":
        return command.report(arguments.paths, out=arguments.out, against=arguments.against)
    return command.reproduce(
        arguments.names,
        everything=arguments.all,
        out=arguments.out,
        as_json=arguments.json,
        fast=arguments.fast,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gflow",
        description="Exact gradient flow, simulated and predicted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=STATUS,
    )
    parser.add_argument("--version", action="version", version=f"gflow {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="list the experiments")
    listed.add_argument("--json", action="store_true", help="as a list of objects")
    _add_reproduce(commands)
    _add_report(commands)
    new = commands.add_parser(
        "new",
        help="begin an experiment of your own",
        description="Write a file with a small experiment that runs: `gflow new my-paper` makes "
        "my_paper.py, `gflow reproduce my_paper.py` runs it. Nothing is overwritten.",
    )
    new.add_argument("name", metavar="NAME", help="lower-case letters, digits, hyphens")
    new.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="default: here")
    _add_sweep(commands)
    doctor = commands.add_parser(
        "doctor", help="check versions, devices, precision, known-bad toolchains"
    )
    doctor.add_argument("--json", action="store_true", help="as a list of objects")
    return parser


def _add_reproduce(commands: argparse._SubParsersAction) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="run experiments and write their results",
        description="Run experiments, each in a process of its own, and write figures, data, "
        "report.txt and report.json to DIR/NAME.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=STATUS,
    )
    reproduce.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="see `gflow list`; or the path of a file or a folder that defines `experiment`",
    )
    reproduce.add_argument("--all", action="store_true", help="every experiment of `gflow list`")
    reproduce.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    reproduce.add_argument(
        "--json",
        action="store_true",
        help="print report.json, not the tables: of one NAME the object, of several or of --all "
        "one list of them, at the end",
    )
    reproduce.add_argument("--fast", action="store_true", help="smaller problems, fewer runs")


SWEEP = """FILE is a table in TOML:

  build = "model.py:build"     # a function of a file beside FILE, or package.module:function
  out = "seeds"                # a folder, beside FILE
  seeds = 64                   # how many, or a list
  tau1 = 4.0                   # or t1, decay, rtol, curves, error_bars, max_steps, chunk
  [grid]
  log10_alpha = [-8, -16]

exit status:
  0  every run of this process is stored, and none failed
  1  some failed, each with its reason
  2  a mistake in FILE or in what it names, or no right to write; what was stored before is kept
  130, 143  interrupted, terminated: the same command goes on"""


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="simulate every combination of settings, for every seed, and keep the results",
        description="Run what a sweep lacks: after a kill the same command goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SWEEP,
    )
    sweep.add_argument("file", type=Path, metavar="FILE")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="in place of that in FILE")
    sweep.add_argument("--retry-failed", action="store_true", help="run again what has failed")
    sweep.add_argument("--json", action="store_true", help="a line of JSON after every chunk")
    sweep.add_argument("--process-id", type=int, metavar="I", help="which of the processes it is")
    sweep.add_argument("--num-processes", type=int, metavar="N", help="that share the sweep")
    sweep.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="join JAX's distributed runtime there; `auto` lets JAX find it out from SLURM or MPI. "
        "Without it the processes need a common folder and nothing else",
    )


def _add_report(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser(
        "report",
        help="results as one page of HTML",
        description="Write one page, with figures and sortable tables and nothing beside it, of "
        "what `gflow reproduce` left and of saved runs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status:\n  0  the page is written, whatever the verdicts on it\n"
        "  2  nothing is written: a path is broken or foreign, or the page would replace "
        "another file",
    )
    report.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a folder of results, of one experiment or of several, or the run.nc of a trajectory",
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")
    report.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="earlier results: the page says what has changed since",
    )
