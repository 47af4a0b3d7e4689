"""Matrix sensing: a low-rank positive matrix seen through random measurements."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ..objectives._squared import SquaredLoss
from ._task import Task, check_count, floats

#: Measurements for each of the d·rank unknowns, by default.
REDUNDANCY = 40


class Sensing(Task):
    """Symmetric matrices A_i and y_i = ⟨A_i, M⟩ for the matrix M, `planted`."""

    inputs: Float[Array, "measurements d d"]
    targets: Float[Array, " measurements"]
    planted: Float[Array, "d d"]

    @property
    def objective(self) -> SquaredLoss:
        """(1/2m) Σ_i (⟨A_i, W⟩ − y_i)²; its mean over draws of A_i is ½‖W − M‖²."""
        return SquaredLoss(self.inputs, self.targets, "half_mean")


def matrix_sensing(
    *,
    key: PRNGKeyArray,
    d: int = 5,
    spectrum: ArrayLike | Sequence[float] = (3.0, 2.0, 1.2),
    measurements: int | None = None,
) -> Sensing:
    r"""A matrix M ⪰ 0 of given eigenvalues, through m symmetric Gaussian measurements.

        y_i = ⟨A_i, M⟩,   A_i = ½(Γ_i + Γ_iᵀ),   Γ_i of standard normal entries

    so that the mean of ⟨A_i, S⟩² is ‖S‖² for symmetric S. M has eigenvalues `spectrum`, and 0
    for the rest of its d, in a random basis. The objective is (1/2m) Σ_i (⟨A_i, W⟩ − y_i)², near
    ½‖W − M‖² for W of low rank up to a relative error of order √(d·rank/m) (restricted
    isometry); by default m = 40·d·rank, where that is 0.16. What a model of
    `gflow.models.SymmetricFactored` then visits from a small start are the best fits of rank
    1, 2, …, the k-th from about τ = 1/(k-th eigenvalue) on, in the clock of 2301.11500.

    **Raises:** ValueError for a spectrum that is not 1 to d positive numbers, m < 1.

    **Source:** Jin, Li, Lyu, Du, Lee 2023 (2301.11500).

    ```python
    task = gflow.tasks.matrix_sensing(key=jax.random.key(0))
    model = gflow.models.SymmetricFactored.small(5, 5, log_alpha=-230.26, key=jax.random.key(1))
    gflow.simulate(model, task.objective, tau1=1.2)
    ```
    """
    check_count("d", d, 1)
    eigenvalues = np.asarray(spectrum, float)
    sound = eigenvalues.ndim == 1 and 1 <= eigenvalues.size <= d
    if not sound or not np.all((eigenvalues > 0.0) & np.isfinite(eigenvalues)):
        raise ValueError(
            f"spectrum = {spectrum}: give 1 to d = {d} positive eigenvalues; the rest are 0."
        )
    m = REDUNDANCY * d * eigenvalues.size if measurements is None else measurements
    check_count("measurements", m, 1)
    for_basis, for_measurements = jax.random.split(key)
    basis = jnp.linalg.qr(jax.random.normal(for_basis, (d, d)))[0][:, : eigenvalues.size]
    planted = jnp.matmul(basis * floats(eigenvalues)[None, :], basis.T)
    gaussian = jax.random.normal(for_measurements, (m, d, d))
    inputs = 0.5 * (gaussian + gaussian.swapaxes(1, 2))
    targets = jnp.sum(inputs * planted[None], axis=(1, 2))
    return Sensing(inputs, targets, planted)
