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
# # Rank by rank without the diagonal assumption
#
# The theorem on gradual rank increase (Boix-Adsera et al. 2023, arXiv 2306.07042) is for
# diagonal weights. Here a softmax attention head has full key–query and value–output
# matrices, each a product A Bᵀ that starts at size α, and the same staircase appears. The
# limit algorithm for matrices predicts which rank rises when, in the limit and at finite α.

# %%
import math
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow
import theory

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
FAST = bool(os.environ.get("GFLOW_FAST"))
LOG10 = math.log(10)

# %% [markdown]
# ## A head of full matrices and its teacher
# Three dimensions, two columns in every product: ranks can rise to two.

# %%
d, columns = 3, 2
rng = np.random.default_rng(1)
tokens = jnp.asarray(rng.standard_normal((48, 5, d)))
teacher = gflow.models.SoftmaxAttention(
    *(
        gflow.Frozen(
            jnp.asarray(
                size * rng.standard_normal((d, columns)) @ rng.standard_normal((columns, d))
            )
        )
        for size in (0.6, 1.0)
    )
)
objective = gflow.objectives.SquaredLoss(tokens, jax.vmap(teacher)(tokens))


def head(log_alpha):
    keys = jax.random.split(jax.random.key(2))
    pair = (gflow.Factored.small((d, d), columns, log_alpha=log_alpha, key=k) for k in keys)
    return gflow.models.SoftmaxAttention(*pair)


prediction = theory.gradual_rank.predict(head(-100 * LOG10), objective)
print(prediction)

# %% [markdown]
# ## The run, from α = 1e-100 in float64

# %%
end = 1.12 * prediction.stages[-1].tau
run = gflow.simulate(head(-100 * LOG10), objective, tau1=end)
comparison = theory.compare(run, prediction)
print(comparison)
assert comparison.passed
assert comparison.counts["refuted"] == comparison.counts["undecided"] == 0

# %%
figure, axes = plt.subplots(2, 2, figsize=(7, 5.4), layout="constrained")
comparison.plot(axes[0, 0])
theory.plot.ranks_with_times(run, prediction, axes[0, 1])
theory.plot.spectrum_with_times(run, prediction, axes[1, 0])
theory.plot.spectrum_with_times(run, prediction, axes[1, 1], logarithmic=True)
plt.show()

# %% [markdown]
# Coloured: simulated. Black: predicted without simulating. In the last panel dormant
# singular values of 10⁻²⁰⁰ grow along straight lines that bend where the others jump.

# %% [markdown]
# ## The limit, from two runs
# τ = T + C/Λ + a power of α, so two runs give T and C.

# %%
smaller = gflow.simulate(head(-1000 * LOG10), objective, tau1=end)
for limit, stage in zip(theory.extrapolate([run, smaller]), prediction.stages, strict=True):
    print(f"{limit.winner}: T {limit.tau:.8f} predicted {stage.tau:.8f}")
    print(f"{limit.winner}: C {limit.offset:.6f} predicted {stage.offset:.6f}")
    assert abs(limit.tau - stage.tau) < 1e-8

# %% [markdown]
# ## Why plain factors fail
# As plain arrays, the columns of a dense product all turn to the fastest mode, and dormant
# modes drown in its rounding. `gflow` ends such a run and says so.


# %%
class Matrix(eqx.Module):
    weight: gflow.Parameter


class Distance(eqx.Module):
    target: jax.Array

    def __call__(self, model):
        return 0.5 * jnp.sum((model.weight.value - self.target) ** 2)


basis = [np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2)]
target = Distance(jnp.asarray(basis[0] @ np.diag([3.0, 2.0, 1.5, 1.0]) @ basis[1].T))
matrix = Matrix(gflow.Factored.small((4, 4), 3, log_alpha=-20 * LOG10, key=jax.random.key(0)))
in_gauge = gflow.simulate(matrix, target, tau1=0.8)
print(in_gauge.status)
print([stage.tau for stage in in_gauge.stages()], "limit:", [1 / 3, 1 / 2, 1 / 1.5])
assert in_gauge.successful
assert len(in_gauge.stages()) == 3

# %% [markdown]
# ## Your own model
# Any Equinox module with `Factored` leaves, read through `.value`.


# %%
class Layer(eqx.Module):
    weight: gflow.Factored

    def __call__(self, x):
        return jnp.tanh(x @ self.weight.value)


inputs = jnp.asarray(rng.standard_normal((200, 4)))
truth = jnp.asarray(basis[0] @ np.diag([1.5, 0.7, 0.0, 0.0]) @ basis[1].T)
loss = gflow.objectives.SquaredLoss(inputs, jnp.tanh(inputs @ truth))
layer = Layer(gflow.Factored.small((4, 4), 2, log_alpha=-60 * LOG10, key=jax.random.key(3)))
path = theory.gradual_rank.predict(layer, loss)
mine = gflow.simulate(layer, loss, tau1=1.2 * path.stages[-1].tau)
print(theory.compare(mine, path))
assert theory.compare(mine, path).passed
