import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gflow import doctor
from gflow.doctor import Status


def status_of(name):
    return {check.name: check.status for check in doctor.report()}[name]


def test_this_toolchain_compiles_float64_reductions_correctly():
    compiled = doctor.sentinel()
    assert compiled[-1] == 268435456.0
    np.testing.assert_array_equal(compiled, doctor.sentinel(jit=False))
    np.testing.assert_array_equal(compiled, [i**2 for i in range(16385)])


def test_the_sentinel_is_float64_and_leaves_the_precision_of_the_caller_alone():
    with jax.enable_x64(False):
        assert doctor.sentinel().dtype == jnp.float64
        assert jnp.ones(1).dtype == jnp.float32


def test_a_sound_machine_is_reported_as_one(capsys):
    checks = doctor.report()
    assert {
        "python",
        "gflow",
        "theory",
        *doctor.PACKAGES,
        "devices",
        "precision",
        "exponents",
        "compilation",
        "cache",
    } == {check.name for check in checks}
    assert {check.status for check in checks} == {Status.OK}
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert metadata.version("diffrax") in printed
    assert doctor.main(as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert [x["name"] for x in said] == [check.name for check in checks]
    assert {x["status"] for x in said} == {"ok"}


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_a_known_bad_version_is_bad_and_named(monkeypatch, capsys, package):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda p: "0.10.2" if p == package else version(p))
    assert status_of(package) is Status.BAD
    assert doctor.main() == 1
    assert f'pip install "{package}!=0.10.2"' in capsys.readouterr().out


def test_a_missing_package_is_bad(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    assert status_of("no-such-package") is Status.BAD
    assert doctor.main() == 1


def test_a_miscompiled_sentinel_is_bad(monkeypatch, capsys):
    wrong = doctor.sentinel()
    wrong = np.append(wrong[:-1], 267911424.0)
    monkeypatch.setattr(doctor, "sentinel", lambda: wrong)
    assert status_of("compilation") is Status.BAD
    assert doctor.main() == 1
    assert "16384² came out as 267911424, not 268435456" in capsys.readouterr().out


def test_single_precision_is_a_warning_only():
    with jax.enable_x64(False):
        assert status_of("precision") is Status.WARNING
        assert doctor.main() == 0


def test_a_tpu_is_told_about_its_exponents():
    check = doctor._exponents("tpu")
    assert check.status is Status.WARNING
    assert "1e-30" in check.sentence


def test_no_device_is_bad_and_says_what_to_do():
    environment = os.environ | {"JAX_PLATFORMS": "no_such_platform"}
    run = subprocess.run(
        [sys.executable, "-m", "gflow.doctor"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "JAX_PLATFORMS=cpu" in run.stdout


def test_a_broken_jax_is_a_finding_and_not_a_traceback(tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise RuntimeError('jaxlib is too old')\n")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "gflow", "doctor"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "bad      import jax   RuntimeError: jaxlib is too old" in done.stdout
    assert done.stderr == ""
