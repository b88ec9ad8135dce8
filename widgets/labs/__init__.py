"""Dashboards: state in, widget out; thin wiring between states, figures and views."""

from widgets.labs.shell import dashboard

__all__ = ["dashboard"]
