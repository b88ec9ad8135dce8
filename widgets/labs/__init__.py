"""Dashboards: state in, widget out; thin wiring between states, figures and views."""
