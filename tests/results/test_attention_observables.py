"""Products of heads and their entropies, of every kind of attention, against loops and laws."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_loops as loops

import gflow
from gflow import observables
from gflow.models import (
    Adapted,
    DiagonalAttention,
    LinearAttention,
    MultiHeadAttention,
    Residual,
    SoftmaxAttention,
    Transformer,
    VisionTransformer,
)

RNG = np.random.default_rng(5)
#: Left and right vectors that head 1 is given, of KQ and of VO.
LEFT, RIGHT = ({"kq": x[0], "vo": x[1]} for x in RNG.normal(size=(2, 2, 4)))


def columns(name, moved):
    """Left and right factors (heads, 4, 2), whose last column is zero until head 1 is moved."""
    rng = np.random.default_rng({"kq": 1, "vo": 2}[name])
    left, right = rng.normal(size=(2, 2, 4, 2))
    left[:, :, 1] = right[:, :, 1] = 0.0
    if moved:
        left[1, :, 1], right[1, :, 1] = LEFT[name], RIGHT[name]
    return left, right


def plain(moved):
    """x W_Qᵀ W_K yᵀ: the left vector is a row of W_Q; y W_Vᵀ Pᵀ: the right one a column of P."""
    (q, k), (v, p) = columns("kq", moved), columns("vo", moved)
    attention = MultiHeadAttention(4, heads=2, head_width=2, key=jax.random.key(0))
    new = *(jnp.asarray(x.swapaxes(1, 2)) for x in (q, k, v)), jnp.asarray(p)
    return eqx.tree_at(lambda a: (a.query, a.key, a.value, a.output), attention, new)


def factored(moved):
    return SoftmaxAttention(*(gflow.Factored(*columns(n, moved)) for n in ("kq", "vo")), scale=0.3)


def array(moved):
    kq, vo = (np.matmul(a, b.swapaxes(1, 2)) for a, b in (columns(n, moved) for n in ("kq", "vo")))
    return LinearAttention(gflow.Scaled(kq, 0.0), gflow.Scaled(vo, 0.0), scale=0.3)


def adapted(moved):
    frozen = np.broadcast_to(np.arange(4.0)[:, None] + np.eye(4), (2, 4, 4))
    kq, vo = (Adapted(frozen, gflow.Factored(*columns(n, moved))) for n in ("kq", "vo"))
    return SoftmaxAttention(kq, vo, causal=True)


KINDS = {"plain": plain, "factored": factored, "array": array, "adapted": adapted}
READ = {"kq": observables.key_query, "vo": observables.value_output}


def inside(attention):
    """The attention in the second block of a transformer."""
    return Transformer(
        5, 3, d=4, hidden=None, layers=2, key=jax.random.key(0),
        attention=lambda layer, key: attention if layer else MultiHeadAttention(4, 1, 2, key=key),
    )  # fmt: skip


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", KINDS)
def test_the_vectors_that_a_head_is_given_are_read_off_it(kind, name):
    start, moved = inside(KINDS[kind](False)), inside(KINDS[kind](True))
    change = READ[name]("layers.1.attention", since=start)
    found = change(moved)
    expected = np.zeros((2, 4, 4))
    expected[1] = np.outer(LEFT[name], RIGHT[name])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    size = np.linalg.norm(LEFT[name]) * np.linalg.norm(RIGHT[name])
    spectrum = observables.spectrum(change)(moved)
    np.testing.assert_allclose(spectrum, [[0] * 4, [size, 0, 0, 0]], rtol=0, atol=1e-14)
    for rank in (observables.stable_rank, observables.effective_rank):
        np.testing.assert_allclose(rank(change)(moved), [0.0, 1.0], rtol=0, atol=1e-13)
    rank = observables.numerical_rank(change, 1e-10)(moved)
    np.testing.assert_array_equal(rank, [0.0, 1.0])
    np.testing.assert_allclose(observables.nuclear_excess(change)(moved), 0.0, atol=1e-14)
    turned = observables.angle(change, expected)(moved)
    assert turned == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_loops(kind):
    attention = KINDS[kind](True)
    scale = 1.0 / np.sqrt(2.0) if kind == "plain" else attention.scale
    kq, vo = (np.asarray(READ[name]("")(attention)) for name in ("kq", "vo"))
    by_hand = loops.heads(attention)
    np.testing.assert_allclose(scale * kq, [k for k, _ in by_hand], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(vo, [o for _, o in by_hand], rtol=1e-13, atol=1e-14)


def test_one_head_without_an_axis_and_diagonal_heads():
    left, right = (x[0] for x in columns("kq", True))
    one = SoftmaxAttention(gflow.Factored(left, right), gflow.Factored(right, left))
    np.testing.assert_allclose(observables.key_query("")(one), (left @ right.T)[None], rtol=1e-14)
    found = observables.balance(observables.key_query(""))(one)
    np.testing.assert_allclose(found, observables.balance("kq")(one)[None], rtol=0, atol=1e-14)
    u, v = RNG.normal(size=(2, 3, 4))
    heads = DiagonalAttention(gflow.Hadamard(u, v), gflow.Frozen(v))
    kq, vo = observables.key_query(""), observables.value_output("")
    np.testing.assert_allclose(kq(heads), [np.diag(x) for x in u * v], rtol=1e-13)
    np.testing.assert_allclose(vo(heads), [np.diag(x) for x in v], rtol=1e-13)
    found = observables.balance(kq)(heads)
    np.testing.assert_allclose(found, np.sort(u**2 - v**2), rtol=1e-12)
    gap = 0.5 * np.sum(u**2 + v**2 - 2 * np.abs(u * v), axis=-1)
    np.testing.assert_allclose(observables.gap(kq)(heads), gap, rtol=1e-12)


def test_balance_and_gap_of_plain_heads_by_numpy():
    attention = MultiHeadAttention(4, heads=3, head_width=2, key=jax.random.key(1))
    q, k, v, p = (np.asarray(getattr(attention, n)) for n in ("query", "key", "value", "output"))
    pairs = {"kq": (q, k), "vo": (v, p.swapaxes(1, 2))}
    for name, (a, b) in pairs.items():
        product = READ[name]("")
        for h in range(3):
            found = observables.balance(product)(attention)[h]
            exact = np.linalg.eigvalsh(a[h] @ a[h].T - b[h] @ b[h].T)
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-14)
            half = 0.5 * (np.sum(a[h] ** 2) + np.sum(b[h] ** 2))
            exact = half - np.linalg.norm(a[h].T @ b[h], "nuc")
            assert observables.gap(product)(attention)[h] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("s", [[3.0, 1.0, 0.2], [1.0, 1e-10, 0.0], [2e-180, 1e-180, 1e-190]])
def test_spectral_numbers_by_numpy(s):
    weight = {"w": jnp.diag(jnp.array(s))}
    one = s[0] * (np.sum(s[1:]) / s[0])
    q = np.sum((np.array(s[1:]) / s[0]) ** 2)
    excess = one - s[0] * np.expm1(0.5 * np.log1p(q))
    assert observables.nuclear_excess("w")(weight) == pytest.approx(excess, rel=1e-13)
    for tolerance in (0.0, 1e-12, 1e-3, 0.4, 0.9):
        expected = sum(x > tolerance * s[0] for x in s)
        assert observables.numerical_rank("w", tolerance)(weight) == expected


@pytest.fixture(scope="module")
def course():
    """A run of four layers, one of every kind, and what it starts from."""
    u, v = RNG.normal(size=(2, 2, 4))
    diagonal = DiagonalAttention(gflow.Hadamard(u, v), gflow.Hadamard(v, u), scale=0.3)
    start = Residual([plain(True), factored(True), adapted(True), diagonal])
    inputs = 0.3 * RNG.normal(size=(2, 3, 4))
    watched = {}
    for layer in range(4):
        kq = observables.key_query(f"layers.{layer}", since=start)
        watched[f"change {layer}"] = observables.spectrum(kq)
        watched[f"entropy {layer}"] = observables.attention_entropy(f"layers.{layer}", inputs)
        if layer != 2:
            vo = observables.value_output(f"layers.{layer}")
            watched[f"balance {layer}"] = observables.balance(vo)
    run = gflow.simulate(
        start, gflow.objectives.SquaredLoss(inputs, inputs[:, ::-1]), t1=0.1, rtol=1e-9,
        error_bars=False, solver=diffrax.Tsit5(), observables=watched,
    )  # fmt: skip
    return run, watched


@pytest.mark.slow
def test_a_run_records_what_they_are_of_its_models(course):
    run, watched = course
    for name, read in watched.items():
        seen = run.observables[name]
        np.testing.assert_allclose(read(run.final), seen[-1], rtol=1e-9, atol=1e-12)
        assert seen.shape[1] == 2  # heads
        if name.startswith("change"):
            np.testing.assert_allclose(seen[0], 0.0, atol=1e-13)
            assert np.min(seen[-1, :, 0]) > 1e-4
        if name.startswith("entropy"):
            assert np.min(np.ptp(seen, axis=0)) > 1e-5


def test_the_flow_keeps_the_balance_of_every_head(course):
    run, watched = course
    for name in (n for n in watched if n.startswith("balance")):
        kept = run.observables[name]
        assert np.max(np.abs(kept - kept[0])) < 1e-7 * np.max(np.abs(kept[0])), name


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("make", [MultiHeadAttention, SoftmaxAttention, DiagonalAttention])
def test_uniform_attention_has_the_logarithm_of_what_it_sees(make, causal):
    if make is MultiHeadAttention:
        attention = make(4, 2, 3, causal=causal, key=jax.random.key(0))
        attention = eqx.tree_at(lambda a: a.query, attention, jnp.zeros((2, 3, 4)))
    else:
        zero = gflow.Scaled(np.zeros((2, 4) if make is DiagonalAttention else (2, 4, 4)), 0.0)
        attention = make(zero, zero, causal=causal)
    found = observables.attention_entropy("", RNG.normal(size=(3, 5, 4)))(attention)
    exact = np.mean(np.log(np.arange(1, 6))) if causal else np.log(5.0)
    np.testing.assert_allclose(found, [exact, exact], rtol=1e-14)


def test_attention_to_one_token_has_no_entropy():
    kq = gflow.Scaled(np.eye(3)[None], np.log(1e4))
    found = observables.attention_entropy("", np.eye(3)[None])(SoftmaxAttention(kq, kq))
    np.testing.assert_array_equal(found, [0.0])


def by_loops(attention, rows):
    """Mean over queries of −Σ p ln p, head by head."""
    found = []
    for kq, _ in loops.heads(attention):
        entropies = []
        for i, row in enumerate(rows):
            seen = rows[: i + 1] if attention.causal else rows
            p = np.exp([row @ kq @ other for other in seen])
            p = p / np.sum(p)
            entropies.append(-np.sum(p * np.log(p)))
        found.append(np.mean(entropies))
    return found


def test_entropy_in_a_transformer_is_that_of_what_its_layer_is_given():
    model = Transformer(7, 5, d=6, heads=3, head_width=2, hidden=5, key=jax.random.key(0))
    texts, expected = np.array([[3, 0, 6, 3], [1, 1, 2, 5]]), []
    for text in texts:
        rows = list(np.asarray(model.embedding)[text] + np.asarray(model.positions)[:4])
        rows = loops.block(model.layers[0], rows)
        expected.append(by_loops(model.layers[1].attention, [loops.norm(row) for row in rows]))
    found = observables.attention_entropy("layers.1.attention", texts)(model)
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-12)
    assert np.ptp(found) > 1e-2


@pytest.mark.slow
def test_entropy_in_a_vision_transformer():
    vit = VisionTransformer((4, 4), 2, 3, d=4, layers=1, key=jax.random.key(0), positions=False)
    pixels = RNG.normal(size=(1, 4, 4))
    patches = pixels.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    rows = [loops.norm(np.asarray(vit.embedding) @ x) for x in patches]
    found = observables.attention_entropy("layers.0.attention", pixels)(vit)
    np.testing.assert_allclose(found, by_loops(vit.layers[0].attention, rows), rtol=1e-12)


class Idle(eqx.Module):
    attention: eqx.Module

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: observables.key_query("layers.0")(inside(plain(True))),
         "no attention at 'layers.0'; it has 'layers.0.attention', 'layers.1.attention'"),
        (lambda: observables.value_output("", since={"w": jnp.ones(2)}), "it has none"),
        (lambda: observables.key_query("", since=factored(True))(
            DiagonalAttention(gflow.Scaled(np.ones((2, 3)), 0.0), gflow.Frozen(np.ones((2, 3))))),
         r"kq of '' has the shape \(2, 3, 3\) and in `since` \(2, 4, 4\)"),
        (lambda: observables.balance(observables.key_query("", since=plain(True)))(plain(True)),
         "kq of '': .*not known what the flow conserves"),
        (lambda: observables.gap(observables.value_output(""))(adapted(True)),
         "vo of '': .*no product of matrices"),
        (lambda: observables.numerical_rank("w", 1.0), "tolerance = 1.0"),
        (lambda: observables.attention_entropy("", np.ones(()))(plain(True)), "examples along"),
        (lambda: observables.attention_entropy("", np.ones((1, 2, 4)))(array(True)),
         "'' is a LinearAttention"),
        (lambda: observables.attention_entropy("", np.ones((1, 2, 3)))(plain(True)), "width 4"),
        (lambda: observables.attention_entropy("attention", np.ones((1, 2, 4)))(
            Idle(plain(True))), "does not call its attention at 'attention'"),
    ],
)  # fmt: skip
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
