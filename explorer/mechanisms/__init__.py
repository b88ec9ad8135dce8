"""The mechanisms, one file each, in families; importing this package fills the catalogue in reading order."""

from explorer.mechanisms import routing, mixing, attention  # noqa: F401, I001  (the order is the menu's)
