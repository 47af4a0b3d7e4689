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
# # From condensation to rank collapse
#
# A one-layer transformer f(X) = σ(softmax(x W_Q W_Kᵀ Xᵀ/√d) X W_V W₁) W₂, read at its last token
# x, starts from weights of size ε (Chen, Luo 2025). First the outer weights W_V, W₁, W₂ escape
# and become rank one; then, on a plateau, W_Q and W_K grow and become rank one as well. Both
# stages cost about as much at ε = 1e-100 as at 1e-2. The data: random tokens with labels that
# depend on attention, so that the mean token alone cannot separate them.

# %%
import math
import warnings

import diffrax
import jax
import matplotlib.pyplot as plt
import numpy as np

import gflow
from theory import condensation

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS = gflow.plot.COLOURS
PREDICTED = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}
D, LOG10 = 6, math.log(10.0)

task = gflow.tasks.attention_labels(256, 6, D, key=jax.random.key(3))
X, y = np.asarray(task.inputs), np.asarray(task.labels)
print(condensation.separability(X, y).has_plateau)


# %% [markdown]
# ## Stage 1: an escape in finite rescaled time
# With v along Σ y_i x̄_i and m its length over n, a = (vW_V)ᵀ/ε, B = W₁/ε and c = W₂/ε follow
# a' = Bc, B' = acᵀ, c' = Bᵀa in the time t̄ = εmt, and blow up at T̄*. `gflow.escape` integrates
# the whole model in polar coordinates, up to the norm that is asked for. The prediction of the
# time uses the start and nothing else.


# %%
def transformer(exponent):
    """Every weight drawn from N(0, ε²), ε = 10^−exponent."""
    return gflow.models.LastTokenTransformer.small(
        D, D, log_epsilon=-exponent * LOG10, key=jax.random.key(0)
    )


v, m = condensation.condensation_direction(X, y)
model = transformer(100)
start = (
    v @ np.asarray(model.value.array),
    *(np.asarray(w.array) for w in (model.inner, model.readout)),
)
blow_up = condensation.blow_up_time(*start)
print(f"T* = {blow_up:.8f}, between", *(f"{x:.3f}" for x in condensation.blow_up_bounds(*start)))

escapes = {e: gflow.escape(transformer(e), task.objective, level=0.1) for e in (2, 4, 8, 100)}
print("   ε    steps    simulated t     predicted t")
for e, run in escapes.items():
    predicted = condensation.escape_time(blow_up, 10.0**-e, m, level=0.1)
    print(f"1e-{e:<4} {run.statistics['accepted']:4}   {run.t[-1]:.8e}  {predicted:.8e}")
assert abs(run.t[-1] / predicted - 1) < 1e-7

# %% [markdown]
# Columns of W_V turn to ±v. The part of W_V orthogonal to v does not move, so that their cosines
# follow from a alone.

# %%
figure, (a, b) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
run = escapes[8]
largest = max(run.observables[f"{x}.log_norm"][0] for x in ("value", "inner", "readout"))
levels = np.geomspace(2, 1e5, 30) * np.exp(largest)
passages = [run.at_norm(x) for x in levels]
left = 1e-8 * m * np.array([p.remaining for p in passages])
values = np.stack([np.asarray(p.model.value.value) for p in passages])
found = np.einsum("d,tdk->tk", v, values) / np.linalg.norm(values, axis=1)
value = np.asarray(transformer(8).value.value)
exact = condensation.value_cosines(value, v, np.einsum("d,tdk->tk", v, values))
assert np.max(np.abs(found - exact)) < 1e-6
a.semilogx(left, found, "o", mfc="white", ms=3, color=COLOURS[0])
a.semilogx(left, exact, **PREDICTED)
a.invert_xaxis()
a.set(xlabel=r"rescaled time left $\varepsilon m(t_1 - t)$", ylabel="cosine with $v$",
      title="columns of $W_V$")  # fmt: skip
for exponent, colour in zip((2, 4, 8), COLOURS, strict=False):
    run = escapes[exponent]
    time = 10.0**-exponent * m * run.t
    b.semilogy(time, np.exp(run.observables["value.log_norm"]), color=colour, lw=2, alpha=0.6,
               label=rf"$\varepsilon = 10^{{-{exponent}}}$")  # fmt: skip
b.axvline(blow_up, **PREDICTED, label=r"$\bar T^*$")
b.set(xlabel=r"$\varepsilon m t$", ylabel=r"$\|W_V\|$", title="escape")
b.legend()
plt.show()

# %% [markdown]
# The paper's Assumption 1 asks for certain signs of rows and columns. It comes true by itself
# near the blow-up: the shares of indices and of pairs for which it holds.

# %%
for model in (escapes[8].model(step=i) for i in (0, 4, 6, 8, 10, 12, 14)):
    value, inner, readout = (np.asarray(w.value) for w in (model.value, model.inner, model.readout))
    shares = condensation.assumption_shares(v @ value, inner, readout)
    size = np.linalg.norm(value) * 1e8
    print(f"‖W_V‖/ε = {size:8.3g}: indices {shares.single:.2f}, pairs {shares.pairs:.2f}")

# %% [markdown]
# ## Stage 2: the plateau, and W_Q and W_K collapse
# `escape.final` is the model at the norm asked for, with its time set to zero; `gflow.simulate`
# goes on from there, with W_Q and W_K in the gauge of a `Factored` leaf. On the plateau
# W_Q' = F W_K, W_K' = FᵀW_Q, with F from the data and the outer weights, so that ‖W_Q‖ grows as
# e^{σ₁t}, and the rank one that is left is as good as the gap of F and log(1/ε).

# %%
options = {"rtol": 1e-7, "error_bars": False, "solver": diffrax.Tsit5()}


def attention(leaf):
    """W_Q and W_K at the steps of a run, up to a rotation of their columns."""
    both = leaf["direction"] * np.exp(leaf["log_size"])[..., None, :]
    return both[..., :D, :], both[..., D:, :]


def plateau(exponent, level=0.1):
    """The run until the outer weights rest, F there, and the run from there to its end."""
    first = gflow.simulate(escapes[exponent].final, task.objective, t1=62.0, **options)
    here = first.final
    F = condensation.key_query_matrix(
        X, y, *(np.asarray(w.value) for w in (here.value, here.inner, here.readout))
    )
    expected = condensation.plateau(F, *(w[-1] for w in attention(first.leaves["kq"])), level)
    end = first.t[-1] + 1.1 * expected.length
    return first, F, expected, gflow.simulate(here, task.objective, t1=end, **options)


figure, (a, b) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
for exponent, colour, marker in zip((8, 100), COLOURS, "os", strict=False):
    first, F, expected, second = plateau(exponent)
    query, key = attention(second.leaves["kq"])
    norm = np.linalg.norm(query, axis=(1, 2))
    i = int(np.flatnonzero(norm >= 0.1)[0])
    print(
        f"ε = 1e-{exponent}: from there to ‖W_Q‖ = 0.1 predicted {expected.length:.1f}, "
        f"simulated {second.t[i] - first.t[-1]:.1f}; σ₁, σ₂ of F: "
        f"{', '.join(f'{s:.4f}' for s in np.linalg.svd(F)[1][:2])}"
    )
    assert abs((second.t[i] - first.t[-1]) / expected.length - 1) < 0.2
    label = rf"$\varepsilon = 10^{{-{exponent}}}$"
    for run in (first, second):
        size = np.linalg.norm(attention(run.leaves["kq"])[0], axis=(1, 2))
        a.semilogy(run.t, size, color=colour, lw=2, alpha=0.6)
        b.plot(run.t, run.loss, color=colour, lw=2, alpha=0.6)
    a.plot(first.t[-1], np.linalg.norm(attention(first.leaves["kq"])[0][-1]), marker,
           color=colour, mfc="white", label=label)  # fmt: skip
    t = np.linspace(0, expected.length, 50)
    start = [w[-1] for w in attention(first.leaves["kq"])]
    linear = condensation.key_query_directions(F, *start, t).log_query
    a.semilogy(first.t[-1] + t, np.exp(linear), **PREDICTED)
    b.axvline(first.t[-1] + expected.length, **PREDICTED)
a.plot([], [], **PREDICTED, label="predicted")
a.set(xlabel="flow time since the escape", ylabel=r"$\|W_Q\|$", title="growth on the plateau")
a.legend()
b.set(xlabel="flow time since the escape", ylabel="loss", title="loss")
plt.show()

# %% [markdown]
# The direction is F's: the top singular vectors of W_Q W_Kᵀ at its end, and those of F.

# %%
u, _, vt = np.linalg.svd(np.asarray(second.leaves["kq"]["value"][i]))
fu, _, fvt = np.linalg.svd(F)
print(f"1 − |cos|: {1 - abs(u[:, 0] @ fu[:, 0]):.1e} and {1 - abs(vt[0] @ fvt[0]):.1e}")
assert abs(u[:, 0] @ fu[:, 0]) > 0.99

# %% [markdown]
# ## What must not be asked of it
# Where the mean tokens can be separated, outer weights grow without end, F decays and there is
# no plateau. `check_not_separable` warns. And training by Adam has no wait of 1/ε: it divides
# each gradient by its size. `gflow reproduce condensation` trains the anchor function of the
# paper by AdamW and compares in form only.

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    separable = np.where(X.mean(axis=1) @ v > 0, 1.0, -1.0)
    condensation.check_not_separable(X, separable)
print(caught[0].message)
