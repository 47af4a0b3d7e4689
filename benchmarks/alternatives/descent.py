"""Plain gradient descent on the raw factors as a discretisation of the flow (forward Euler).

Its only setting is the step: the largest stable one, 2/λ_max at the sharpest saddle, and
fractions of it. The sweep's tolerance 10⁻³ stands for the whole step, 10⁻⁴ for a tenth, …
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .base import TOLERANCES, Method, Solution

#: More steps than anybody would take.
STEP_LIMIT = 50_000_000


@eqx.filter_jit
def _descend(field, start, steps, counts):
    """States after counts[0], counts[0] + counts[1], … steps of the sizes `steps`."""

    def segment(y, item):
        step, count = item
        y = jax.lax.fori_loop(0, count, lambda _, y: y + step * field(0.0, y, None), y)
        return y, y

    return jax.lax.scan(segment, start, (steps, counts))[1]


def _seconds_a_step(arguments, counts, probe: int = 1000) -> float:
    """Measured on the first steps: a compiled loop cannot be interrupted."""
    few = jnp.asarray(np.where(np.arange(len(counts)) == 0, probe, 0))
    jax.block_until_ready(_descend(*arguments, few))  # compile
    began = time.perf_counter()
    jax.block_until_ready(_descend(*arguments, few))
    return (time.perf_counter() - began) / probe


def _run(formulation, times, tolerance, limit):
    fraction = 1.0 if tolerance.rtol is None else min(1.0, tolerance.rtol / TOLERANCES[0])
    # just inside: at 2/λ_max itself the iteration never settles
    largest = 0.95 * fraction * formulation.stable_step
    spans = np.diff(times, prepend=0.0)
    counts = np.ceil(spans / largest).astype(np.int64)
    total = int(np.sum(counts))
    if total > STEP_LIMIT:
        return Solution(None, False, message=f"{total:.1e} steps")
    sizes = np.divide(spans, counts, out=np.zeros_like(spans), where=counts > 0)
    arguments = (formulation.field, jnp.asarray(formulation.start), jnp.asarray(sizes))
    if limit is not None and total * _seconds_a_step(arguments, counts) > limit:
        return Solution(None, False, message=f"{total:.1e} steps take more than {limit:g} s")
    states = _descend(*arguments, jnp.asarray(counts))
    weights = formulation.weights(np.asarray(states))
    finite = bool(np.all(np.isfinite(weights)))
    return Solution(weights, finite, total, 0, "" if finite else "diverged")


METHODS = [Method("gradient descent", "jax", "raw", _run, has_tolerance=False)]
