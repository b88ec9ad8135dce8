"""The colours keep what palette.py promises, computed here with the published matrices."""

from itertools import combinations

import numpy as np
import pytest

from widgets.figures.palette import BACKGROUND, COLOURS, colour, dash, ink, luminance

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB
EYES = {
    "common": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def linear(hexadecimal):
    c = np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x = XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", COLOURS)
@pytest.mark.parametrize("eye", EYES)
def test_every_pair_of_colours_stays_apart(theme, eye):
    seen = [lab(np.asarray(EYES[eye]) @ linear(c)) for c in COLOURS[theme]]
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    assert nearest > 15  # about six times a just noticeable difference


@pytest.mark.parametrize("theme", COLOURS)
def test_lines_stand_out_from_the_page_and_letters_from_their_ground(theme):
    assert min(contrast(c, BACKGROUND[theme]) for c in COLOURS[theme]) >= 3
    assert min(contrast(c, ink(c)) for c in COLOURS[theme]) >= 4.5


def test_beyond_ten_a_pattern_tells_the_repeats_apart():
    assert colour(3) == colour(13) and dash(3) != dash(13)
    assert len({(colour(n), dash(n)) for n in range(40)}) == 40
