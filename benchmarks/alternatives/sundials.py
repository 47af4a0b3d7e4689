"""SUNDIALS CVODE (BDF, dense analytic Jacobian) through scikit-sundae."""

from .base import Method, Solution, guarded


def _cvode(formulation, times, tolerance, limit):
    from sksundae.cvode import CVODE

    right_hand_side = guarded(formulation.rhs, limit)

    def rhs(t, y, out):
        out[:] = right_hand_side(t, y)

    def jacobian(t, y, slope, out):
        out[:] = formulation.jacobian(t, y)

    options = {}
    if tolerance.rtol is not None:
        options = {"rtol": tolerance.rtol, "atol": tolerance.atol}
    # SUNDIALS' own dense solver is the faster one for small systems
    dense = "dense" if formulation.start.size < 100 else "lapackdense"
    solver = CVODE(
        rhs, method="BDF", jacfn=jacobian, linsolver=dense, max_num_steps=100_000_000, **options
    )
    result = solver.solve([0.0, *times], formulation.start)
    return Solution(
        formulation.weights(result.y[1:]),
        bool(result.success),
        int(result.nfev),
        int(result.njev),
        "" if result.success else str(result.message),
    )


METHODS = [
    Method("SUNDIALS CVODE", "sksundae", "raw", _cvode, default_rtol=1e-5),
    Method("dual, SUNDIALS CVODE", "sksundae", "dual", _cvode, default_rtol=1e-5),
]
