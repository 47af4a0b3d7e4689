"""Three small factors: heads v, k, q through every saddle, beside explicit steps on the factors.

Five heads of rank one on in-context regression in four dimensions (`gflow.models.SeparateHeads`),
drawn from N(0, ε²), from ε = 10⁻² to 10⁻¹⁰⁰ through all four drops to rest. What is compared are
gradients: those of explicit Diffrax solvers on the plain factors at ε = 10⁻³, at equal error of the
times at which the loss is midway between its plateaus, and the cost of 64 seeds in one call over
that of single ones. `objective` is the exact population loss at D = 64, H = 16 over the three
products of matrices that it cannot do without.
"""

import math
import statistics
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
import theory

from .clock import interleaved

EIGENVALUES, CONTEXT, HEADS, MEMBERS = (0.4, 0.3, 0.2, 0.1), 31, 5, 64
EXPONENTS = (2, 3, 4, 8, 20, 100)
#: Columns of a Jacobian, of which a Rosenbrock step of units takes two, and its fields.
UNKNOWNS, FIELDS = 46, 10


def model(exponent: int, seed: int = 0) -> gflow.models.SeparateHeads:
    made = gflow.models.SeparateHeads.small(
        4, HEADS, log_epsilon=-exponent * math.log(10.0), key=jax.random.key(seed)
    )
    leaves = (made.value, made.key, made.query)
    return gflow.models.SeparateHeads(
        *(gflow.Scaled(x.array, x.log_scale, units="heads") for x in leaves)
    )


def objective() -> gflow.objectives.InContextRegression:
    return gflow.objectives.InContextRegression(list(EIGENVALUES), CONTEXT)


def middles() -> np.ndarray:
    """Losses midway between the plateaus, of ½E(y − ŷ)²."""
    levels = 0.5 * theory.linear_icl.plateaus(EIGENVALUES, CONTEXT)
    return 0.5 * (levels[1:] + levels[:-1])


def run(quick: bool, say) -> dict[str, Any]:
    """`drops`: steps and times by ε; `explicit`, `batch` and `objective`."""
    say("units: drops")
    chosen, repetitions = ((3, 4, 100), 1) if quick else (EXPONENTS, 5)
    found = {"drops": [_drops(n, repetitions) for n in chosen]}
    say("units: explicit steps")
    found["explicit"] = [_explicit(*pair) for pair in (("Tsit5", 1e-7), ("Dopri8", 1e-8))]
    say("units: batch")
    found["batch"] = _batch(8 if quick else MEMBERS, repetitions)
    say("units: objective")
    found["objective"] = _objective(3 if quick else 15)
    return found


def _passages(trajectory: gflow.Trajectory) -> np.ndarray:
    return np.array([trajectory.crossing(gflow.stop.loss_below(x)).t for x in middles()])


def _drops(exponent: int, repetitions: int) -> dict[str, Any]:
    def once() -> gflow.Trajectory:
        return gflow.simulate(model(exponent), objective(), rtol=1e-8, error_bars=False)

    known = gflow.simulate(model(exponent), objective(), rtol=1e-10, error_bars=False)
    found = once()
    steps = sum(found.statistics[name] for name in ("accepted", "rejected"))
    taken = interleaved({"gflow": once}, repetitions)["gflow"]
    error = np.max(np.abs(_passages(found) / _passages(known) - 1.0))
    return {
        "exponent": exponent,
        "steps": steps,
        "gradients": steps * (2 * UNKNOWNS + FIELDS),
        "seconds": statistics.median(taken.wall),
        "cpu_seconds": taken.medians["cpu_seconds"],
        "error": float(error),
    }


def _explicit(name: str, rtol: float) -> dict[str, Any]:
    """Steps of a Diffrax solver on the factors at ε = 10⁻³, and the error of its drops."""
    start, loss = model(3), objective()
    flat = [np.asarray(leaf.value) for leaf in (start.value, start.key, start.query)]
    shapes = [x.shape for x in flat]
    cuts = np.cumsum([x.size for x in flat])[:-1].tolist()

    class Plain(eqx.Module):
        whole: jax.Array

        def matrix(self):
            v, k, q = (
                x.reshape(s) for x, s in zip(jnp.split(self.whole, cuts), shapes, strict=True)
            )
            return jnp.einsum("h,hri,hrj->ij", v, k, q)

    def field(t, y, args):
        return -jax.grad(lambda y: loss(Plain(y)))(y)

    known = _passages(gflow.simulate(start, loss, rtol=1e-10, error_bars=False))
    y0 = jnp.concatenate([jnp.asarray(x).ravel() for x in flat])
    beside = jnp.asarray(np.concatenate([known * (1 - 1e-7), known * (1 + 1e-7)]))
    solver = getattr(diffrax, name)()
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), solver, 0.0, float(1.05 * known[-1]), None, y0,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-4 * rtol),
        saveat=diffrax.SaveAt(ts=jnp.sort(beside)), max_steps=1_000_000,
    )  # fmt: skip
    assert solution.ys is not None
    seen = np.asarray(jax.vmap(lambda y: loss(Plain(y)))(solution.ys)).reshape(-1, 2)
    # the loss is a straight line over so little
    share = (seen[:, 0] - middles()) / (seen[:, 0] - seen[:, 1])
    error = float(np.max(np.abs(2e-7 * (share - 0.5))))
    stages = {"Tsit5": 6, "Dopri8": 13}[name]
    steps = int(solution.stats["num_steps"])
    return {"method": name, "rtol": rtol, "steps": steps, "gradients": stages * steps,
            "error": error}  # fmt: skip


def _batch(members: int, repetitions: int) -> dict[str, Any]:
    """Seconds a member at ε = 10⁻¹⁰⁰, in one call and one by one."""
    each = [model(100, seed) for seed in range(members)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *each)
    few = each[: max(4, members // 8)]

    def together() -> Any:
        return gflow.simulate_batch(stacked, objective(), rtol=1e-6, error_bars=False)

    def alone() -> Any:
        return [gflow.simulate(x, objective(), rtol=1e-6, error_bars=False) for x in few]

    once = together()
    taken = interleaved({"together": together, "alone": alone}, min(repetitions, 3))
    return {
        "members": members,
        "failed": len(once.failed),
        "together": statistics.median(taken["together"].wall) / members,
        "alone": statistics.median(taken["alone"].wall) / len(few),
    }


def _objective(repetitions: int) -> dict[str, Any]:
    """The population loss and its gradient, over the matrix products of its forward pass."""
    d, h = 64, 16
    rng = np.random.default_rng(0)
    loss = gflow.objectives.InContextRegression((1.0 / np.arange(1, d + 1)).tolist(), 31)
    v, k, q = (jnp.asarray(rng.normal(size=s)) for s in ((h,), (h, 1, d), (h, 1, d)))
    lam = loss.covariance

    class Plain(eqx.Module):
        v: jax.Array
        k: jax.Array
        q: jax.Array

        def matrix(self):
            return jnp.einsum("h,hri,hrj->ij", self.v, self.k, self.q)

    gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda m, loss: loss(m)))
    products = jax.jit(lambda a, b, lam: jnp.sum((a @ lam) * (b @ a)))
    made = Plain(v, k, q)
    square = made.matrix()

    def many(call):
        for _ in range(50):
            out = call()
        jax.block_until_ready(out)

    runs = {
        "gradient": lambda: many(lambda: gradient(made, loss)[0]),
        "products": lambda: many(lambda: products(square, loss.second, lam)),
    }
    taken = interleaved(runs, repetitions)
    return {name: statistics.median(x.wall) / 50 for name, x in taken.items()}


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    if not part:
        return [], []
    by = {row["exponent"]: row for row in part["drops"]}
    fewest = min(row["gradients"] for row in part["explicit"])
    batch, cost = part["batch"], part["objective"]
    most = [
        ("steps of heads v, k, q at 1e-100 over those at 1e-4", 3.0,
         by[100]["steps"] / by[4]["steps"]),
        ("population loss and gradient at D = 64 over its matrix products", 10.0,
         cost["gradient"] / cost["products"]),
    ]  # fmt: skip
    least = [
        ("gradients of explicit steps over those of units at 1e-3", 5.0,
         fewest / by[3]["gradients"]),
        ("a single run of units over a member of a batch of 64", 10.0,
         batch["alone"] / batch["together"]),
    ]  # fmt: skip
    return most, least


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of the drops, and of what is beside them."""
    if not part:
        return []
    drops = [
        [f"1e-{r['exponent']}", str(r["steps"]), str(r["gradients"]), f"{r['seconds']:.3g}",
         f"{r['cpu_seconds']:.3g}", f"{r['error']:.1e}"]
        for r in part["drops"]
    ]  # fmt: skip
    beside = [
        [r["method"], f"{r['rtol']:.0e}", str(r["steps"]), str(r["gradients"]), f"{r['error']:.1e}"]
        for r in part["explicit"]
    ]
    batch = part["batch"]
    members = [[str(batch["members"]), f"{1e3 * batch['together']:.3g}",
                f"{1e3 * batch['alone']:.3g}", str(batch["failed"])]]  # fmt: skip
    return [
        ("Heads v, k, q through four drops (rtol 1e-8)",
         ["ε", "steps", "gradients", "seconds", "CPU", "error"], drops),
        ("The same at ε = 1e-3 by explicit steps on the factors",
         ["method", "rtol", "steps", "gradients", "error"], beside),
        ("Seeds at ε = 1e-100 (rtol 1e-6)",
         ["members", "ms a member", "ms alone", "failed"], members),
    ]  # fmt: skip
