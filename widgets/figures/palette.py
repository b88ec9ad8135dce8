"""Ten colours an expert can have, light and dark, chosen for colour-blind eyes; beyond ten they repeat with a pattern.

They start from the hues of Okabe and Ito (2008), with lightness spread until every pair stays apart under protanopia,
deuteranopia and tritanopia (Machado et al. 2009) and every colour has contrast 3:1 or more with its background
(WCAG 2.1, 1.4.11); tests/widgets/test_figures_palette.py computes both.
"""

LIGHT = ("#4396F2", "#A13704", "#015031", "#9C4678", "#D07D0F", "#8891C1", "#B98383", "#5F1B68", "#8C8848", "#6453AA")
DARK = ("#5571C5", "#CE6F23", "#5FF4AB", "#9B6995", "#F8B711", "#8CBCFF", "#CABACB", "#DE2D56", "#B4E677", "#8D60FB")
COLOURS = {"light": LIGHT, "dark": DARK}
BACKGROUND = {"light": "#FFFFFF", "dark": "#111111"}
DASHES = ("solid", "dash", "dot", "dashdot")
# 0 (dead) is blue, 1 (fair) is pale, 2 and more (overloaded) is brown: safe for colour-blind eyes, legible on both themes.
DIVERGING = ((0.0, "#12457A"), (0.25, "#6FA3CF"), (0.5, "#F4F1EA"), (0.75, "#E0994F"), (1.0, "#7A3400"))
SEQUENTIAL = "Cividis"
GREY = "#8B949E"


def colour(number: int, theme: str = "light") -> str:
    """The colour of expert (or layer, or cluster) `number`; it repeats after ten."""
    return COLOURS[theme][number % len(LIGHT)]


def dash(number: int) -> str:
    """The line pattern that tells the repeats of a colour apart: solid for the first ten, then dashed, dotted."""
    return DASHES[number // len(LIGHT) % len(DASHES)]


def luminance(colour: str) -> float:
    """Relative luminance of "#RRGGBB" (WCAG 2.1): 0 black, 1 white."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink(colour: str) -> str:
    """Black or white, whichever is easier to read on `colour`."""
    return "#000000" if luminance(colour) > 0.1791 else "#FFFFFF"
