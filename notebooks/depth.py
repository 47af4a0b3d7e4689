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
# # Tokens that become equal with depth
#
# Attention averages tokens, and what tells them apart shrinks from layer to layer: by its cube
# without residuals (Dong, Cordonnier, Loukas 2021), so that the third layer is below the rounding
# of X. `gflow.depth` keeps the mean of the tokens and, apart from it, a direction and a logarithm.

# %%
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gflow
from gflow import depth
from theory import depth_collapse, hopfield

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.STYLE)
COLOURS = gflow.plot.COLOURS
EXACT = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}
OPEN = {"mfc": "white", "ls": "", "ms": 4.5}

# %% [markdown]
# ## Attention alone, and with a memory of its scores
# Orthonormal tokens, logits βXXᵀ. Scores that are inherited from layer to layer slow the collapse
# from cubic to quadratic in the exponent (leaky), or to a plain exponential (added up).

# %%
figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
kinds = {"attention": (0.0, 1.0), "leaky": (0.5, 0.5), "accumulated": (1.0, 1.0)}
for k, (kind, (keep, fresh)) in enumerate(kinds.items()):
    block = depth.HiddenScores(jnp.array(1.0), jnp.array(keep), jnp.array(fresh))
    run = depth.follow(depth.Repeated(block, 30), jnp.eye(6))
    log = run.observables["log_residual"] - 0.5 * math.log(5)
    exact = hopfield.layer_sizes(6, 1.0, 30, kind)
    assert np.allclose(log, exact, rtol=1e-11, atol=1e-13)
    ax.semilogy(run.layers[1:], -log[1:], "os^"[k], mec=COLOURS[k], **OPEN, label=kind)
    ax.semilogy(run.layers[1:], -exact[1:], **EXACT)
ax.plot([], [], **EXACT, label="closed form")
ax.set(xlabel="layer", ylabel=r"$-\ln \rho$", title="ln ρ falls by threes, as $l^2$, as $l$")
ax.legend(fontsize="x-small")

# %% [markdown]
# ## Residuals: α₁ = 1 and α₁ = 1/√L
# Uniform attention with a fresh value matrix in every layer (Noci et al. 2022): the correlation of
# the tokens is (a^L − 1)/(a^L + n − 1), a = 1 + α₁². Two hundred random networks each.

# %%
n, d, layers = 8, 64, 20
start = np.linalg.qr(np.random.default_rng(0).normal(size=(d, n)))[0].T


class Layer(depth.Block):
    """From a key, a layer of uniform attention with a residual."""

    scale: jax.Array

    def __call__(self, key):
        value = jax.random.normal(key, (d, d)) / math.sqrt(d)
        return depth.Residual(depth.Average(value), self.scale)


figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
names = (r"$\alpha_1 = 1$", r"$\alpha_1 = 1/\sqrt{L}$")
for k, scale in enumerate((1.0, 1.0 / math.sqrt(layers))):
    network = depth.Fresh(Layer(jnp.array(scale)), layers)
    run = depth.follow(network, start, key=jax.random.key(1), draws=200)
    sizes, apart = (np.exp(2 * run.observables[x]) for x in ("log_norm", "log_residual"))
    ratio = n / (n - 1) * apart.mean(0) / sizes.mean(0)
    exact = 1 - depth_collapse.correlation(np.arange(layers + 1), n, scale)
    print(f"{scale:.3f}: 1 − ρ after {layers} layers {ratio[-1]:.3g}, predicted {exact[-1]:.3g}")
    assert abs(ratio[-1] / exact[-1] - 1) < 0.25
    ax.semilogy(run.layers, ratio, "os"[k], mec=COLOURS[k], **OPEN, label=names[k])
    ax.semilogy(run.layers, exact, **EXACT)
ax.plot([], [], **EXACT, label="predicted")
ax.set(xlabel="layer", ylabel=r"$1 - \rho$", title="residuals")
ax.legend(fontsize="x-small")

# %% [markdown]
# ## Continuous depth: particles on the sphere
# Orthonormal tokens keep one overlap γ for all pairs (Geshkovski et al. 2024), and t(γ) is a
# quadrature. At β = 0 it is the correlation above, 2t = L ln(1 + α₁²). The flow is followed to
# 1 − γ = 10⁻¹⁶ and beyond.

# %%
eye = jnp.eye(6)
figure, ax = plt.subplots(figsize=(3.6, 2.6), layout="constrained")
for k, beta in enumerate((0.0, 2.0, 5.0)):
    block = depth.OnSphere(depth.Attention(eye, eye, eye, jnp.array(beta)))
    run = depth.flow(block, eye, 30.0, save=np.linspace(0.0, 30.0, 41))
    gamma = depth_collapse.equal_overlap(6, beta, run.t)
    assert np.max(np.abs(run.observables["correlation"] - gamma)) < 1e-8
    log = run.observables["log_apart"]
    ax.plot(run.t, log / math.log(10), "os^"[k], mec=COLOURS[k], **OPEN, markevery=3,
            label=rf"$\beta = {beta:g}$")  # fmt: skip
    seen = gamma < 1 - 1e-12
    ax.plot(run.t[seen], np.log10(1 - gamma[seen]), **EXACT)
    rate = (log[-3] - log[-1]) / (run.t[-1] - run.t[-3])
    print(f"β = {beta:g}: 1 − γ falls at {rate:.9f}; error bar {run.error['log_apart'][-1]:.0e}")
    assert abs(rate - 2) < 1e-6
ax.plot([], [], **EXACT, label="quadrature")
ax.set(xlabel="flow time $t$", ylabel=r"$\log_{10}(1 - \gamma)$", title="six tokens on the sphere")
ax.legend(fontsize="x-small")

# %% [markdown]
# ## A block of one's own
# Ten lines on `Tokens`, or a plain function of X: where its derivative tells tokens apart, the
# plain function is followed as far.


# %%
class Gated(depth.Block):
    value: jax.Array
    gate: jax.Array

    def __call__(self, tokens):
        mixed = depth.attend(tokens, tokens, tokens @ self.value, scale=0.5)
        return 0.7 * tokens + mixed + 0.1 * depth.pointwise(jnp.tanh, tokens @ self.gate)


value, gate = 0.1 * jax.random.normal(jax.random.key(2), (2, 4, 4))
X = jax.random.normal(jax.random.key(3), (6, 4))


def plain(x):
    mixed = jax.nn.softmax(0.5 * x @ x.T) @ x @ value
    return 0.7 * x + mixed + 0.1 * jnp.tanh(x @ gate)


own = depth.follow(depth.Repeated(Gated(value, gate), 500), X).observables["log_residual"]
bare = depth.follow(depth.Repeated(plain, 500), X)
print(f"ln ‖R‖ after 500 layers: {own[-1]:.6f}, by the plain function off by "
      f"{np.max(np.abs(bare.observables['log_residual'] - own)):.0e}")  # fmt: skip
assert own[-1] < -100
assert np.max(np.abs(bare.observables["log_residual"] - own)) < 1e-6

# %% [markdown]
# ## A trained network
# `depth.layers_of` makes blocks of the layers of a transformer; held-out images go through a small
# one before and after 300 steps of Adam. Training raises or lowers the rank of the tokens that are
# read out; the interval over images says whether it is known.

# %%
task = gflow.tasks.digits()
vit = gflow.models.VisionTransformer(
    (8, 8), patch=4, classes=10, d=16, heads=2, head_width=8, hidden=32, layers=4,
    key=jax.random.key(0),
)  # fmt: skip
trained = gflow.descend(
    vit, task.objective, optimizer=optax.adam(3e-3), steps=300, batch=64, key=jax.random.key(1),
    save_every=300,
).final  # fmt: skip
right = float(task.held_out.accuracy(trained))
print(f"held-out digits right: {right:.3f}")
assert right > 0.85


class Image(eqx.Module):
    """From a key the patches of a held-out image."""

    model: gflow.models.VisionTransformer
    images: jax.Array

    def __call__(self, key):
        return self.model.embedded(self.images[jax.random.randint(key, (), 0, len(self.images))])


# %%
seen = {"rank": depth.effective_rank, "entropy": depth.attention_entropy}
runs = {
    name: depth.follow(
        depth.layers_of(model), Image(model, task.held_out.inputs), observables=seen,
        key=jax.random.key(2), draws=30,
    )
    for name, model in (("start", vit), ("trained", trained))
}  # fmt: skip
figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
for k, (name, run) in enumerate(runs.items()):
    for ax, what in ((left, "rank"), (right, "entropy")):
        low, high = run.interval(what)
        ax.errorbar(run.layers, run.mean(what), (high - low) / 2, fmt="os"[k], color=COLOURS[k],
                    mfc="white", ms=4.5, ls="-:"[k], lw=0.8, label=name)  # fmt: skip
left.set(xlabel="layer", ylabel="effective rank")
right.axhline(math.log(4), **EXACT, label="uniform")
right.set(xlabel="layer", ylabel="entropy [nats]", ylim=(0.0, 1.5))
right.legend(fontsize="x-small")
change = runs["trained"].observables["rank"][:, -1] - runs["start"].observables["rank"][:, -1]
print(f"rank of the tokens read out: {change.mean():+.2f} ± "
      f"{2 * change.std(ddof=1) / math.sqrt(len(change)):.2f} by training")  # fmt: skip

# %% [markdown]
# Copies of a token merged into one leave the logits as they were when the copy that stands for them
# counts for all, + ln m, and not otherwise.


# %%
def logits(model, tokens):
    for block in depth.layers_of(model):
        tokens = block(tokens)
    return model.read(tokens.value, tokens.counts)


patches = trained.embedded(task.held_out.inputs[0])
copies = depth.Tokens.of(patches[jnp.array([0, 1, 2, 3, 0, 0])])
whole = logits(trained, copies)
for counted in (True, False):
    merged = depth.Merge([0, 1, 2, 3, 0, 0], counted=counted)(copies)
    miss = float(jnp.max(jnp.abs(logits(trained, merged) - whole)))
    print(f"counted = {counted}: logits off by {miss:.1e}")
    assert (miss < 1e-12) if counted else (miss > 1e-2)
