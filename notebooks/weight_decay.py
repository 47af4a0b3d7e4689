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
# # Weight decay makes attention low-rank
#
# A matrix that is trained as a product W = ABᵀ, such as W_KᵀW_Q of an attention head, feels
# weight decay on its factors as a nuclear norm on itself (Kobayashi, Akram, von Oswald 2024):
# (λ/2)(‖A‖² + ‖B‖²) becomes λ‖W‖₊. `theory.weight_decay` says how fast, and which rank is left.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow
from theory import weight_decay

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS = gflow.plot.COLOURS
PREDICTED = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}


# %% [markdown]
# ## The imbalance dies as e^{−2λt}, whatever the loss
# G = AᵀA − BᵀB obeys G' = −2λG. With G goes the gap ½‖A‖² + ½‖B‖² − ‖ABᵀ‖₊, as e^{−4λt}, or as
# e^{−2(λ+d)t} where a mode d < λ of D dies. The loss here is ½‖ABᵀ − D‖².


# %%
class Pair(eqx.Module):
    left: jax.Array
    right: jax.Array


class Distance(eqx.Module):
    target: jax.Array

    def __call__(self, model):
        return 0.5 * jnp.sum((model.left @ model.right.T - self.target) ** 2)


target = np.diag([0.2, 0.4, 0.6, 0.8, 1.0])
rng = np.random.default_rng(0)
start = [0.5 * rng.standard_normal((5, 5)) for _ in range(2)]


def flows(start, objective, decays, t1):
    """One start, many decays, one compiled call."""
    stacked = Pair(*(jnp.stack([jnp.asarray(x)] * len(decays)) for x in start))
    return list(gflow.simulate_batch(stacked, objective, t1=t1, decay=decays, rtol=1e-10))


def factors(run):
    return run.observables["left"], run.observables["right"]


figure, (a, b) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
decays = np.array([0.05, 0.13, 0.5])
for run, decay, colour in zip(
    flows(start, Distance(jnp.asarray(target)), decays, 40.0), decays, COLOURS, strict=False
):
    left, right = factors(run)
    found = left.mT @ left - right.mT @ right
    law = weight_decay.imbalance(*start, decay, run.t)
    assert np.max(np.abs(found - law)) < 1e-8
    gap = np.array([weight_decay.gap(x, y) for x, y in zip(left, right, strict=True)])
    bound = weight_decay.gap_bounds(*start, decay, run.t).upper
    assert np.all(gap <= bound)
    label = rf"$\lambda = {decay:g}$"
    a.semilogy(run.t, np.linalg.norm(found, axis=(1, 2)), color=colour, lw=2.2, alpha=0.55,
               label=label)  # fmt: skip
    a.semilogy(run.t, np.linalg.norm(law, axis=(1, 2)), **PREDICTED)
    b.semilogy(run.t, gap, color=colour, lw=2.2, alpha=0.55, label=label)
    slope = weight_decay.gap_late_slope(target, 5, decay)
    late = (gap < 0.01 * gap[0]) & (gap > 1e-13)
    b.semilogy(run.t[late], gap[late][-1] * np.exp(slope * (run.t - run.t[late][-1])[late]),
               **PREDICTED)  # fmt: skip
a.plot([], [], **PREDICTED, label=r"$e^{-2\lambda t}$")
b.plot([], [], **PREDICTED, label="predicted late slope")
a.set(xlabel="flow time $t$", ylabel=r"$\|A^TA - B^TB\|$")
a.set_ylim(1e-8, 10)
b.set(xlabel="flow time $t$", ylabel="gap to the nuclear norm", ylim=(1e-13, 10))
for ax in (a, b):
    ax.legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## Singular values below the threshold vanish
# At the end σᵢ = max(dᵢ − λ, 0). **Beware of the factor 2**: for ‖ABᵀ − D‖² without the ½, as in
# the paper's Fig. 1, the threshold is λ/2.

# %%
decays = np.linspace(0.025, 1.125, 23)  # no λ equals a singular value of D
runs = flows(start, Distance(jnp.asarray(target)), decays, 300.0)
ends = np.array([np.linalg.svd(x[-1] @ y[-1].T)[1] for x, y in map(factors, runs)])
limits = np.linalg.svd(weight_decay.soft_threshold(target, decays), compute_uv=False)
print(f"largest deviation {np.max(np.abs(ends - limits)):.1e}")
# |d − λ| is 0.025 or more, so that deviations have shrunk by e^(−2·0.025·300) = 3e-7
assert np.max(np.abs(ends - limits)) < 3e-6
assert np.all(np.sum(ends > 1e-4, axis=1) == weight_decay.predicted_rank(target, decays).rank)

figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
grid = np.linspace(0, 1.15, 200)
exact = np.linalg.svd(weight_decay.soft_threshold(target, grid), compute_uv=False)
for k in range(5):
    ax.plot(grid, exact[:, k], **PREDICTED, label="soft threshold" if k == 0 else None)
    ax.plot(decays, ends[:, k], "o", ms=3.5, color=COLOURS[k], zorder=3 - 0.1 * k)
ax.set(xlabel=r"weight decay $\lambda$", ylabel="singular values of $AB^T$ at $t = 300$")
ax.legend(fontsize="x-small")
plt.show()


# %% [markdown]
# ## Softmax attention: the rank jumps
# Query c of K = 6 one-hot tokens must attend to key c. Above λ = 1/K nothing is learned; below,
# W_KᵀW_Q ends as a(I − 11ᵀ/K) with a = ln(1/λ − K + 1): rank 5 or 0, nothing between.


# %%
class Lookup(eqx.Module):
    def __call__(self, model):
        logits = model.left @ model.right.T  # W_KᵀW_Q, a column for each query
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=0)))


decays = np.array([0.02, 0.05, 0.1, 0.14, 0.2, 0.3])
horizon = 25 / weight_decay.lookup_rates(6, decays).slowest
start = [0.3 * rng.standard_normal((6, 8)) for _ in range(2)]
runs = flows(start, Lookup(), decays, horizon)
ends = np.array([np.linalg.svd(x[-1] @ y[-1].T)[1] for x, y in map(factors, runs)])
limits = weight_decay.lookup_logit(6, decays)
for decay, limit, s in zip(decays, limits, ends, strict=True):
    print(f"λ = {decay:4g}: predicted {limit:.6f}, found", " ".join(f"{x:.6f}" for x in s))
    assert np.allclose(s, [limit] * 5 + [0], atol=1e-6)

figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
grid = np.linspace(0.015, 0.31, 300)
ax.plot(grid, weight_decay.lookup_logit(6, grid), **PREDICTED, label=r"$\ln(1/\lambda - K + 1)$")
ax.plot(decays, ends[:, 0], "o", color=COLOURS[0], label="largest singular value")
ax.plot(decays, ends[:, 4], "s", mfc="none", mec=COLOURS[1], ms=8, label="fifth")
ax.plot(decays, ends[:, 5], "x", color=COLOURS[2], label="sixth")
ax.set(xlabel=r"weight decay $\lambda$", ylabel="singular values of $W_K^TW_Q$")
ax.legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## Your own model, decay on one leaf
# `decay` takes a number for all leaves, or one for each name. Here a head learns from examples
# with decay on its key–query matrix alone: its balance dies, that of value–output is conserved.

# %%
keys = jax.random.split(jax.random.key(0), 4)
kq, vo = (gflow.Factored.small((4, 4), 3, log_alpha=-0.5, key=k) for k in keys[:2])
head = gflow.models.SoftmaxAttention(kq, vo)
x = jax.random.normal(keys[2], (16, 5, 4))
teacher = 2.0 * jax.random.normal(keys[3], (4, 4))
y = jax.vmap(lambda x: jax.nn.softmax(x @ teacher @ x.T, axis=-1) @ x)(x)
objective = gflow.objectives.SquaredLoss(x, y, reduction="half_mean")

decay = 0.1
run = gflow.simulate(head, objective, t1=10.0, decay={"kq": decay})
for name, rate in {"kq": decay, "vo": 0.0}.items():
    before, after = (np.linalg.norm(getattr(m, name).conserved()) for m in (head, run.final))
    print(f"{name}: ‖G‖ from {before:.6f} to {after:.6f}, law {before * np.exp(-20 * rate):.6f}")
    assert abs(after - before * np.exp(-2 * rate * 10.0)) < 1e-5 * before
