"""One filled and one empty example of every picture of attention, for the tests of all pictures and for their own."""

import numpy as np
import torch

from widgets.figures import (
    attention_map,
    block_masks,
    gate_by_kind,
    gate_histogram,
    head_shares,
    hopfield_energy,
    hopfield_regimes,
    joint_attention,
    locality,
    massive_activations,
    paper_beside,
    received_mass,
    sink_birth,
    tasks_forgotten,
    value_norms,
)

NAN = np.nan
STEPS = np.arange(0, 50, 10)
ROWS = ["0.0", "0.1", "1.0"]
WORDS = ["BOS", " it", "<b>", "é"]
MAP = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.6, 0.1, 0.3, 0], [0.7, 0.1, 0.1, 0.1]])
SHARE = np.stack([np.linspace(0.05, 0.9, 5), np.full(5, 0.1), np.linspace(0.1, 0.4, 5)], 1)  # 5 steps x 3 heads
BLOCKS = torch.tensor([[0.9, 0, 0], [0.2, 0.8, 0], [0.1, 0.3, 0.6]])
LEARNT = [[0.9, NAN, NAN], [0.6, 0.8, NAN], [0.3, 0.7, 1.0]]
GRID = torch.linspace(-1, 1, 5)
FULL = {
    "sink_birth": (sink_birth, (STEPS, SHARE, ROWS, "first token", 0.05)),
    "attention_map": (attention_map, (MAP, WORDS, "layer 0 head 1", torch.full((4,), 0.25))),
    "head_shares": (head_shares, (ROWS, [0.6, 0.1, NAN], [0.0, 0.8, 0.3], 0.05)),
    "gate_histogram": (gate_histogram, (torch.rand(100), "layer 0")),
    "gate_by_kind": (gate_by_kind, (torch.rand(2, 30), torch.arange(30) % 3 - 1, ["word", "trigger"], [0.6, 1.0])),
    "massive_activations": (massive_activations, ([2, 3000.0], [1.0, 1.5], ["embedding", "blocks.0"])),
    "value_norms": (value_norms, ([[0.1, 1, 1.2, 1.1], [0.2, 1, 1, 1]], WORDS, ROWS)),
    "received_mass": (received_mass, ([[0.7, 0.2, 0.1, 0.1], [0.3, 0.3, 0.2, 0.1]], WORDS, ROWS)),
    "locality": (locality, (STEPS, 0.73 - SHARE / 2, ROWS, 1 + SHARE)),
    "block_masks": (block_masks, (BLOCKS, BLOCKS - 0.1, BLOCKS > 0.25, 0.86, 0.67)),
    "hopfield_energy": (hopfield_energy, (torch.rand(5, 5), GRID, GRID, [[1, 0.0], [0, 1]], [[0.9, 0.1], [1, 0]], 8.0)),
    "hopfield_regimes": (hopfield_regimes, ([1, 8, 64.0], [29, 7, 1], [1, 4, 32])),
    "tasks_forgotten": (tasks_forgotten, (LEARNT, ["0 and 1", "2 and 3", "4 and 5"])),
    "joint_attention": (joint_attention, (BLOCKS, -BLOCKS.T / 9, WORDS)),
    "paper_beside": (paper_beside, (["none", "G1"], [0.467, NAN], [0.6, 0.1], [0.5, 0.05], [0.9, 0.2], "share")),
}
NONE = np.zeros((0, 3))
EMPTY = {
    "sink_birth": (sink_birth, ([], NONE)),
    "attention_map": (attention_map, (NONE,)),
    "head_shares": (head_shares, ([], [])),
    "gate_histogram": (gate_histogram, ([],)),
    "gate_by_kind": (gate_by_kind, (NONE, [], [])),
    "massive_activations": (massive_activations, ([], [])),
    "value_norms": (value_norms, (NONE,)),
    "received_mass": (received_mass, (NONE,)),
    "locality": (locality, ([], NONE)),
    "block_masks": (block_masks, (NONE, NONE, NONE)),
    "hopfield_energy": (hopfield_energy, (NONE, [], [], NONE[:, :2])),
    "hopfield_regimes": (hopfield_regimes, ([], [], [])),
    "tasks_forgotten": (tasks_forgotten, (NONE,)),
    "joint_attention": (joint_attention, (NONE, NONE)),
    "paper_beside": (paper_beside, ([], [], [])),
}
