"""The state of each dashboard: traits and rules, without ipywidgets and without plotly."""
