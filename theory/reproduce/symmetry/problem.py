"""Two linear layers under decay; two equal heads at rest; a product of two numbers."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root

import gflow

BREAKING = "Symmetry breaking in flows, arXiv 2502.05300"
FORMATION = "Formation of representations, arXiv 2410.03006"
SYRE = "syre, arXiv 2408.15495"


class Missed(eqx.Module):
    """½E‖W*x − W₂W₁x‖²; its arrays are data, so that all problems of one size are one program."""

    variances: jax.Array
    targets: jax.Array

    def __call__(self, model: dict[str, jax.Array]) -> jax.Array:
        missing = jnp.diag(self.targets) - model["second"] @ model["first"]
        return 0.5 * jnp.sum(missing**2 * self.variances[None, :])


class Layers(NamedTuple):
    """h = W₁x, y = W₂h: variances of the inputs, targets, decay, and noise of the labels."""

    variances: np.ndarray
    targets: np.ndarray
    decay: float
    noise: float = 0.0

    @property
    def objective(self) -> Missed:
        return Missed(jnp.asarray(self.variances), jnp.asarray(self.targets))

    def aligned(self, size: float) -> dict[str, jax.Array]:
        """Balanced layers along the target, Z = size·1."""
        root = np.sqrt(size) * np.eye(len(self.targets))
        return {"first": jnp.array(root), "second": jnp.array(root)}

    def random(self, size: float, width: int, seed: int) -> dict[str, jax.Array]:
        rng, modes = np.random.default_rng(seed), len(self.targets)
        shapes = {"first": (width, modes), "second": (modes, width)}
        return {name: jnp.asarray(size * rng.normal(size=s)) for name, s in shapes.items()}

    def grams(self, weights: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z, H = E hhᵀ and G = E ggᵀ, leading axes of the weights kept."""
        first, second = weights["first"], weights["second"]
        missing = np.diag(self.targets) - second @ first
        scaled = missing * self.variances
        errors = scaled @ missing.swapaxes(-1, -2) + self.noise * np.eye(len(self.targets))
        turned = first.swapaxes(-1, -2)
        return (
            first @ turned,
            (first * self.variances) @ turned,
            second.swapaxes(-1, -2) @ errors @ second,
        )

    def alignment(self, weights: dict[str, np.ndarray]) -> np.ndarray:
        """cos(H, G)."""
        _, h, g = self.grams(weights)
        norms = np.linalg.norm(h, axis=(-2, -1)) * np.linalg.norm(g, axis=(-2, -1))
        return np.sum(h * g, axis=(-2, -1)) / norms


X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
Y = np.array([1.0, -0.6, 0.3, -0.9])


def heads_loss(model: dict[str, jax.Array]) -> jax.Array:
    """Half the mean squared error of Σ_h a_h tanh(b_h·x)."""
    hidden = jnp.tanh(jnp.asarray(X) @ model["b"].T)
    return jnp.sum((jnp.asarray(Y) - hidden @ model["a"]) ** 2) / (2.0 * len(Y))


def swapped(model: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The two heads in each other's place."""
    return jax.tree.map(lambda x: x[::-1], model)


def equal_heads(decay: float) -> dict[str, jax.Array]:
    """Two equal heads at rest, by Newton's method in one of them."""

    def slope(z: np.ndarray) -> np.ndarray:
        hidden = np.tanh(X @ z[1:])
        left = (2.0 * z[0] * hidden - Y) / len(Y)
        along = (left * z[0] * (1.0 - hidden**2)) @ X
        return np.append(left @ hidden, along) + decay * z

    z = root(slope, [0.56, 0.98, -0.66], tol=1e-13).x
    return {"a": jnp.full((2,), z[0]), "b": jnp.asarray(np.tile(z[1:], (2, 1)))}


class Pulled(eqx.Module):
    """½(ab − m)² + (λ/2)‖θ − θ₀‖², the decay towards a point being part of the objective."""

    target: jax.Array
    decay: jax.Array
    point: jax.Array

    def __call__(self, model: dict[str, jax.Array]) -> jax.Array:
        theta = model["ab"]
        loss = 0.5 * (jnp.prod(theta) - self.target) ** 2
        return loss + 0.5 * self.decay * jnp.sum((theta - self.point) ** 2)


def product_at_rest(
    target: float, decay: float, point: tuple[float, float], t1: float
) -> tuple[float, float]:
    """ab at the end of the flow from (0.9, 0.7), and its bar."""
    run = gflow.simulate(
        {"ab": jnp.array([0.9, 0.7])}, Pulled(*map(jnp.asarray, (target, decay, point))), t1=t1,
        rtol=1e-11, observables={"product": lambda m: jnp.prod(m["ab"])},
    )  # fmt: skip
    return float(run.observables["product"][-1]), float(run.error["product"][-1])
