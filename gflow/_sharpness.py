"""How sharp a minimum is that gradient descent would have to stay at."""

import numpy as np
from jaxtyping import Float, PyTree

from ._arguments import count as counted
from .flow._flow import Objective
from .flow._plain import plain_flow
from .training._curvature import top


def sharpness(
    model: PyTree, objective: Objective, *, count: int = 1
) -> Float[np.ndarray, " count"]:
    r"""The largest eigenvalues of the Hessian of the loss in the factors, descending.

    Gradient descent of step η leaves what is sharper than 2/η. The factors are plain
    (`gflow.to_factors`): u, v of a Hadamard leaf, A, B of a Factored one. Up to 128 of them the
    Hessian is taken whole, beyond it by Lanczos' method from its products with vectors.

    **Raises:** ValueError for a leaf with coordinates of its own, and more eigenvalues than
    weights.

    ```python
    gflow.sharpness(run.final, objective)[0] * eta      # beyond 2: descent would not stay there
    along = [gflow.sharpness(run.model(t=t), objective)[0] for t in run.t]
    ```
    """
    count = counted("count", count, "how many eigenvalues")
    _, flow = plain_flow(model, objective)
    if count > flow.size:
        raise ValueError(f"count = {count}: the Hessian of {flow.size} weights has no more.")
    values, _ = top(flow, flow.start(), count)
    return values
