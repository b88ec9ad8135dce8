"""The trained model that comes along: a tiny OLMoE and the same one early in its training, with texts to trace.

scripts/make_demo.py made both; README.md beside this file says how. Nothing is read before it is asked for.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
DOMAINS = ("english", "python", "markup", "data")


def folder() -> Path:
    """The trained model, as transformers and `explorer.open_checkpoint` load it."""
    return HERE / "olmoe-tiny"


def early() -> Path:
    """The same model after the first few per cent of its training."""
    return HERE / "olmoe-tiny-early"


def samples() -> dict[str, str]:
    """A short text of each domain that the model has learned, by the domain's name; it has seen none of them."""
    return {name: (HERE / "samples" / f"{name}.txt").read_text(encoding="utf-8") for name in DOMAINS}
