"""How sure a trained model's routers are of their choices, layer by layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from widgets.figures.layers import UNTRACED, layer_axis, layer_labels, told
from widgets.figures.layout import empty, layout
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain


@Picture
def sureness_by_layer(
    layers: Sequence[str], token_entropy: Any, margin: Any, title: str = "How sure the routers are"
) -> Plain:
    """One number for each layer, means over its tokens, each in a panel of its own; NaN is left out.

    token_entropy: 0 = the router puts all on one expert, 1 = it weighs all experts alike. margin: probability of the last
    chosen expert minus that of the best left out; near 0, another text or a small change of the weights turns the choice.
    """
    panels: list[tuple[str, np.ndarray, str, Plain]] = [
        ("token entropy", numbers(token_entropy).reshape(-1), "circle", {"range": [0, 1.03]}),
        ("margin", numbers(margin).reshape(-1), "diamond", {"rangemode": "tozero"}),
    ]
    panels = [one for one in panels if len(one[1]) == len(layers) and np.isfinite(one[1]).any()]
    if not len(layers) or not panels:
        return empty(title, UNTRACED)
    labels, word = layer_labels(list(layers))
    axes: Plain = {"xaxis": layer_axis(labels, word)}
    data: list[Plain] = []
    for number, (name, values, symbol, span) in enumerate(panels):
        axis = str(number + 1) if number else ""
        trace: Plain = {"type": "scatter", "mode": "lines+markers", "x": labels, "y": np.round(values, 5), "name": name}
        trace |= {"yaxis": f"y{axis}", "line": {"width": 2, "dash": "dash" if number else "solid"}}
        trace["marker"] = {"symbol": symbol, "size": 8 if len(labels) <= 24 else 5}
        data.append({**trace, "meta": {"colour": number}, "hovertemplate": "%{y:.3f}"})
        axes[f"yaxis{axis}"] = {**span, "title": {"text": name}, "nticks": 5}
    if len(panels) == 2:
        axes["yaxis"]["domain"], axes["yaxis2"]["domain"] = [0.56, 1], [0, 0.44]
        axes["xaxis"]["anchor"] = "y2"
    said = [
        f"the {name} is {np.nanmean(values):.3g} on average and lowest in {told(labels[int(np.nanargmin(values))], word)}, "
        f"{np.nanmin(values):.3g}"
        for name, values, _, _ in panels
    ]
    text = "; ".join(said)
    shape = layout(plain(title), f"{text[0].upper()}{text[1:]}.", **axes)
    return {"data": data, "layout": {**shape, "height": 200 + 110 * len(panels)}}
