"""`python -m benchmarks [SECTION …]`: measure, print tables, write results and figures."""

import os

# before NumPy is imported: on systems this small threads only cost the alternatives time
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECTIONS = (
    "single", "ends", "reading", "work-precision", "batch", "gauge", "decay", "condensation",
    "units", "infinity", "laws", "depth", "transformers", "large", "example", "cold",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the sections asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="gflow beside what else one would use."
    )
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, "all", []], metavar="SECTION",
                        help=f"{', '.join(SECTIONS)} or all (default)")  # fmt: skip
    parser.add_argument("--problem", action="append", metavar="NAME",
                        help="in `single` only this problem (may be repeated)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="under a minute, for smoke tests")
    parser.add_argument("--large", action="store_true", help="batches of up to 65536")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="where JAX runs")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR")
    arguments = parser.parse_args(argv)
    if arguments.device:
        os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[arguments.device]
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)  # cold means cold

    from . import figures, report

    asked = arguments.sections or ["all"]
    sections = SECTIONS if "all" in asked else tuple(dict.fromkeys(asked))
    results = {}
    for name in sections:
        key = f"batch-{jax.default_backend()}" if name == "batch" else name
        part = {key: measure(name, arguments)}
        results = report.save(arguments.out / "results.json", part)
    print(report.markdown(results))
    paths = figures.draw(results, arguments.out / "figures")
    print(f"\n{arguments.out / 'results.json'} and {len(paths)} figures written.", file=sys.stderr)
    return 0


def measure(section: str, arguments: argparse.Namespace) -> dict:
    """One section's part of the results, with its progress on stderr."""
    from . import (
        batch,
        cold,
        condensation,
        decay,
        depth,
        ends,
        example,
        gauge,
        infinity,
        large,
        laws,
        reading,
        single,
        transformers,
        units,
        work_precision,
    )

    began = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - began:6.0f} s] {line}", file=sys.stderr, flush=True)

    if section == "batch":
        return batch.run(arguments.quick, say, large=arguments.large)
    if section == "single":
        return single.run(arguments.quick, say, arguments.problem)
    run = {
        "ends": ends.run,
        "reading": reading.run,
        "work-precision": work_precision.run,
        "gauge": gauge.run,
        "decay": decay.run,
        "condensation": condensation.run,
        "units": units.run,
        "infinity": infinity.run,
        "depth": depth.run,
        "large": large.run,
        "example": example.run,
        "laws": laws.run,
        "transformers": transformers.run,
        "cold": cold.run,
    }[section]
    return run(arguments.quick, say)


if __name__ == "__main__":
    sys.exit(main())
