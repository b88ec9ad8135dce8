# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 8: Read a trained checkpoint

# %%
from widgets.lessons import begin, exercise, files, further, look, predict, question, quiz, trace

begin(8)

# %% [markdown]
# ## Question

# %%
question(
    "You are handed the files of a trained mixture of experts. **What can you learn before and after running a text?**"
)

# %% [markdown]
# A *checkpoint* is a folder: a `config.json` with settings, and tables of numbers with names, called tensors. Reading
# it is the reverse of the lessons so far. You know what a router is; now find it.
#
# **From the files alone.** In this family a router is a matrix called `mlp.gate.weight` beside its experts, with one
# row for each expert. A token's score for an expert is its product with that row. Beware of the word gate: `gate_proj`
# sits *inside* an expert and is the gate of a gated linear unit. How scores become weights, no table says. It is a rule
# in the program that runs the model, with a few settings in `config.json`. A rule read wrongly loads without an error
# and works a little worse, which is the worst kind of mistake.
#
# The model that comes along has 684 thousand parameters in the architecture of OLMoE. It was trained on English,
# Python, markup and data, a byte at a time. This is what its files say:

# %%
files()

# %% [markdown]
# So it has four layers of 16 experts, two a token. Its weights are not divided by their sum, which is what *top 2*
# without the word *renormalised* says here. No row of a router is much longer than the others, so no expert shouts.
#
# **By running texts.** Loads, specialists, margins and sinks depend on what comes in. For them, send texts through.
#
# ## Predict
#
# There is a second copy, from early in the same training. Four short texts, one of each kind, go through both: 2,740
# bytes. By chance alone two models with such loads would share 13 to 16 per cent of their choices.

# %%
ASKED = "Of the experts that the early model gives a token, what share does the trained model still give it?"
predict("8.kept", ASKED, unit="per cent", then="Now press **Trace**.")

# %% [markdown]
# ## Run

# %%
trace("8.kept")

# %%
look("8.kept", "saturation", "map")

# %% [markdown]
# ## Explain
#
# Between 34 and 43 % of the experts were kept, depending on the layer, where chance is 13 to 16 %; 39 % in the mean. So
# the early router was already on its way, and most of the choices still changed. Nobody is dead: the idlest expert of
# any layer has 0.20 of its fair share, the busiest 2.06.
#
# What have they learned? Lesson 6 told you how to ask.

# %%
look("8.kept", "specialisation", "domains", layer=-1)

# %% [markdown]
# The first layer knows its bytes: the byte tells 78 % of the choice of first expert, and in the deeper layers 47 to 52
# % (floor 7 %). The domain is told much less, 6 to 16 %, with floors of 2 to 5 %. Still, in the last layer expert 7 has
# 16 % of the choices for data, and next to none of the other three. Here are the bytes of layer 0:

# %%
look("8.kept", "vocabulary")

# %% [markdown]
# Point at a byte: its share counts both choices of a token, so 50 % is as much as one expert can have. Expert 0 is
# asked about every single `s` and `x`, expert 1 about every `p` and `g`.

# %%
look("8.kept", "sides", "sinks")

# %% [markdown]
# The router gets surer with depth: the entropy of a token's choice falls from 0.81 in layer 0 to 0.55 in layer 3. And
# there is no attention sink. No head gives the first token more than 4 %. Here texts begin with any byte; in the toy of
# lesson 7, too, no sink grows unless the same token always comes first (claim `sinks-need-a-first-token` of
# `softmax-attention`).
#
# All of this is about 2,740 bytes of four short texts. [The checkpoint lab](../labs/checkpoint.ipynb) opens the same
# model: try your own texts, and see which of these sentences survive.
#
# ## Exercises

# %%
exercise("8.1")

# %% tags=["exercise"]
import torch

import explorer


def routers(shapes):
    found = {}
    for name, shape in shapes.items():
        ...
    return found


explorer.check("8.1", routers)

# %%
exercise("8.2")


# %% tags=["exercise"]
def weigh(logits, k, norm_topk_prob):
    weights, index = ...
    return weights, index


explorer.check("8.2", weigh)

# %%
exercise("8.3")


# %% tags=["exercise"]
def kept(early, late):
    return ...


explorer.check("8.3", kept)

# %%
quiz(8)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Muennighoff et al.: OLMoE, 2024", "https://arxiv.org/abs/2409.02060"),
        ("Jiang et al.: Mixtral of Experts, 2024", "https://arxiv.org/abs/2401.04088"),
        ("DeepSeek-AI: DeepSeek-V3, 2024", "https://arxiv.org/abs/2412.19437"),
    ]
)

# %% [markdown]
# This was the last lesson. All lessons and labs are in the [gallery](../index.ipynb).
