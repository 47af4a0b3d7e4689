"""A batch as one result: made once, stacked at the end, on disk, a dataset, beside predictions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
import theory

X = jnp.array([[1.0, 0.2], [0.1, 1.0]])
OBJECTIVE = gflow.objectives.SquaredLoss(X, jnp.array([1.0, 0.6]), "half_sum")


def make(key):
    return gflow.models.DiagonalLinear(gflow.Hadamard.small(2, log10_alpha=-20, key=key))


MODELS = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 3))


@pytest.fixture(scope="module")
def batch():
    return gflow.simulate_batch(MODELS, OBJECTIVE, tau1=np.array([3.0, 4.0, 5.0]))


@pytest.fixture(scope="module")
def again(batch, tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "runs.nc"
    batch.save(path)
    return gflow.Batch.load(path, like=MODELS), path


def test_members_stay(batch):
    assert batch[0] is batch[0]
    assert list(batch)[2] is batch[-1]


def test_the_final_models_are_stacked(batch):
    for i in range(3):
        np.testing.assert_array_max_ulp(
            np.asarray(eqx.filter_vmap(lambda m: m.weight.value)(batch.final)[i]),
            np.asarray(batch[i].final.weight.value),
        )
    assert jax.tree.structure(batch.final) == jax.tree.structure(MODELS)
    on = gflow.simulate_batch(batch.final, OBJECTIVE, tau1=6.0, error_bars=False)
    assert [run.t[0] for run in on] == [run.t[-1] for run in batch]


def test_a_file_holds_all_members(batch, again):
    loaded, path = again
    assert loaded.status == batch.status
    assert loaded.statistics == batch.statistics
    for one, other, found in zip(batch, loaded, loaded.stages(), strict=True):
        np.testing.assert_array_equal(one.t, other.t)
        np.testing.assert_array_equal(one.error["weight"], other.error["weight"])
        assert [(s.t, s.label) for s in one.stages()] == [(s.t, s.label) for s in found]
    np.testing.assert_array_equal(
        eqx.filter_vmap(lambda m: m.weight.value)(loaded.final),
        eqx.filter_vmap(lambda m: m.weight.value)(batch.final),
    )
    with pytest.raises(ValueError, match=r"gflow\.Batch\.load"):
        gflow.Trajectory.load(path)
    with pytest.raises(ValueError, match="loaded without its model"):
        _ = gflow.Batch.load(path).final
    with pytest.raises(ValueError, match="starts elsewhere"):
        gflow.Batch.load(path, like=jax.tree.map(lambda x: x[::-1], MODELS))


def test_a_file_of_one_run_is_no_batch(batch, tmp_path):
    batch[0].save(tmp_path / "run.nc")
    with pytest.raises(ValueError, match=r"is no batch.*Trajectory\.load"):
        gflow.Batch.load(tmp_path / "run.nc")
    with pytest.raises(ValueError, match="no file"):
        gflow.Batch.load(tmp_path / "none.nc")


@pytest.mark.slow
def test_a_batch_of_one_model_is_loaded_with_it(tmp_path):
    targets = gflow.objectives.SquaredLoss(
        jnp.stack([X, X]), jnp.array([[1.0, 0.6], [0.5, 1.0]]), "half_sum"
    )
    model = make(jax.random.key(1))
    two = gflow.simulate_batch(model, targets, in_axes=(None, 0), tau1=3.0, error_bars=False)
    two.save(tmp_path / "two.nc")
    loaded = gflow.Batch.load(tmp_path / "two.nc", like=model)
    np.testing.assert_array_equal(loaded[1].final.weight.value, two[1].final.weight.value)


def test_a_dataset_has_members_and_steps(batch):
    data = batch.to_xarray()
    assert data.sizes["member"] == 3
    for i, run in enumerate(batch):
        own = data.isel(member=i, step=slice(0, len(run.t)))
        np.testing.assert_array_equal(own.t, run.t)
        np.testing.assert_array_equal(own.tau, run.tau)
        np.testing.assert_array_equal(own.weight, run.observables["weight"])
        assert np.all(np.isnan(data.loss.isel(member=i)[len(run.t) :]))
    assert list(data.status.values) == [s.name for s in batch.status]


def test_a_batch_beside_its_predictions(batch):
    predictions = theory.gradual_rank.predict_batch(MODELS, OBJECTIVE)
    result = theory.compare(batch, predictions)
    assert result.passed, str(result)
    assert len(result) == 3
    alone = theory.compare(batch[1], predictions[1])
    assert result[1].counts == alone.counts
    assert sum(result.counts.values()) == sum(len(one.claims) for one in result)
    assert set(result.to_dataframe()["member"]) == {0, 1, 2}
    assert "3 passed" in str(result)
    # one for all is of another start than two of them
    one = theory.compare(batch, predictions[0])
    assert [r.passed for r in one] == [True, False, False]
    assert not one.passed
    assert "start." in str(one)
    with pytest.raises(ValueError, match="3 runs and 2 as predictions"):
        theory.compare(batch, predictions[:2])
    with pytest.raises(ValueError, match="second= is for one run"):
        theory.compare(batch, predictions, second=batch[0])
