"""The `gflow` command: list experiments, reproduce them, check the installation."""

import argparse
import difflib
import json
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
    reproduce = commands.add_parser(
        "reproduce",
        help="run experiments and write their results",
        description="Run experiments, each in a process of its own, and write figures, data, "
        "report.txt and report.json to DIR/NAME.",
        epilog="Exit status: 0 when every experiment ran to its end and nothing is refuted (what "
        "is undecided is listed and does not change it), 1 when a comparison is refuted or an "
        "experiment died, 2 for wrong usage, 130 when interrupted.",
    )
    reproduce.add_argument("names", nargs="*", metavar="NAME", help="see `gflow list`")
    reproduce.add_argument("--all", action="store_true", help="every experiment")
    reproduce.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    reproduce.add_argument(
        "--json",
        action="store_true",
        help="print report.json, not the tables: of one NAME the object, of several or of --all "
        "one list of them, at the end",
    )
    reproduce.add_argument("--fast", action="store_true", help="smaller problems, fewer runs")
    arguments = parser.parse_args(argv)
    if arguments.command == "list":
        return _list()
    if arguments.command == "doctor":
        from gflow import doctor

        return doctor.main()
    return _reproduce(arguments)


def _list() -> int:
    from ._registry import EXPERIMENTS

    for experiment in EXPERIMENTS.values():
        print(f"{experiment.name:16} {experiment.summary}\n{'':16} {experiment.paper}")
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from ._registry import EXPERIMENTS

    names = list(EXPERIMENTS) if arguments.all else list(dict.fromkeys(arguments.names))
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
    return _run([EXPERIMENTS[name] for name in names], arguments)


def _run(experiments: list, arguments: argparse.Namespace) -> int:
    from . import _document as document
    from ._process import run_apart

    contents, interrupted = [], False
    for experiment in experiments:
        folder = arguments.out / experiment.name
        try:
            content = run_apart(experiment, folder, fast=arguments.fast, quiet=arguments.json)
        except KeyboardInterrupt:
            content, interrupted = document.read(folder), True
        contents.append(content)
        if interrupted:
            break
        if not arguments.json:
            print(document.headline(content))
            print(f"Figures, data, report.txt and report.json are in {folder}.\n", flush=True)
    if arguments.json:
        printed = contents if arguments.all or len(experiments) > 1 else contents[0]
        print(json.dumps(printed, indent=2, ensure_ascii=False))
    else:
        print(document.summary(contents))
    return 130 if interrupted else int(any(map(document.failed, contents)))


if __name__ == "__main__":
    sys.exit(main())
