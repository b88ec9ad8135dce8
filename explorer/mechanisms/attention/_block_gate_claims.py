"""What is tried of the block gate: whether it finds the attention, and what skipping the rest costs."""

from typing import Any

from explorer.catalogue import Claim

SELECTIVE = {  # data stand at other places in every sequence, so that no fixed pattern of blocks can find them
    "task": {"name": "selective-copy", "data": 4, "sequence": 32}, "steps": 500, "batch": 32, "learning_rate": 3e-3,
    "tied": False, "expert_width": 128, "block": 2,
}  # fmt: skip
RECALL: dict[str, Any] = {"source": "arXiv:2410.13276, section 3 (the gate learns the map's pattern)", "reported": "",
          "metric": "block_recall_of_gate", "relation": ">=", "effect": "difference"}  # fmt: skip

CLAIMS = (
    Claim("finds-the-blocks", "A quarter of the blocks, chosen by the gate, holds far more attention than at random.",
          **RECALL, setup=SELECTIVE, control_metric="block_recall_at_random", control_is="random blocks",
          threshold=0.2, why="two thirds of what six runs showed"),
    Claim("finds-half-the-blocks", "So does half of the blocks.", **RECALL, setup={**SELECTIVE, "after": {"density": 0.5}},
          control_metric="block_recall_at_random", control_is="random blocks",
          threshold=0.25, why="two thirds of what six runs showed"),
    Claim("beats-fixed-patterns", "The gate's quarter holds more than the nearest blocks, with or without the first.",
          **RECALL, setup=SELECTIVE, control_metric="block_recall_nearby", control_is="the better fixed pattern",
          threshold=0.15, why="half of what six runs showed"),
    Claim("sparse-text", "On text the chosen quarter of the blocks is nearly enough.",
          source="arXiv:2410.13276; the authors' model card, PG19, 32k tokens",
          reported="perplexity 9.97 / 9.92 at a fifth of the blocks",
          metric="sparse_loss", setup={"task": "text", "steps": 300}, control_metric="held_out_loss",
          control_is="all blocks", effect="ratio", threshold=1.05, why="random blocks cost 6 %, the nearest ones 2 %"),
    Claim("sparse-copy", "What leaving three quarters of the blocks out costs where every data token counts.",
          source="ours", reported="", metric="sparse_loss", setup=SELECTIVE, control_metric="held_out_loss",
          control_is="all blocks", effect="difference", threshold=None,
          why="one token missed is one answer lost: how much depends on the seed"),
)  # fmt: skip
