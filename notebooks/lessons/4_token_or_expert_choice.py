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
# # Lesson 4: Token choice, expert choice, capacity

# %%
from widgets.lessons import begin, exercise, formula, further, predict, question, quiz, run

begin(4)

# %% [markdown]
# ## Question

# %%
question("Each expert sits on a machine with room for so many tokens of a batch. **Who gives way when too many come?**")

# %% [markdown]
# So far tokens chose. That is **token choice**, and nothing stops all of them from choosing the same expert. A machine
# cannot grow with the queue in front of it, so each expert gets a *capacity*: its fair share of the batch, times a
# *capacity factor*. With $N$ tokens, $E$ experts and a factor $c$ it is

# %%
formula(r"C = \lceil c\, N / E \rceil")

# %% [markdown]
# With 640 tokens, 8 experts and a factor of 1.25 that is 100 tokens. The queue is served in the order of the text.
# Token number 101 is *dropped*: no expert works on it in this layer. It is not lost. Every layer of these models only
# adds something to what the token already carries, so a dropped token passes by unchanged.
#
# **Expert choice** turns the question round: each expert picks the `C` tokens that want it most. Then no expert can be
# overloaded, or idle. The load is even because it cannot be otherwise. The price is paid by tokens: one may be picked
# by four experts, and another by none.
#
# ## Predict
#
# First run: one expert a token, and a capacity factor of one half.

# %%
ASKED = "All experts together have room for half of the tokens. What share is dropped in layer 0 after 100 steps?"
predict("4.drops", ASKED, unit="per cent")

# %% [markdown]
# ## Run

# %%
run("4.drops", "switch", capacity_factor=0.5, steps=100, pictures=("drops", "load"), outcome="dropped")

# %% [markdown]
# ## Explain
#
# With seed 0 it is 58 %, and not 50: where one queue is too long another has room to spare, and that room helps nobody.
# The second picture counts the tokens that were *served*. No line rises above a ceiling, since a full expert takes no
# more; the lines below it are experts with room to spare while others turn tokens away. A small capacity hides
# imbalance; it does not cure it.
#
# Now the same with room for two fair shares. Press Run.

# %%
run("4.roomy", "switch", capacity_factor=2.0, steps=100, pictures=("drops", "load"), outcome="dropped", waits=False)

# %% [markdown]
# At the end 3 % are dropped, and the loads show what the ceiling hid: lines climb to two or three fair shares. Both
# runs have a balancing loss. After 400 steps with one, a factor of 1.25 drops 6 %, and without 52 % (claim
# `few-drops-when-balanced` of `switch`).
#
# And with expert choice, where each expert picks its tokens from every text:

# %%
EVEN = {"group": "sequence", "steps": 100, "outcome": "largest share", "waits": False}
run("4.even", "expert-choice", **EVEN, pictures=("load", "balance"))

# %% [markdown]
# It is exactly even: every expert has 12.5 %, at every step. On held-out text 2 to 3 % of the tokens had no expert at
# all.
#
# Then why does not everybody use it? Look at what an expert needs to know in order to choose: *all* tokens of the text,
# those still to come as well. Whether the third word gets an expert may depend on the ninth. In training the model can
# peek at what it is meant to predict. When it writes, the ninth word is not there yet. Measured: if the words behind a
# place are changed, one prediction in ten in front of them changes; with token choice, none (claim `sees-the-future` of
# `expert-choice`: 0.10 against 0). Expert choice is at home where everything is seen at once, as in a picture.
#
# ## Exercises

# %%
exercise("4.1")

# %% tags=["exercise"]
import torch

import explorer


def keep(choice, n_experts, capacity):
    kept = torch.zeros(len(choice), dtype=torch.bool)
    ...
    return kept


explorer.check("4.1", keep)

# %%
exercise("4.2")


# %% tags=["exercise"]
def experts_choose(probs, capacity):
    taken = torch.zeros(probs.shape, dtype=torch.bool)
    ...
    return taken


explorer.check("4.2", experts_choose)

# %%
exercise("4.3")


# %% tags=["exercise"]
def leaks(rule, probs):
    whole = rule(probs)
    for n in range(1, len(probs)):
        ...
    return ...


explorer.check("4.3", leaks)

# %%
quiz(4)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Zhou et al.: Mixture-of-Experts with Expert Choice Routing, 2022", "https://arxiv.org/abs/2202.09368"),
        ("Lepikhin et al.: GShard, 2020", "https://arxiv.org/abs/2006.16668"),
        ("Puigcerver et al.: From Sparse to Soft Mixtures of Experts, 2023", "https://arxiv.org/abs/2308.00951"),
    ]
)

# %% [markdown]
# Next: [lesson 5, sigmoid scores and loss-free bias](5_sigmoid_and_bias.ipynb). All lessons and labs are in the
# [gallery](../index.ipynb).
