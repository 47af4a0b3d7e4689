"""Strict JAX, two simulated devices, and every annotation of the packages checked.

This runs before the packages are imported: the import hook only sees what comes after it.
"""

import collections
import gc
import importlib.metadata
import os

os.environ["MPLBACKEND"] = "Agg"
# matrices are small here, and threads of BLAS that wait for each other took half of some tests
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Three quarters of a test are XLA compiling what runs once, which without optimisation takes well
# under half, and in one piece rather than split over threads less again. Notebooks and experiments
# run what users do, with the defaults.
# A jaxlib that does not know a flag would not start.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1",
    )
# XLA takes two of its own tuning flags in what it has cached for missing processor features
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import jax
import jaxtyping
import pytest
from annotations_checked import checked

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# what has been compiled once, by the other worker or an earlier session, is read from disk
KEPT = Path(__file__).parents[1] / ".pytest_cache/jax"
jax.config.update("jax_compilation_cache_dir", str(KEPT))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
# and so it is by the processes that tests start, which leave what the user has kept alone
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
jax.config.update("jax_num_cpu_devices", 2)
# the lines of the source behind every operation, which nobody reads in what is compiled here
jax.config.update("jax_traceback_in_locations_limit", 0)

jaxtyping.jaxtyped = checked  # which the hook writes above every function and class
jaxtyping.install_import_hook(["gflow", "theory"], "annotations_checked.beartyped")


SLOW = Path(__file__).parent / "slow_tests.txt"


def pytest_addoption(parser):
    parser.addoption(
        "--list-slow", type=float, metavar="SECONDS",
        help="write to slow_tests.txt the tests that took longer, all their parameters together",
    )  # fmt: skip
    parser.addoption(
        "--turn", type=int, default=0, metavar="N",
        help="begin at another test, so that runs that are cut off do not all leave out the same",
    )  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What was measured to be slow is slow, as if it were marked so."""
    slow = set(SLOW.read_text().split())
    for item in items:
        if function(item.nodeid) in slow:
            item.add_marker(pytest.mark.slow)
    first = config.getoption("--turn") % max(len(items), 1)
    while first > 0 and function(items[first - 1].nodeid) == function(items[first].nodeid):
        first -= 1
    items[:] = items[first:] + items[:first]


def pytest_terminal_summary(terminalreporter, config):
    if (limit := config.getoption("--list-slow")) is None:
        return
    total = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            total[function(getattr(report, "nodeid", ""))] += getattr(report, "duration", 0.0)
    SLOW.write_text("".join(f"{name}\n" for name in sorted(total) if total[name] > limit))


def function(nodeid):
    """The test function of a test, whatever its parameters and wherever pytest was started."""
    return nodeid.split("[")[0].removeprefix("tests/")


def pytest_collection_finish():
    """Traces are many small objects: what is there to stay is not looked through for each."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def room_for_compiled_functions():
    """Forget what was compiled before the process runs out of memory maps."""
    yield
    from gflow.programs._room import room

    room.make()
