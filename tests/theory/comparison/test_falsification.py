"""A false claim is never confirmed, a far one always refuted, a true one never.

`falsification` takes the true predictions of closed problems (no number here comes from the
comparison under test) and falsifies one claim at a time.
"""

import falsification
import predicted_families
import pytest

import theory
from theory.comparison._claims import Allowed, judged


@pytest.mark.parametrize("family", [predicted_families.fixture, predicted_families.path])
@pytest.mark.parametrize(("decades", "second"), [(8, None), (100, 1000)])
def test_no_false_claim_passes_and_no_true_one_is_refuted(family, decades, second):
    found = falsification.examine(family(), decades, second)
    assert not [f for f in found if f.broken], [f for f in found if f.broken]
    if decades == 100:
        # and at this α the verdicts are of use
        true = [f for f in found if f.what.startswith("true ")]
        assert sum(f.verdict == "confirmed" for f in true) >= 0.8 * len(true)
        far = [f for f in found if f.what in ("loss + step/5", "value × 1.1", "rank + 1")]
        assert {f.verdict for f in far} == {"refuted"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "decades", "second"),
    [
        (predicted_families.regression, 8, None),
        (predicted_families.regression, 100, None),
        (predicted_families.diagonal_head, 16, None),
        (predicted_families.matrix, 8, None),
        (predicted_families.copies, 16, None),
    ],
)
def test_other_families(family, decades, second):
    """One α each; `python tests/support/falsification.py` runs all families at all."""
    found = falsification.examine(family(), decades, second)
    assert not [f for f in found if f.broken], [f for f in found if f.broken]


@pytest.mark.parametrize(
    ("miss", "bar", "allowance", "trusted", "verdict"),
    [
        (0.5e-3, 1e-3, 0.0, True, "confirmed"),
        (1e-3, 1e-9, 1e-2, True, "confirmed"),
        (1.5e-2, 1e-9, 1e-2, True, "undecided"),  # between the bound and twice it
        (2.1e-2, 1e-9, 1e-2, True, "refuted"),
        (-2.1e-2, 1e-9, 1e-2, True, "refuted"),
        (1e-3, 1e-9, 0.2, True, "undecided"),  # consistent, but the bound is wide
        (1e-3, 0.1, 0.0, True, "undecided"),
        (1e-3, 1e-9, 1e-2, False, "undecided"),
        (0.09, 1e-9, 1e-2, False, "undecided"),
        (0.11, 1e-9, 1e-2, False, "refuted"),  # ten times an estimate
        (0.0, float("nan"), 0.0, True, "undecided"),  # without error bars
        (5.0, float("nan"), 0.0, True, "refuted"),
        (5.0, 1e-9, float("inf"), False, "undecided"),
        (0.0, 1e-9, float("nan"), True, "undecided"),
        (float("nan"), 1e-9, 1e-2, True, "undecided"),
    ],
)
def test_the_rule(miss, bar, allowance, trusted, verdict):
    allowed = Allowed(allowance, "a bound", "a smaller α", trusted)
    assert judged("x", 3.0, 3.0 + miss, bar, allowed, 0.05, "").verdict == verdict


def test_a_number_that_is_not_predicted_is_not_confirmed():
    allowed = Allowed(1e-2, "a bound", "a smaller α")
    assert judged("x", float("nan"), 3.0, 1e-9, allowed, 0.05, "").verdict == "undecided"


def test_a_wrong_time_does_not_widen_its_own_allowance():
    """Its orbits are placed where the run has them as well, and the smaller bound counts."""
    family = predicted_families.fixture()
    found = {w: p for w, key, p in falsification.falsified(family) if key == "stage2.time"}
    for what in ("T × 1.05", "T × 1.3"):
        table = theory.compare(family.run(16), found[what])
        (claim,) = (c for c in table.claims if c.key == "stage2.time")
        assert claim.verdict == "refuted"
        assert claim.allowance < 1e-3


@pytest.mark.slow
def test_transitions_too_near_to_be_told_apart_are_confirmed_together():
    family = predicted_families.matrix()
    table = theory.compare(family.run(8), family.prediction)
    assert [r.stage for r in table.rows] == ["1", "2–3"]
    verdicts = {c.key: c.verdict for c in table.rows[1].claims}
    assert verdicts.pop("stage2–3.time") == "undecided"
    assert set(verdicts.values()) == {"confirmed"}
    assert not table.passed
