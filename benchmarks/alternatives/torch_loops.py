"""torchdiffeq's dopri5 and dopri8 on CPU in float64, on the raw factors.

Written for the quadratic problems: a step takes a millisecond of Python there, and a
softmax head would not change what that shows.
"""

import warnings
from functools import partial

from ..landscapes import Quadratic
from .base import Method, Solution, guarded


def _vector_field(landscape: Quadratic):
    """(u, v) ↦ (v⊙g, u⊙g) with g = b − Hθ in PyTorch."""
    import torch

    hessian, linear = torch.from_numpy(landscape.hessian), torch.from_numpy(landscape.linear)

    def field(t, y):
        u, v = y.chunk(2)
        g = linear - hessian @ (u * v)
        return torch.cat([v * g, u * g])

    return field


def _odeint(name, formulation, times, tolerance, limit):
    import torch
    from torchdiffeq import odeint

    calls = 0
    watched = guarded(_vector_field(formulation.landscape), limit)

    def counted(t, y):
        nonlocal calls
        calls += 1
        return watched(t, y)

    options = {}
    if tolerance.rtol is not None:
        options = {"rtol": tolerance.rtol, "atol": tolerance.atol}
    moments = torch.tensor([0.0, *times], dtype=torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        states = odeint(
            counted, torch.from_numpy(formulation.start), moments, method=name, **options
        )
    return Solution(formulation.weights(states[1:].numpy()), True, calls)


def _is_quadratic(formulation) -> bool:
    return isinstance(formulation.landscape, Quadratic)


METHODS = [
    Method(f"torchdiffeq {name}", "torchdiffeq", "raw", partial(_odeint, name), _is_quadratic, 1e-7)
    for name in ("dopri5", "dopri8")
]
