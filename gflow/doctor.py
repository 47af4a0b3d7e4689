"""What `gflow doctor` says of the machine: versions, imports, devices, precision, a sentinel.

A toolchain that computes wrong numbers shows in no solver status. This is the place that
looks for it. It imports JAX only when it comes to it, so that it can say what is wrong with JAX.
"""

import enum
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ._theory import OURS, find_theory
from ._version import __version__

__all__ = ["Check", "Status", "main", "report", "sentinel"]


def __dir__() -> list[str]:
    return __all__


PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "optax")

#: (package, version) → what is wrong with it.
KNOWN_BAD = {
    (package, "0.10.2"): "miscompiles some vmapped float64 reductions on CPU (jax issue 39103)"
    for package in ("jax", "jaxlib")
}


class Status(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


class Check(NamedTuple):
    """One finding, in a sentence that says what to do where there is something to do."""

    name: str
    status: Status
    sentence: str


def sentinel(*, jit: bool = True) -> Float[np.ndarray, "16385"]:
    """i² for i = 0 … 16384 in float64, by a vmapped reduction that jax 0.10.2 gets wrong.

    Row (i, 0, 0) ↦ Σ(I₃ · row)². Every entry is exact in float64; under `jit` on CPU jax
    0.10.2 makes the last one, 268435456, too small by up to a percent. The numbers are
    float64 whatever the caller's `jax_enable_x64` is.

    **Source:** jax issue 39103.
    """
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        rows = jnp.zeros((16385, 3), jnp.float64).at[:, 0].set(jnp.arange(16385.0))
        squared_norm = jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))
        return np.asarray((jax.jit(squared_norm) if jit else squared_norm)(rows))


def _version(package: str) -> Check:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Check(package, Status.BAD, f"not installed: pip install {package}.")
    if fault := KNOWN_BAD.get((package, version)):
        remedy = f'pip install "{package}!={version}"'
        return Check(package, Status.BAD, f"{version} {fault}: {remedy}.")
    return Check(package, Status.OK, version)


def _theory() -> Check:
    """Whether `import theory` is gflow's, here and in a script or notebook of this folder."""
    found = find_theory()
    if found.fault is not None:
        return Check("theory", Status.BAD, found.fault)
    here = [Path("theory.py").resolve(), Path("theory/__init__.py").resolve()]
    for path in here:
        if path.is_file() and path != OURS:
            return Check(
                "theory",
                Status.WARNING,
                f"`import theory` finds {found.path}, but scripts and notebooks of this folder "
                f"find {path}, which is not gflow's: rename it.",
            )
    return Check("theory", Status.OK, f"imported from {found.path}")


def _jax() -> list[Check]:
    """What takes JAX to find out."""
    try:
        import jax
    except Exception as error:
        remedy = "Install jax and jaxlib again, of one version."
        return [Check("import jax", Status.BAD, f"{type(error).__name__}: {error} {remedy}")]
    try:
        devices = jax.devices()
    except RuntimeError as error:
        remedy = "Set JAX_PLATFORMS=cpu, or install the jaxlib of your accelerator."
        return [Check("devices", Status.BAD, f"JAX finds none: {error} {remedy}")]
    kinds = sorted({device.device_kind for device in devices})
    found = f"{len(devices)} × {', '.join(kinds)} (platform {devices[0].platform})"
    return [
        Check("devices", Status.OK, found),
        _precision(on=jax.config.read("jax_enable_x64")),
        _exponents(devices[0].platform),
        _compilation(),
        _cache(),
    ]


def _precision(*, on: bool) -> Check:
    if on:
        return Check("precision", Status.OK, "float64 is on.")
    return Check(
        "precision",
        Status.WARNING,
        "float64 is off, as JAX has it by default: call "
        'jax.config.update("jax_enable_x64", True) before anything else, or set JAX_ENABLE_X64=1.',
    )


def _exponents(platform: str) -> Check:
    if platform == "tpu":
        return Check(
            "exponents",
            Status.WARNING,
            "TPUs emulate float64 with float32's range of exponents: raw coordinates below "
            "1e-30 are refused there. Use Hadamard or Factored weights, or run on CPU or GPU.",
        )
    return Check("exponents", Status.OK, "float64 has its full range, down to 1e-308.")


def _compilation() -> Check:
    try:
        squares = np.asarray(sentinel())
    except Exception as error:
        return Check("compilation", Status.BAD, f"float64 does not run on this device: {error}")
    wrong = np.flatnonzero(squares != np.arange(16385.0) ** 2)
    if wrong.size:
        i = wrong[-1]
        return Check(
            "compilation",
            Status.BAD,
            f"This jaxlib computes wrong numbers: {i}² came out as {squares[i]:.0f}, not {i**2}. "
            'Trust no result of it; pip install "jax!=0.10.2" "jaxlib!=0.10.2", or another '
            "version if it is not that one.",
        )
    return Check("compilation", Status.OK, "A vmapped float64 reduction compiles correctly.")


def _cache() -> Check:
    """Where compiled programs are kept from one process to the next."""
    import jax

    from .programs._kept import keep_programs

    keep_programs()  # says where, if nobody has
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not getattr(jax.config, "jax_enable_compilation_cache", True):
        sentence = "Switched off (jax_enable_compilation_cache): every process compiles anew."
        return Check("cache", Status.OK, sentence)
    if not folder:
        sentence = "The cache folder cannot be written to: set XDG_CACHE_HOME to one that can."
        return Check("cache", Status.WARNING, sentence)
    files = [x.stat().st_size for x in Path(folder).rglob("*") if x.is_file()]
    size = f"{sum(files) / 2**20:.1f} MiB in {len(files)} files"
    return Check("cache", Status.OK, f"Compiled programs are kept in {folder} ({size}).")


def report() -> list[Check]:
    """All findings: versions, `theory`, devices, precision, and a sentinel against miscompilation.

    ```python
    from gflow import doctor
    all(check.status != "bad" for check in doctor.report())
    ```
    """
    return [
        Check("python", Status.OK, platform.python_version()),
        Check("gflow", Status.OK, f"{__version__} from {Path(__file__).parent}"),
        _theory(),
        *map(_version, PACKAGES),
        *_jax(),
    ]


def main(*, as_json: bool = False) -> int:
    """Print the report, as text or as a list of objects; the exit code is 1 when any is bad."""
    checks = report()
    if as_json:
        print(json.dumps([check._asdict() for check in checks], indent=2, ensure_ascii=False))
    for check in [] if as_json else checks:
        print(f"{check.status:8} {check.name:12} {check.sentence}")
    return int(any(check.status is Status.BAD for check in checks))


if __name__ == "__main__":
    sys.exit(main())
