"""The paper's ratios beside ours."""

import math

import pytest

from widgets.states import gallery, paper


def claim(name, reported, effect, metric="sink_share", kind="ratio", control="softmax"):
    verdict = None if effect is None else {"effect": effect, "spread": [effect - 0.1, effect + 0.1, None]}
    return {
        "name": name, "reported": reported, "effect": kind, "metric": metric, "control_is": control, "verdict": verdict,
    }  # fmt: skip


@pytest.fixture
def told(monkeypatch):
    def tell(*claims):
        paper.beside.cache_clear()
        monkeypatch.setattr(gallery, "catalogue", lambda: [{"name": "gate", "claims": claims}])
        return paper.beside("gate")

    yield tell
    paper.beside.cache_clear()


def test_the_paper_s_ratio_stands_beside_ours(told):
    found = told(
        claim("a-gate", "0.048 / 0.467 = 0.10x", 0.3),
        claim("no-figure", "", 0.5),
        claim("another", "0.301 / 0.467 = 0.64x", 0.2),
        claim("other-measure", "1 / 2 = 0.5x", 0.9, metric="held_out_loss"),
        claim("other-control", "1 / 2 = 0.5x", 0.9, control="the same gate"),
        claim("not-tried", "1 / 2 = 0.5x", None),
        claim("a-value", "1", 0.9, kind="value"),
    )
    assert found.names == ["a gate", "no figure", "another"]
    assert found.paper[0] == 0.10 and math.isnan(found.paper[1]) and found.paper[2] == 0.64
    assert found.here == [0.3, 0.5, 0.2]
    assert found.low == pytest.approx([0.2, 0.4, 0.1]) and found.high == pytest.approx([0.4, 0.6, 0.3])
    assert found.what == "sink share, as a multiple of that of softmax"


def test_too_little_is_no_picture(told):
    assert told() is None
    assert told(claim("a", "1 / 2 = 0.5x", 0.3), claim("b", "1 / 2 = 0.5x", 0.3)) is None
    assert told(claim("a", "", 0.3), claim("b", "", 0.3), claim("c", "", 0.3)) is None
    assert paper.beside("nobody") is None
