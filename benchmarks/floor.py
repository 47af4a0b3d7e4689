"""The floor: the steps of gflow's Rodas5P on a quadratic loss, written in C and compiled here.

On logarithms, with the same choice of steps, tolerances, first step and longest step, all numbers
of one run in the processor's cache and nothing recorded but what is asked for. What gflow takes
longer with `solver=gflow.solvers.Rodas5P(pivot=False)` is what a general program costs.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from .alternatives import Solution
from .formulations import Formulation
from .landscapes import Quadratic

FLOOR = "C, the steps of Rodas5P"
SOURCE = Path(__file__).with_name("rodas5p.c")
COMMAND = ("cc", "-O3", "-march=native", "-shared", "-fPIC")

#: What the source has room for.
LARGEST = 64


def missing() -> str | None:
    """Why there is no floor here, if there is none."""
    if shutil.which(COMMAND[0]) is None:
        return f"no C compiler ({COMMAND[0]}) found: the floor is left out"
    return None


def applies(formulation: Formulation | None) -> bool:
    """Whether it was written for this flow."""
    if formulation is None or formulation.factors is None:
        return False
    landscape = formulation.landscape
    return isinstance(landscape, Quadratic) and len(landscape.linear) <= LARGEST


@cache
def compiled() -> ctypes.CDLL:
    """The library, loaded from a folder that is gone at once."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "rodas5p.so")
        command = [*COMMAND, "-o", target, str(SOURCE), "-lm"]
        subprocess.run(command, check=True, capture_output=True)
        return ctypes.CDLL(target)


def solve(
    formulation: Formulation, times: np.ndarray, rtol: float, most: int = 100_000
) -> tuple[Solution, dict[str, int]]:
    """Weights at the times, and how many attempts were `accepted` and `rejected`."""
    landscape, factors = formulation.landscape, formulation.factors
    assert isinstance(landscape, Quadratic)
    assert factors is not None
    size, out = len(landscape.linear), np.zeros((len(times), len(landscape.linear)))
    counts = np.zeros(2, np.int32)
    given = (landscape.hessian, landscape.linear, factors.log_s, factors.log_d)
    arrays = [np.ascontiguousarray(x, float) for x in (*given, times)]
    pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (*arrays, out, counts)]
    status = compiled().march(
        size, *pointers[:4], ctypes.c_double(rtol), pointers[4], len(times), most, *pointers[5:]
    )
    message = "" if status == 0 else f"stopped after {most} steps"
    accepted, rejected = (int(x) for x in counts)
    attempts = accepted + rejected
    solution = Solution(out, status == 0, 8 * attempts, attempts, message)
    return solution, {"accepted": accepted, "rejected": rejected}
