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
# # Lesson 2: Top-k routing, by hand and live

# %%
from widgets.lessons import begin, exercise, formula, further, predict, question, quiz, run

begin(2)

# %% [markdown]
# ## Question

# %%
question("Asking all eight experts costs eight times as much. **What is lost if a token asks only one or two?**")

# %% [markdown]
# A router gives each token a score for each expert. (A *token* is the piece of text that a model reads at a time; here
# it is one byte, so mostly one character.) Top-k routing keeps the `k` experts with the highest scores and forgets the
# others. The kept scores go through a softmax, so that a token's weights sum to one:

# %%
formula(r"g(x) = \operatorname{softmax}\big(\operatorname{top}_{k}(x W_r)\big)")

# %%
formula(r"y = \sum_{e \in \operatorname{top}_{k}} g_e(x)\, E_e(x)")

# %% [markdown]
# Do it by hand once. The scores are 4, 2, 1 and 0, and `k` is 2. Experts 0 and 1 stay. Their exponentials are about
# 54.6 and 7.4, which sum to 62. So the weights are 0.88 and 0.12. What the token gets is 0.88 times what expert 0 says,
# plus 0.12 times what expert 1 says. Experts 2 and 3 are not even started: with `k` of `E` experts the work is `k / E`
# of the whole, although all the parameters are there. That is the bargain of a mixture of experts.
#
# Choosing is a hard step. A score that rises from third place does nothing until, all at once, it is second. The router
# learns only through the *weights* of those that were chosen.
#
# ## Predict: who gets the tokens?
#
# First watch a router choose. The run below trains a language model of one layer on real text, byte by byte. It has eight
# experts, and each token gets two. If all were used alike, each would get one eighth of the places, 12.5 per cent.

# %%
predict("2.load", "After 200 steps, what share does the **busiest** of the eight experts get?", unit="per cent")

# %% [markdown]
# ## Run

# %%
run("2.load", "topk-softmax", layers=1, outcome="largest share", pictures=("load", "entropy", "loss"))

# %% [markdown]
# ## Explain
#
# In the first steps a few experts take most of the tokens: chance decides who is chosen a little more often, who is
# chosen learns, and who has learnt is chosen more. Then the lines come nearer to each other, because the run has a
# small *auxiliary loss* that charges for uneven use (lesson 3 takes it away). With seed 0 the busiest expert still
# has 22 % at the end, in the mean of the last 20 steps. The second picture tells two kinds of evenness apart. The
# entropy of the *load* says whether all experts are used, over many tokens; the entropy of a *token's choice* says
# how undecided the router is about a single one. A good router keeps the first high and lets the second fall: every
# expert is used, and each token knows where to go.
#
# ## Predict: one expert or two?
#
# Two runs, same seed, same clusters of points as in lesson 1. In A each point asks one expert, in B two.

# %%
predict(
    "2.k",
    "Whose loss is lower after 200 steps?",
    {
        "A, with one expert: it is simpler to learn": (-9, -0.03),
        "about the same": (-0.03, 0.03),
        "B, with two experts": (0.03, 9),
    },
)

# %% [markdown]
# ## Run

# %%
run("2.k", "topk-softmax", task="clusters", learning_rate=0.01, k=1, beside={"k": 2}, outcome="gain in loss")

# %% [markdown]
# ## Explain
#
# With seed 0, B is ahead by 0.16, and on held-out points it has 0.08 against 0.24. Two experts can share the points on
# a border, but the main reason is another one. With `k = 1` a token's only weight is one divided by one. It is 1
# whatever the score, so the task's loss has no slope in the router: it never hears whether it chose well. Measured, the
# slope with `k = 1` is about 1e-7 of what it is when the raw probability is the weight (claim `no-gradient-at-k1`; what
# is left is rounding). Switch Transformer, which uses `k = 1`, keeps the raw probability for this reason.
#
# Now look at single tokens. Open [the routing lab on text](../labs/routing.ipynb?mechanism=topk-softmax&task=text&k=2)
# and press Train. Click a token in the coloured strip: *Path of one token* shows which experts it asks, layer by layer,
# and *How near the tokens are to switching* shows the margins. The margin is the gap between the last expert chosen and
# the first one not chosen; at 0 a breath would change the choice.
#
# ## Exercises

# %%
exercise("2.1")

# %% tags=["exercise"]
import torch

import explorer


def route(logits, k):
    weights, index = ...
    return weights, index


explorer.check("2.1", route)

# %%
exercise("2.2")


# %% tags=["exercise"]
def combine(x, weights, index, experts):
    y = torch.zeros_like(x)
    for n in range(len(x)):
        ...
    return y


explorer.check("2.2", combine)

# %%
exercise("2.3")


# %% tags=["exercise"]
def margin(scores, k):
    best = scores.sort(-1, descending=True).values
    return ...  # (N,)


explorer.check("2.3", margin)

# %%
quiz(2)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Jiang et al.: Mixtral of Experts, 2024", "https://arxiv.org/abs/2401.04088"),
        ("Shazeer et al.: the sparsely-gated mixture-of-experts layer, 2017", "https://arxiv.org/abs/1701.06538"),
        ("Fedus et al.: Switch Transformers, 2021", "https://arxiv.org/abs/2101.03961"),
    ]
)

# %% [markdown]
# Next: [lesson 3, collapse and balance](3_collapse_and_balance.ipynb). All lessons and labs are in the
# [gallery](../index.ipynb).
