"""SciPy: solve_ivp's LSODA, Radau, BDF and DOP853, and odeint (LSODA without its Python)."""

import warnings
from functools import partial

import numpy as np
from scipy import integrate

from .base import Method, Solution, guarded

#: solve_ivp's and odeint's own defaults.
SOLVE_IVP_DEFAULTS = (1e-3, 1e-6)
ODEINT_DEFAULT = 1.49012e-8


def _solve_ivp(name, formulation, times, tolerance, limit):
    options = {} if name == "DOP853" else {"jac": formulation.jacobian}
    rtol, atol = SOLVE_IVP_DEFAULTS
    result = integrate.solve_ivp(
        guarded(formulation.rhs, limit),
        (0.0, float(times[-1])),
        formulation.start,
        method=name,
        t_eval=times,
        rtol=rtol if tolerance.rtol is None else tolerance.rtol,
        atol=atol if tolerance.atol is None else tolerance.atol,
        **options,
    )
    return Solution(
        formulation.weights(result.y.T),
        bool(result.success),
        int(result.nfev),
        int(result.njev),
        "" if result.success else result.message,
    )


def _odeint(formulation, times, tolerance, limit):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", integrate.ODEintWarning)
        states, info = integrate.odeint(
            guarded(formulation.rhs, limit),
            formulation.start,
            np.concatenate([[0.0], times]),
            Dfun=formulation.jacobian,
            tfirst=True,
            full_output=True,
            mxstep=100_000_000,
            rtol=ODEINT_DEFAULT if tolerance.rtol is None else tolerance.rtol,
            atol=ODEINT_DEFAULT if tolerance.atol is None else tolerance.atol,
        )
    failed = [str(w.message) for w in caught if issubclass(w.category, integrate.ODEintWarning)]
    return Solution(
        formulation.weights(states[1:]),
        not failed,
        int(info["nfe"][-1]),
        int(info["nje"][-1]),
        "".join(failed),
    )


METHODS = [
    *(
        Method(f"SciPy {name}", "scipy", "raw", partial(_solve_ivp, name))
        for name in ("LSODA", "Radau", "BDF", "DOP853")
    ),
    Method("SciPy odeint", "scipy", "raw", _odeint, default_rtol=ODEINT_DEFAULT),
    Method("dual, SciPy Radau", "scipy", "dual", partial(_solve_ivp, "Radau")),
    Method("dual, SciPy odeint", "scipy", "dual", _odeint, default_rtol=ODEINT_DEFAULT),
]
