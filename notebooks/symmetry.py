# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a flow conserves, and how it leaves a symmetric state
#
# A symmetry of a model's weights does two things to its gradient flow. A continuous one gives a
# conserved quantity; a discrete one, such as two heads that can change places, makes equal heads
# stay equal until something small breaks it. `gflow.symmetry` finds the first for any model, and
# predicts when the second shows.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow
from gflow import symmetry
from theory.symmetry import alignment

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS = gflow.plot.COLOURS
EXACT = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}

# %% [markdown]
# ## The laws of a network, counted and found
# A linear network 3–2–2. The count comes from brackets of the gradients of its outputs (Marcotte,
# Gribonval & Peyré 2023), the laws from a search that is linear in the generators of symmetries:
# the three entries of its balance.

# %%
rng = np.random.default_rng(0)
x, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.normal(size=(20, 2)))
model = {
    "in": jnp.asarray(0.7 * rng.normal(size=(2, 3))),
    "out": jnp.asarray(0.7 * rng.normal(size=(2, 2))),
}


def outputs(model):
    return x @ model["in"].T @ model["out"].T


laws = symmetry.conservation_laws(model, outputs)
print(laws)
assert laws.count == laws.independent == 3

# %% [markdown]
# The flow keeps them, to the solver's error bar. Gradient descent does not: its drift falls in
# proportion to the step.


# %%
def loss(model):
    return 0.5 * jnp.mean(jnp.sum((outputs(model) - y) ** 2, axis=1))


run = gflow.simulate(model, loss, t1=4.0, observables={"laws": laws})
size, bar = symmetry.drift(run, "laws")
assert np.all(size <= bar)
steps = (0.08, 0.04, 0.02, 0.01)
drifts = []
for step in steps:
    descent = gflow.descend(
        model, loss, learning_rate=step, steps=round(4.0 / step), observables={"laws": laws}
    )
    drifts.append(symmetry.drift(descent, "laws").size)
drifts = np.array(drifts)
print(f"flow: {size.max():.1e} (bar {bar.max():.1e}); descent: {drifts.max(axis=1)}")

figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
for k in range(3):
    ax.loglog(steps, drifts[:, k], "os^"[k], mfc="white", color=COLOURS[k], label=f"law {k + 1}")
ax.loglog(steps, drifts[-1].max() * np.array(steps) / steps[-1], **EXACT, label="first power")
ax.set(xlabel=r"step $\eta$ of gradient descent", ylabel="largest drift until $t = 4$")
ax.minorticks_off()
ax.set_xticks(steps, [f"{step:g}" for step in steps])
_ = ax.legend(fontsize="x-small")

# %% [markdown]
# ## When a broken permutation shows
# Two equal heads a·tanh(b·x) rest at a saddle. The block of the Hessian that tells them apart has
# one negative eigenvalue −μ: heads that start δ apart are a level apart after ln(level/δ)/μ, and
# the next order, which does not depend on δ, follows from two more derivatives.

# %%
points = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
labels = jnp.array([1.0, -0.6, 0.3, -0.9])


def heads_loss(model):
    return jnp.mean((labels - jnp.tanh(points @ model["b"].T) @ model["a"]) ** 2) / 2


rest = {
    "a": jnp.full((2,), 0.564487783),
    "b": jnp.tile(jnp.array([0.981332909, -0.660756739]), (2, 1)),
}
off = symmetry.breaking(rest, heads_loss, lambda m: jax.tree.map(lambda w: w[::-1], m))
print(f"rates off the symmetry: {off.rates}")
level, starts = 1e-2, (1e-3, 1e-4, 1e-5)

figure, ax = plt.subplots(figsize=(4.2, 2.6), layout="constrained")
for k, start in enumerate(starts):
    first = off.time(start, level)
    apart = gflow.simulate(
        off.displaced(start), heads_loss, t1=first + 130.0, rtol=1e-12,
        observables={"distance": off.distance},
    )  # fmt: skip
    if start == 1e-4:
        seen = apart.crossing(gflow.stop.above(off.distance, level)).t
        print(f"δ = {start:g}: {first:.4f} + {off.correction(start, level):.4f}, seen {seen:.4f}")
        assert abs(seen - first - off.correction(start, level)) < 1e-4
    t = apart.t
    ax.semilogy(t, apart.observables["distance"], color=COLOURS[k], lw=2.2, alpha=0.55)
    ax.semilogy(t, start * np.exp(off.rates[0] * t), **EXACT)
ax.axhline(level, color="0.7", lw=0.8)
ax.plot([], [], color="0.4", lw=2.2, alpha=0.55, label="simulated")
ax.plot([], [], **EXACT, label=r"$\delta e^{\mu t}$")
ax.set(xlabel="flow time $t$", ylabel="distance from equal heads")
_ = ax.legend(fontsize="x-small")

# %% [markdown]
# ## Alignment of representations, lost and regained
# Two linear layers under decay: the cosine between H = E hhᵀ and the second moment G of the
# gradients at h. A learned mode has a small gradient, so that alignment is lost between the first
# mode and the last; without decay it never comes back.

# %%
t = np.linspace(0.0, 12.0, 500)
figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
for k, decay in enumerate((0.2, 0.05, 0.0)):
    course = alignment(1.0, [1.5, 1.0, 2.0], decay, 0.0, t, 1e-3)
    ax.plot(t, course, color=COLOURS[k], ls=("-", "--", ":")[k], label=rf"$\lambda = {decay:g}$")
assert float(alignment(1.0, [1.5, 1.0, 2.0], 0.2, 0.0)) > 1.0 - 1e-12
ax.set(xlabel="flow time $t$", ylabel="cosine of $H$ and $G$")
_ = ax.legend(fontsize="x-small")
