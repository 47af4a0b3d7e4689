"""What is told apart, refused and kept: damaged files, other settings, full disks, failed runs."""

import errno
import json
import shutil

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import small_sweeps
from small_sweeps import GRID, OPTIONS, build, sweep

import gflow
from gflow.sweeps import _store
from gflow.sweeps._plan import planned
from gflow.sweeps._ragged import packed, rows_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "sweep"
    sweep(path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def first(path):
    return min(path.glob("*.nc"))


def test_arrays_of_any_shapes_come_back(tmp_path):
    rows = [
        {"a": np.arange(6.0).reshape(2, 3), "w/x": np.array("+ö[1]"), "e": np.zeros((0, 2))},
        {"a": np.array(7.0), "w/x": np.array(["α", "", "b"]), "e": np.zeros((3, 0))},
        {"a": np.array([np.nan, -0.0, np.inf]), "n": np.array([2**60, -1])},
        {},
    ]
    path = tmp_path / "rows.nc"
    path.write_bytes(packed(rows, {}))
    with _store.opened(path)[0] as data:
        assert _store.intact(data, data.attrs)
        for given, found in zip(rows, rows_of(data, len(rows)), strict=True):
            assert given.keys() == found.keys()
            for name, x in given.items():
                assert (found[name].shape, found[name].dtype.kind) == (x.shape, x.dtype.kind)
                np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(share, copy):
    path = first(copy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cut off"):
        sweep(copy)
    with pytest.raises(ValueError, match=r"cut off|damaged"):
        gflow.open_sweep(copy).runs()
    path.unlink()
    assert sweep(copy).done == 8


@pytest.mark.parametrize("name", ["t", "curve.loss", "status", "stage.label"])
def test_a_number_that_has_changed_is_noticed(name, copy):
    with h5py.File(first(copy), "r+") as file:
        array = file[name][...]
        array[0] = b"x" if array.dtype.kind == "O" else np.nextafter(array[0], 9.0)
        file[name][...] = array
    with pytest.raises(ValueError, match="damaged: its numbers are not those"):
        gflow.open_sweep(copy).runs()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5netcdf's own
def test_flipped_bits_change_no_number_unseen(whole, copy):
    """Wherever a byte is damaged: it is refused, or of no account."""
    path, expected = first(copy), gflow.open_sweep(whole).runs()
    content = bytearray(path.read_bytes())
    draw = np.random.default_rng(0)
    refused = 0
    for at in draw.integers(0, len(content), 25):
        damaged = content.copy()
        damaged[at] ^= 1 << draw.integers(8)
        path.write_bytes(damaged)
        try:
            found = gflow.open_sweep(copy).runs()
        except ValueError:
            refused += 1
        else:
            assert found.equals(expected)
    assert refused > 2


def test_older_and_foreign_files_are_told_apart(copy, tmp_path):
    with h5py.File(first(copy), "r+") as file:
        file.attrs["gflow_sweep"] = 0
    with pytest.raises(ValueError, match="format 0 of a sweep"):
        sweep(copy)
    with h5py.File(first(copy), "r+") as file:
        file.attrs["gflow_sweep"] = 1
        file.attrs["sweep"] = "another"
    with pytest.raises(ValueError, match="belongs to another sweep"):
        sweep(copy)
    with h5py.File(first(copy), "r+") as file:
        del file.attrs["gflow_sweep"]
    with pytest.raises(ValueError, match="no file of a sweep"):
        sweep(copy)
    for content, what in (
        ("[1]", "foreign"),
        ("{", "damaged"),
        ("{}", "foreign"),
        ('{"gflow_sweep": 7, "versions": {}}', "format 7"),
        ('{"gflow_sweep": 1, "versions": {}}', "lacks build, chunk"),
    ):
        (copy / "sweep.json").write_text(content)
        with pytest.raises(ValueError, match=what):
            gflow.open_sweep(copy)
        with pytest.raises(ValueError, match=what):
            sweep(copy)
    with pytest.raises(ValueError, match=r"no sweep: it has no sweep\.json"):
        gflow.open_sweep(tmp_path / "nothing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"has files but no sweep\.json"):
        sweep(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tau1": 2.0}, "settings: tau1 = 1.5 there, tau1 = 2.0 here"),
        ({"seeds": 5}, "another seeds"),
        ({"chunk": 3}, "another chunk: 2 there, 3 here"),
        ({"curves": ["loss", "descent"]}, "settings: curves"),
    ],
)
def test_a_store_of_another_sweep_is_kept(changed, said, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    with pytest.raises(ValueError, match=said):
        sweep(whole, **changed)
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_another_grid_and_other_data_are_noticed(whole, monkeypatch):
    with pytest.raises(ValueError, match="another grid: log10_alpha"):
        gflow.sweep(build, {"log10_alpha": [-8.0]}, out=whole, **OPTIONS)
    monkeypatch.setattr(small_sweeps, "RATES", (1.0, 3.0))
    with pytest.raises(ValueError, match="another start"):
        sweep(whole)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    written = 0
    fsync = _store.os.fsync

    def full(file):
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(_store.os, "fsync", full)
        with pytest.raises(ValueError, match="cannot be written: No space left on device"):
            sweep(tmp_path)
    assert gflow.open_sweep(tmp_path).done == 2
    assert list(tmp_path.glob(".*")) == []
    assert sweep(tmp_path).done == 8


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be stored in .*file"):
        sweep(tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot be stored in .*below"):
        sweep(tmp_path / "file" / "below")


def test_what_fails_is_kept_with_its_reason_and_retried(whole, tmp_path):
    broken = {1: "no such data", 2: None}

    def fragile(log10_alpha, seed):
        if broken.get(seed):
            raise RuntimeError(broken[seed])
        model, objective = build(log10_alpha, seed)
        if seed in broken:
            objective = gflow.objectives.SquaredLoss(
                objective.inputs, jnp.nan * objective.targets, "half_sum"
            )
        return model, objective

    runs = gflow.sweep(fragile, GRID, out=tmp_path, **OPTIONS)
    assert runs.done == 8
    assert sorted(runs.failed) == [1, 2, 5, 6]
    assert runs.failed[1] == runs.failed[5] == "RuntimeError: no such data"
    assert runs.setting(5) == {"log10_alpha": -16.0, "seed": 1}
    assert "run 5: RuntimeError: no such data" in str(runs)
    t = runs.stages()["t"]
    assert np.isfinite(t.values).all(-1).tolist() == [[True, False, False, True]] * 2
    broken.clear()
    kept = gflow.sweep(fragile, GRID, out=tmp_path, **OPTIONS)
    assert sorted(kept.failed) == [1, 2, 5, 6]
    mended = gflow.sweep(fragile, GRID, out=tmp_path, retry_failed=True, **OPTIONS)
    assert mended.failed == {}
    expected = gflow.open_sweep(whole).stages()["t"].values
    np.testing.assert_allclose(mended.stages()["t"].values, expected, rtol=1e-7)
    np.testing.assert_array_equal(mended.stages()["t"][:, [0, 3]], t[:, [0, 3]])


def test_a_mistake_in_all_of_them_stops_it_and_leaves_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"first 2 runs can be run: ValueError: Member 0 would"):
        sweep(tmp_path, tau1=-1.0)
    with pytest.raises(ValueError, match=r"first run, build\(log10_alpha=-8.0, seed=0\).*Type"):
        gflow.sweep(lambda seed: None, GRID, out=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match=r"returned NoneType: return"):
        gflow.sweep(lambda log10_alpha, seed: None, GRID, out=tmp_path, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grid": {"seed": [1]}}, "grid names 'seed'"),
        ({"grid": {"a": "xy"}}, "give a list"),
        ({"grid": {"a": []}}, "is empty"),
        ({"grid": {"a": [1, 1.0]}}, "has 1.0 twice"),
        ({"grid": {"a": [float("nan")]}}, "finite"),
        ({"seeds": 0}, "seeds = 0"),
        ({"seeds": [1, -1]}, "seeds has -1"),
        ({"seeds": [1, 1]}, "seeds has 1 twice"),
        ({"chunk": 0}, "chunk = 0"),
        ({"process_id": 1}, "give both or neither"),
        ({"process_id": 2, "num_processes": 2}, "process_id = 2: an integer from 0 to 1"),
    ],
)
def test_what_is_no_sweep_is_refused(options, said, tmp_path):
    given = {"grid": GRID, "out": tmp_path, **OPTIONS, **options}
    with pytest.raises(ValueError, match=said):
        gflow.sweep(build, given.pop("grid"), **given)
    assert list(tmp_path.iterdir()) == []


def test_settings_are_numbers_strings_and_truth_values():
    for grid, said in (([1], "is no table"), ({"a": [np.ones(2)]}, "a setting is a number")):
        with pytest.raises(ValueError, match=said):
            planned(grid, 1, 1)
    plan = planned({"a": np.arange(2), "b": [None, "x"]}, [7, 3], 3)
    everything = [plan.settings(i) for k in range(plan.chunks) for i in plan.members(k)]
    assert everything[:3] == [({"a": 0, "b": None}, 7), ({"a": 0, "b": None}, 3),
                              ({"a": 0, "b": "x"}, 7)]  # fmt: skip
    assert len({str(x) for x in everything}) == len(everything) == plan.runs == 8


def test_the_store_says_what_it_is_of(whole):
    about = json.loads((whole / "sweep.json").read_text())
    assert about["grid"] == GRID
    assert about["seeds"] == [0, 1, 2, 3]
    assert about["settings"]["tau1"] == 1.5
    assert set(about["versions"]) >= {"gflow", "jax"}
