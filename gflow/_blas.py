"""One thread for linear algebra on the host.

The matrices there are small. BLAS shares them out among all cores all the same, whose threads then
wait for each other: sixteen times as long for the exponential of a stack of 20 × 20 matrices.
"""

import functools
import importlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import threadpoolctl

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    importlib.import_module("scipy.linalg")  # a library that is loaded later would not be found
    return threadpoolctl.ThreadpoolController()


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with NumPy and SciPy on one thread, and on as many as before when it returns."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with _libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return alone
