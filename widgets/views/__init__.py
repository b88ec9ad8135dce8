"""Views for what moves: a plotly chart, text coloured by expert, a gate's decision map; and the ways in and out of a page.

Each is a thin anywidget. `Courier` hands files and links to the reader's machine, `OwnText` takes the reader's own texts.
"""

from widgets.views.chart import Chart
from widgets.views.courier import Courier
from widgets.views.decision_map import DecisionMap
from widgets.views.framed import Framed
from widgets.views.landmarks import Landmarks
from widgets.views.own_text import OwnText
from widgets.views.text_limit import TextLimit
from widgets.views.token_strip import TokenStrip

__all__ = ["Chart", "Courier", "DecisionMap", "Framed", "Landmarks", "OwnText", "TextLimit", "TokenStrip"]
