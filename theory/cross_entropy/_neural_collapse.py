r"""Neural collapse, measured: features of a class gather, classes and weights become one simplex.

With class means μ_c, global mean μ = (1/K) Σ_c μ_c, centred means m_c = μ_c − μ. All four measures
vanish at collapse. Leading axes (of times, say) are kept.
"""

import numpy as np
from jaxtyping import Float

from gflow.internal import svd

from .._arguments import Numbers, real_array


def within_class(features: Numbers, labels: Numbers) -> Float[np.ndarray, "*t"]:
    r"""NC1: tr(Σ_W Σ_B⁺)/K, the scatter within classes against that between their means.

        Σ_W = (1/n) Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ,   Σ_B = (1/K) Σ_c m_c m_cᵀ

    **Arguments:** `features` h: (..., n, d); `labels`: (n,), 0 … K − 1, each with an example.
    **Raises:** ValueError for shapes, other labels, K < 2, means that all agree, float32.
    **Source:** Papyan, Han, Donoho 2020 (2008.08186), NC1.

    ```python
    within_class(features, labels)                  # 0 where each class is one point
    ```
    """
    h, y, means = _data(features, labels)
    size, centred = _centred(means)
    inside = h / size - (means / size)[..., y, :]
    # with the m_c = UsVᵀ as rows of M, Σ_B⁺ = K M⁺M⁺ᵀ = K V s⁻² Vᵀ
    _, s, vt = svd(centred, full_matrices=False)
    known = s > 1e-12 * s[..., :1]
    across = (inside @ vt.mT) * np.where(known, 1.0 / np.where(known, s, 1.0), 0.0)[..., None, :]
    return np.asarray(np.sum(across**2, axis=(-2, -1)) / len(y))


def equinorm(features: Numbers, labels: Numbers) -> Float[np.ndarray, "*t"]:
    r"""NC2, lengths: standard deviation of ‖m_c‖ over classes, divided by the mean.

    Arguments, errors and source as `within_class`, NC2.

    ```python
    equinorm(np.eye(4), np.arange(4))               # 0
    ```
    """
    _, centred = _centred(_data(features, labels)[2])
    norms = np.linalg.norm(centred, axis=-1)
    return np.asarray(np.std(norms, axis=-1) / np.mean(norms, axis=-1))


def equiangle(features: Numbers, labels: Numbers) -> Float[np.ndarray, "*t"]:
    r"""NC2, angles: mean over pairs of |cos(m_c, m_c') + 1/(K − 1)|, the angles of a simplex.

    **Raises:** as `within_class`, and for a class whose mean is the global one. Source as
    `within_class`, NC2.

    ```python
    equiangle(np.eye(4), np.arange(4))              # 0
    ```
    """
    _, centred = _centred(_data(features, labels)[2])
    norms = np.linalg.norm(centred, axis=-1, keepdims=True)
    if np.any(norms <= 1e-12):
        raise ValueError("The mean of a class is the global mean: it has no angle to the others.")
    unit = centred / norms
    k = unit.shape[-2]
    off = np.abs(unit @ unit.mT + 1.0 / (k - 1.0)) * (1.0 - np.eye(k))
    return np.asarray(np.sum(off, axis=(-2, -1)) / (k * (k - 1.0)))


def self_duality(features: Numbers, labels: Numbers, weights: Numbers) -> Float[np.ndarray, "*t"]:
    r"""NC3: ‖W/‖W‖_F − M/‖M‖_F‖_F, rows of M the centred class means: 0 when they are parallel.

    **Arguments:** as `within_class`, and `weights` W: (..., K, d), logits W h. **Raises:** as
    `within_class`, and for W = 0 or of another shape. **Source:** as `within_class`, NC3.

    ```python
    self_duality(np.eye(3), np.arange(3), np.eye(3) - 1 / 3)        # 0
    ```
    """
    means, w = _data(features, labels)[2], real_array(weights, "weights")
    if w.ndim < 2 or w.shape[-2:] != means.shape[-2:]:
        raise ValueError(f"weights have shape {w.shape}: give (..., K, d) = {means.shape[-2:]}.")
    top = np.max(np.abs(w), axis=(-2, -1), keepdims=True)
    if not np.all(top > 0):
        raise ValueError("weights vanish: they have no direction.")
    centred = _centred(means)[1]
    unit = [x / np.linalg.norm(x, axis=(-2, -1), keepdims=True) for x in (w / top, centred)]
    return np.asarray(np.linalg.norm(unit[0] - unit[1], axis=(-2, -1)))


def _centred(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest entry of the centred means, and the centred means over it."""
    centred = means - np.mean(means, axis=-2, keepdims=True)
    size = np.max(np.abs(centred), axis=(-2, -1), keepdims=True)
    rounding = 1e-15 * np.max(np.abs(means), axis=(-2, -1), keepdims=True)
    if not np.all(size > rounding):
        raise ValueError("All class means agree: there is nothing between classes to measure.")
    return size, centred / size


def _data(features: Numbers, labels: Numbers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels, and the means of classes (..., K, d)."""
    h, y = real_array(features, "features"), real_array(labels, "labels")
    if h.ndim < 2 or y.shape != h.shape[-2:-1] or not h.size:
        raise ValueError(
            f"features have shape {h.shape} and labels {y.shape}: give (..., n, d) and (n,)."
        )
    values, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    if values.size < 2 or not np.array_equal(values, np.arange(values.size)):
        raise ValueError(
            f"labels are of the classes {values[:6]}: give integers 0 … K − 1, two classes or "
            "more, each with an example."
        )
    member = (index[None, :] == np.arange(values.size)[:, None]) / counts[:, None]
    return h, index, member @ h
