"""Views for what moves: a plotly chart, text coloured by expert, and a gate's decision map; each a thin anywidget."""

from widgets.views.chart import Chart
from widgets.views.decision_map import DecisionMap
from widgets.views.token_strip import TokenStrip

__all__ = ["Chart", "DecisionMap", "TokenStrip"]
