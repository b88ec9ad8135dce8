"""The run behind the claims about attention sinks: the smallest that is known to grow one (arXiv:2410.13835).

One layer of two heads, which must copy the last token but one after a trigger, and have nothing to do elsewhere.
"""

BACKCOPY = {
    "task": "bigram-backcopy", "steps": 700, "horizon": 700, "warmup": 50, "learning_rate": 0.01, "batch": 16,
    "layers": 1, "n_heads": 2, "feed_forward": "none", "tied": False,
    "attention_scale": 0.16,  # N(0, 0.02), as in GPT-2: heads begin silent. At 1 they sink even where there are no triggers
}  # fmt: skip
