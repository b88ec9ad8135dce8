"""Two tones: how they sound, what is asked, and that the beginning is needed to know which is which."""

import math

import pytest
import torch

from explorer.errors import BadValue
from explorer.tasks import TwoTones
from explorer.tasks.two_tones import si_sdr


def test_the_sound_is_the_sum_of_both_tones_and_the_announcement_the_first_alone():
    data = TwoTones().build(0)
    for batch in (data.batch(0, 20), data.held_out()):
        first, second = batch.targets.unflatten(-1, (2, 8)).unbind(2)
        torch.testing.assert_close(batch.inputs[..., :8], first + second)
        assert (second[:, :4] == 0).all() and (first[:, :4].abs().amax((1, 2)) > 0.5).all()
        assert (second[:, 4:].abs().amax(-1) > 0.5).all()
        assert torch.equal(batch.labels[0], (torch.arange(32) >= 4).long())
        assert torch.equal(batch.inputs[..., 8], 1.0 - batch.labels)


def test_each_tone_has_one_band_of_its_own():
    batch = TwoTones(width=16, tones=6).build(2).batch(0, 50)
    power = torch.fft.rfft(batch.targets.unflatten(-1, (2, 16))[:, 20]).abs().square()  # B 2 bins, of one frame
    band = power.argmax(-1)
    assert (power.amax(-1) > 0.999 * power.sum(-1)).all()
    assert (band[:, 0] != band[:, 1]).all() and band.min() >= 1 and band.max() <= 6 and len(band.unique()) == 6


def test_the_mixture_scores_zero_decibels_and_the_right_answer_very_many():
    data = TwoTones().build(0)
    batch = data.held_out()
    mixture = batch.inputs[..., :8].repeat(1, 1, 2)
    assert data.loss(mixture, batch).item() == pytest.approx(0, abs=0.1)
    assert data.describe()["mixture_loss"] == pytest.approx(data.loss(mixture, batch).item())
    assert data.loss(batch.targets, batch).item() < -80


def test_the_announcement_does_not_count_but_the_order_does():
    data = TwoTones().build(0)
    batch = data.batch(0, 8)
    outputs = batch.targets + 0.1 * torch.randn(batch.targets.shape)
    loss = data.loss(outputs, batch)
    outputs[:, :4] = 7
    assert torch.equal(data.loss(outputs, batch), loss) and loss < -15
    swapped = outputs.unflatten(-1, (2, 8)).flip(2).flatten(2)
    assert data.loss(swapped, batch) > 15


def test_the_ratio_by_hand():
    """s = (1, 0), g = (2, 1): along s it is (2, 0), wrong by (0, 1): 10 log10(4 / 1) = 6.02 dB, however loud g is."""
    right, guess = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0])
    assert si_sdr(guess, right).item() == pytest.approx(10 * math.log10(4), abs=1e-4)
    assert si_sdr(30 * guess, right).item() == pytest.approx(10 * math.log10(4), abs=1e-4)


def test_silence_is_scored_without_an_infinity():
    data = TwoTones().build(0)
    batch = data.batch(0, 4)
    outputs = torch.zeros_like(batch.targets, requires_grad=True)
    loss = data.loss(outputs, batch)
    loss.backward()
    assert loss.isfinite() and outputs.grad.isfinite().all()


@pytest.mark.parametrize(
    "settings, culprit",
    [({"cue": 0}, "cue"), ({"cue": 32}, "cue"), ({"tones": 1}, "tones"), ({"tones": 4}, "tones"), ({"width": 3}, "width"),
     ({"length": True}, "length")],
)  # fmt: skip
def test_what_cannot_be_is_refused(settings, culprit):
    with pytest.raises(BadValue, match=rf"^{culprit} must be"):
        TwoTones(**settings)
