"""A run on disk is the run: its stages and bars, what it was made of, and nothing of another."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.parameters._elapsed import recall

TARGET = np.array([1.0, 0.4])


def loss(model):
    rest = model["a/b"].value - jnp.asarray(TARGET)
    return 0.5 * jnp.sum(rest**2) + 0.5 * jnp.sum((model["bias"] - 1.0) ** 2)


def start(seed=0, size=2):
    weight = gflow.Hadamard.small(size, log_alpha=-15.0, key=jax.random.key(seed))
    return {"a/b": weight, "bias": jnp.full(3, 0.5), "frozen": gflow.Frozen(jnp.ones(1))}


@pytest.fixture(scope="module")
def run():
    return gflow.simulate(
        start(),
        loss,
        t1=100.0,
        decay={"a/b": 0.01, "bias": lambda t: 0.1 * jnp.exp(-t)},
        observables={"pair": lambda m: m["a/b"].value * 2.0, "50%": lambda m: m["bias"][0]},
        rtol=1e-7,
    )


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.nc"
    run.save(path)
    return path


@pytest.fixture(scope="module", params=["file", "file without model", "pickle"])
def again(request, run, path):
    if request.param == "pickle":
        return pickle.loads(pickle.dumps(run))
    return gflow.Trajectory.load(path, like=start() if request.param == "file" else None)


def test_its_arrays_are_the_same(run, again):
    assert list(again.observables) == list(run.observables)
    for name in run.observables:
        np.testing.assert_array_equal(again.observables[name], run.observables[name])
        np.testing.assert_array_equal(again.error[name], run.error[name])
    np.testing.assert_array_equal(again.error["loss"], run.error["loss"])


def test_its_stages_are_those_found_with_the_flow(run, again):
    stages = run.stages()
    assert [s.activated for s in stages if s.activated] == [[("a/b", (0,))], [("a/b", (1,))]]
    for one, two in zip(stages, again.stages(), strict=True):
        for name in ("t", "tau", "error", "label", "level", "loss", "step"):
            assert getattr(one, name) == getattr(two, name), name
        np.testing.assert_array_equal(one.value["a/b"], two.value["a/b"])
        np.testing.assert_array_equal(one.rank["a/b"], two.rank["a/b"])
        if again.like is not None:
            assert eqx.tree_equal(one.model, two.model)


def test_it_says_how_it_was_made(again):
    made = again.settings
    assert (made["rtol"], made["error_bars"], made["dtype"]) == (1e-7, True, "float64")
    assert made["decay"]["a/b"] == 0.01
    times, rates = (np.array(made["decay"]["bias"][k]) for k in ("t", "decay"))
    np.testing.assert_allclose(rates, 0.1 * np.exp(-times), rtol=1e-12)
    assert again.made_of["leaves"]["a/b"] == {"kind": "Hadamard", "shape": [2]}


def test_it_keeps_the_fingerprint(run, again):
    for part in ("factors", "data", "decay"):
        assert getattr(again.fingerprint, part) is not None
        assert run.fingerprint.difference(again.fingerprint, part) is None


def test_its_model_stands_at_its_end(run, path):
    loaded = gflow.Trajectory.load(path, like=start())
    assert eqx.tree_equal(loaded.final, run.final)
    assert recall(loaded.final["bias"]) == {100.0}


def test_units_and_dimensions_are_shared(run):
    data = run.to_xarray()
    units = {n: data[n].attrs["units"] for n in ("t", "tau", "loss", "a/b", "error.a/b")}
    assert units["t"] == "flow time"
    assert units["tau"] == "log(1/alpha)"
    assert units["loss"] == units["a/b"] == units["error.a/b"] == "1"
    for name in ("a/b", "a/b.log_abs", "error.a/b", "error.a/b.log_abs"):
        assert data[name].dims == ("t", "a/b.axis1")
    assert data["pair"].dims == data["error.pair"].dims == ("t", "pair.axis1")
    assert data["bias"].dims == ("t", "bias.axis1")


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda m: {"v": m["a/b"], "bias": m["bias"]}, r"has bias, v"),
        (lambda m: m | {"a/b": jnp.ones(2)}, r"has a/b: array \(2,\)"),
        (lambda m: m | {"bias": jnp.zeros(4)}, r"has bias: array \(4,\)"),
        (lambda m: m | {"bias": jnp.ones(3)}, r"starts elsewhere: bias"),
        (lambda m: m | {"frozen": gflow.Frozen(jnp.zeros(1))}, r"starts elsewhere: frozen"),
        (lambda m: start(seed=9), r"starts elsewhere: a/b"),
    ],
)
def test_another_model_is_refused(path, other, match):
    with pytest.raises(ValueError, match=rf"(?s)run\.nc is of a .*dict.*{match}.*started from"):
        gflow.Trajectory.load(path, like=other(start()))


def test_what_is_no_run_is_refused_with_its_path(path, tmp_path):
    import xarray as xr

    xr.Dataset({"x": ("t", [1.0])}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    older = xr.load_dataset(path, engine="h5netcdf").assign_attrs(gflow_format=99)
    older.to_netcdf(tmp_path / "older.nc", engine="h5netcdf")
    (tmp_path / "text.nc").write_text("hello")
    whole = path.read_bytes()
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    for name, match in {
        "foreign": r"foreign\.nc is NetCDF, but no run",
        "older": r"older\.nc is a run in format 99",
        "text": r"text\.nc cannot be read as NetCDF",
        "cut": r"cut\.nc cannot be read as NetCDF",
        "missing": r"no file .*missing\.nc",
    }.items():
        with pytest.raises(ValueError, match=match):
            gflow.Trajectory.load(tmp_path / f"{name}.nc")


def test_a_path_that_cannot_be_written_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        run.save(tmp_path)
    with pytest.raises(ValueError, match="which is no folder"):
        run.save(tmp_path / "none" / "run.nc")
