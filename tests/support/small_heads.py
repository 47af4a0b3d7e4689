"""Five heads of three small factors on a population loss, and u³ − v³: saddles of order three."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import gflow

#: Eigenvalues of the covariance, context length, heads.
LAM, N, H = np.array([0.4, 0.3, 0.2, 0.1]), 31, 5
D = len(LAM)
#: Of the squares of M, and losses of the plateaus with 0 … D eigenvectors learned.
SQUARES = LAM**2 * (1 + (1 + LAM.sum() / LAM) / N)
PLATEAUS = 0.5 * np.array([1 - sum(LAM[:m] / (1 + (1 + 1 / LAM[:m]) / N)) for m in range(D + 1)])
MIDDLES = 0.5 * (PLATEAUS[:-1] + PLATEAUS[1:])

#: ε·t of the half-drops as ε → 0, by the growth of every head alone on every plateau.
LIMITS = np.array([4.31553974, 12.10589539, 52.46048891, 100.51133151])
#: Their t at ε = 1e-3, by DOP853 at 1e-12 on the weights themselves.
AT_THOUSANDTH = np.array([4309.558445, 12096.599105, 52442.282834, 100493.59584])


class Heads(eqx.Module):
    """M = Σ v_h k_h q_hᵀ."""

    v: gflow.Scaled
    k: gflow.Scaled
    q: gflow.Scaled

    def matrix(self):
        return jnp.einsum("h,hi,hj->ij", self.v.value, self.k.value, self.q.value)


def loss(model):
    """½ of what linear attention loses on regression in context, in the eigenbasis."""
    m = model.matrix()
    straight = jnp.sum(jnp.sum(jnp.eye(D) * m, axis=1) * LAM**2)
    return 0.5 * (LAM.sum() - 2 * straight + jnp.sum(SQUARES[:, None] * m * m * LAM[None]))


def drawn(seed=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=H), rng.normal(size=(H, D)), rng.normal(size=(H, D))


def heads(epsilon, seed=3, units="heads"):
    """Factors drawn from N(0, ε²), bound head by head."""
    scale = float(np.log(epsilon))
    return Heads(*(gflow.Scaled(x, scale, units=units) for x in drawn(seed)))


TARGETS = np.array([2.0, 1.0, -0.5])
MIXING = np.array([[1.0, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 0.6]])
CUBES = np.array([0.7, 0.9, 1.1]), np.array([0.6, 0.8, 1.0])


class Cubes(eqx.Module):
    """f = u³ − v³, every entry a unit of its own."""

    u: gflow.Scaled
    v: gflow.Scaled


def cubes(epsilon):
    scale = float(np.log(epsilon))
    return Cubes(*(gflow.Scaled(x, scale, units=n) for x, n in zip(CUBES, "uv", strict=True)))


def cubes_loss(model):
    rest = model.u.value**3 - model.v.value**3 - TARGETS
    return 0.5 * jnp.sum(rest[:, None] * MIXING * rest[None])


def cubes_in_the_limit():
    """ε·t of every drop, which factor makes it, and the losses of the plateaus, as ε → 0.

    1/w of a dormant factor is linear in t, of slope ∓3b, b = A(y − f) on the present plateau; the
    first to come to zero makes the drop, and those learned solve b = 0.
    """
    inverse, learned, f, t = 1 / np.concatenate(CUBES), [], np.zeros(3), 0.0
    times, who, losses = [], [], [0.5 * TARGETS @ MIXING @ TARGETS]
    while len(learned) < 3:
        b = MIXING @ (TARGETS - f)
        slope = 3 * np.concatenate([b, -b])
        slope[[i for i in range(6) if i % 3 in learned]] = 0.0
        wait = np.array(
            [x / s if s > 1e-12 else np.inf for x, s in zip(inverse, slope, strict=True)]
        )
        j = int(np.argmin(wait))
        t, inverse = t + wait[j], inverse - slope * wait[j]
        learned.append(j % 3)
        f, own = np.zeros(3), np.ix_(learned, learned)
        f[learned] = np.linalg.solve(MIXING[own], (MIXING @ TARGETS)[learned])
        times.append(t)
        who.append(("u", (j,)) if j < 3 else ("v", (j - 3,)))
        losses.append(0.5 * (f - TARGETS) @ MIXING @ (f - TARGETS))
    return np.array(times), who, np.array(losses)
