"""Rodas5P: an L-stable Rosenbrock method of order 5(4) as a Diffrax solver."""

from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ._linear import factorised


def _square(rows: list[list[float]]) -> np.ndarray:
    """Strictly lower triangular table from its rows."""
    return np.array([row + [0.0] * (len(rows) - len(row)) for row in rows])


# Steinebach, "Construction of Rosenbrock–Wanner method Rodas5P and numerical benchmarks
# within the Julia Differential Equations package", BIT 63:27 (2023), Table 2 in the
# form without Jacobian–vector products (Hairer & Wanner II, IV.7): stages solve
#   (I/(hγ) − J) U_i = f(t + c_i h, y + Σ a_ij U_j) + Σ (C_ij/h) U_j + h d_i ∂f/∂t.
_GAMMA = 0.21193756319429014
_A6 = [
    -7.502846399306121, 2.561846144803919, -11.627539656261098,
    -0.18268767659942256, 0.030198172008377946,
]  # fmt: skip
_A = _square(
    [
        [],
        [3.0],
        [2.849394379747939, 0.45842242204463923],
        [-6.954028509809101, 2.489845061869568, -10.358996098473584],
        [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
        _A6,
        [*_A6, 1.0],
        [*_A6, 1.0, 1.0],
    ]
)
_C = _square([
    [],
    [-14.155112264123755],
    [-17.97296035885952, -2.859693295451294],
    [147.12150275711716, -1.41221402718213, 71.68940251302358],
    [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
    [
        24.854864614690072, -3.0009227002832186, 47.4931110020768,
        5.5814197821558125, -0.6610691825249471,
    ],
    [
        30.91273214028599, -3.1208243349937974, 77.79954646070892,
        34.28646028294783, -19.097331116725623, -28.087943162872662,
    ],
    [
        37.80277123390563, -3.2571969029072276, 112.26918849496327,
        66.9347231244047, -40.06618937091002, -54.66780262877968, -9.48861652309627,
    ],
])  # fmt: skip
_AC = np.stack([_A, _C], axis=1)
_c = [
    0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716,
    0.4288403609558664, 1.0, 1.0, 1.0,
]  # fmt: skip
_d = [
    0.21193756319429014, -0.42387512638858027, -0.3384627126235924,
    1.8046452872882734, 2.325825639765069, 0.0, 0.0, 0.0,
]  # fmt: skip
_H = np.array(
    [
        [
            25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204,
            0.524948541321073, 1.1241088310450404, 0.4272876194431874, -0.17202221070155493,
        ],
        [
            -9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796,
            20.176138334709044, 15.98066361424651, -6.789040303419874, -6.710236069923372,
        ],
        [
            11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643,
            -52.072871366152654, -59.78993625266729, -0.15582684282751913, 4.883087185713722,
        ],
    ]
)  # fmt: skip


class _Rodas5PInterpolation(diffrax.AbstractLocalInterpolation):
    """Dense output of order 4."""

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    y0: PyTree[Array]
    y1: PyTree[Array]
    k: Float[Array, "3 size"]

    def evaluate(self, t0, t1=None, left=True):
        if t1 is not None:
            return jax.tree.map(lambda a, b: b - a, self.evaluate(t0), self.evaluate(t1))
        start, unravel = ravel_pytree(self.y0)
        end, _ = ravel_pytree(self.y1)
        # a zero-length interval would divide 0 by 0
        length = jnp.where(jnp.equal(self.t1, self.t0), 1.0, self.t1 - self.t0)
        x = jnp.asarray((t0 - self.t0) / length)
        bend = self.k[0] + x * (self.k[1] + x * self.k[2])
        return unravel(jnp.asarray((1.0 - x) * start + x * (end + (1.0 - x) * bend)))


class Rodas5P(diffrax.AbstractAdaptiveSolver):
    r"""Eight-stage Rosenbrock method, order 5, stiffly accurate, embedded order 4.

    One Jacobian (`jax.jacfwd`) and one LU factorisation a step and no Newton iteration
    that could fail: the method for stiff flows of up to some hundred coordinates. The
    term must be a plain `diffrax.ODETerm`; its vector field may depend on time. A step
    on which anything is non-finite returns its start with a NaN error, which every
    adaptive controller of Diffrax rejects.

    **Source:** Steinebach 2023, BIT Numerical Mathematics 63:27.

    ```python
    diffrax.diffeqsolve(diffrax.ODETerm(f), gflow.solvers.Rodas5P(), 0.0, 1e4, None, y0,
                        stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8))
    ```
    """

    #: False for a gradient flow, whose Jacobian is symmetric up to a diagonal scaling: the
    #: matrices I/(hγ) − J then need no pivoting while γh times the largest growth rate is
    #: below 1, which accuracy asks for anyway, and a batch of them is inverted faster.
    pivot: bool = True
    #: True for components whose rates differ by more than floats square: rows are scaled.
    scaled: bool = False

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = _Rodas5PInterpolation

    def order(self, terms):
        return 5

    def init(self, terms, t0, t1, y0, args):
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del solver_state, made_jump
        h, length = terms.contr(t0, t1), t1 - t0  # of opposite signs backwards in time
        y, unravel = ravel_pytree(y0)

        def f(t, y):
            return ravel_pytree(terms.vf(t, unravel(y), args))[0]

        jacobian = jax.jacfwd(lambda y: f(t0, y))(y)
        _, slope = jax.jvp(lambda t: f(t, y), (t0,), (jnp.ones_like(t0),))
        matrix = jnp.eye(y.size, dtype=y.dtype) / (h * _GAMMA) - jacobian
        solve = factorised(matrix, self.pivot, self.scaled)

        # a loop in place of eight copies of the vector field: half as long to compile; the
        # two rows of coefficients in one kernel
        def stage(stages, row):
            coefficients, c, d, i = row
            shift, known = jnp.sum(coefficients[:, :, None] * stages[None], axis=1)
            point = y + shift
            solved = solve(f(t0 + c * length, point) + known / h + length * d * slope)
            return jax.lax.dynamic_update_index_in_dim(stages, solved, i, 0), point

        tables = [jnp.asarray(table, y.dtype) for table in (_AC, _c, _d)]
        start = jnp.zeros((8, y.size), y.dtype)
        stages, points = jax.lax.scan(stage, start, (*tables, jnp.arange(8)))
        end, error = points[-1] + stages[-1], stages[-1]

        finite = jnp.all(jnp.isfinite(jnp.stack([end, error])))
        end = jnp.where(finite, end, y)
        error = jnp.where(finite, error, jnp.full_like(error, jnp.nan))
        dense = jnp.sum(jnp.asarray(_H, y.dtype)[:, :, None] * stages[None], axis=1)
        y1 = unravel(end)
        return (
            y1,
            unravel(error),
            dict(y0=y0, y1=y1, k=dense),
            None,
            diffrax.RESULTS.successful,
        )
