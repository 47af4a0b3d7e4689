"""Vectors and numbers: the exact fixture and the diabetes data."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from ..objectives._squared import SquaredLoss
from ._task import Task, floats, scikit_data


class Regression(Task):
    """Vectors x and numbers y, with a name for each coordinate of x; half-sum loss."""

    inputs: Float[Array, "examples d"]
    targets: Float[Array, " examples"]
    names: tuple[str, ...] = eqx.field(static=True)

    @property
    def objective(self) -> SquaredLoss:
        return SquaredLoss(self.inputs, self.targets, "half_sum")


def zhao_fixture() -> Regression:
    """Two examples, four coordinates: three stages at exactly τ = 1, 4, 4 + 80/49.

    For a `DiagonalLinear` of Hadamard weights and the half-sum loss, as α → 0.
    Coordinate 0 switches on, then 2, which drives 0 back to zero, then 3 with a negative
    sign; 1 never does. The saddles are (4/5, 0, 0, 0), (0, 0, 7/5, 0) and
    (0, 0, 10/7, −10/49), where the loss is zero.

    **Source:** arXiv 2607.12332.

    ```python
    task = gflow.tasks.zhao_fixture()
    weight = gflow.Hadamard.small(4, log_alpha=-74, key=jax.random.key(0))
    gflow.simulate(gflow.models.DiagonalLinear(weight), task.objective, tau1=8.0)
    ```
    """
    x = floats([[1.0, 0.5, 0.7, 0.0], [0.5, 1.0, 0.1, 0.7]])
    return Regression(x, floats([1.0, 0.0]), names=("0", "1", "2", "3"))


def diabetes() -> Regression:
    """Efron et al.'s diabetes data: 442 patients, 10 measurements, progression of disease.

    The columns of the inputs have mean 0 and norm 1, as scikit-learn ships them; the
    target is centred and divided by its norm. With the half-sum loss the forces at zero
    are the correlations with the target, the first stage is at τ = 1/0.5865 (body mass
    index), and the loss is (1 − R²)/2.

    **Raises:** ImportError without scikit-learn, which ships the data.

    **Source:** Efron, Hastie, Johnstone, Tibshirani, Annals of Statistics 32 (2004).
    """
    data = scikit_data("diabetes").load_diabetes()
    y = data.target - data.target.mean()
    return Regression(floats(data.data), floats(y / np.linalg.norm(y)), tuple(data.feature_names))
