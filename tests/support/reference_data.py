"""What `tests/references/make/*.py` computed to many digits, as it lies beside them."""

import json
from pathlib import Path


def load(name: str) -> dict:
    """The content of `tests/references/<name>_reference.json`."""
    path = Path(__file__).parents[1] / "references" / f"{name}_reference.json"
    return json.loads(path.read_text())
