"""The page on closed forms does what it says, in the ten lines that it shows."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[3] / "docs/extend/a_closed_form.md"


def shown():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_the_lines_of_the_page_confirm_and_refute(capsys):
    code = shown()
    names = {}
    exec(code, names)
    comparison = names["comparison"]
    assert comparison.passed
    assert {c.key for c in comparison.claims} == {
        "start.factors", "start.data", "start.decay", "weight",
    }  # fmt: skip
    assert "weight" in capsys.readouterr().out
    own = code[code.index("model =") :].strip().splitlines()
    assert len(own) <= 10
    np.testing.assert_allclose(
        names["curve"].value(np.array([0.0, 5.0])), [names["start"], np.exp(-1) * names["start"]]
    )
    exec(code.replace("-0.2 * t", "-0.1 * t"), names)
    assert names["comparison"].rows[0].verdict == "refuted"
    exec(code.replace("nothing), decay=0.1)", "nothing), decay=0.2)"), names)
    verdicts = {c.key: c.verdict for c in names["comparison"].claims}
    assert verdicts["start.decay"] == "refuted"
    assert verdicts["weight"] == "confirmed"
