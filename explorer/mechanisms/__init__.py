"""The mechanisms, one file each, in families; importing this package fills the catalogue in reading order."""

from explorer.mechanisms import routing, mixing, attention  # noqa: I001  (the order is the menu's)
