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
# # Lesson 5: Sigmoid scores and loss-free bias

# %%
from widgets.lessons import begin, exercise, formula, further, predict, question, quiz, run

begin(5)

# %% [markdown]
# ## Question

# %%
question("A balancing loss pulls at the weights that the task needs. **Can the load be evened out without that?**")

# %% [markdown]
# The router of DeepSeek-V3 differs from that of lesson 2 in two ways.
#
# **Scores by sigmoid.** Each expert gets a score between 0 and 1 of its own. With a softmax, one expert's gain is
# another's loss; here several may be nearly 1, or none.
#
# **A bias for the choice.** Every expert has one more number, its *bias*. It is added to the score when the `k` best
# are chosen, and left out when their outputs are weighed. So it can send a token to another expert, but it cannot make
# a poor answer count for more. With scores $s$ and biases $b$, the chosen experts $\mathcal{K}$ and their weights $g$
# are

# %%
formula(r"\mathcal{K} = \operatorname{top}_{k}(s + b)")

# %%
formula(r"g_e = \frac{s_e}{\sum_{j \in \mathcal{K}} s_j}")

# %% [markdown]
# The bias is not learned by a slope. After every batch a rule turns it: experts with less than the mean load $\bar{c}$
# go up by a small step $u$, experts with more go down by the same step.

# %%
formula(r"b_e \leftarrow b_e + u\, \operatorname{sign}(\bar{c} - c_e)")

# %% [markdown]
# How *much* more does not matter. It works like a thermostat, which knows only too cold and too warm. Do one step by
# hand. The loads are 6, 2, 1 and 3, so the mean is 3. With $u$ = 0.01 the biases change by −0.01, +0.01, +0.01 and 0.
#
# ## Predict
#
# Two runs with eight experts, two a token, and no balancing loss. In A the bias stays at 0, in B it moves by 0.01 after
# each batch. A fair share is 12.5 per cent.

# %%
ASKED = "After 200 steps, by how much is the busiest expert's share of layer 0 smaller in B than in A?"
predict("5.bias", ASKED, unit="percentage points")

# %% [markdown]
# ## Run

# %%
SHOWN, NAMES = ("load", "balance", "loss"), ("A, no bias", "B, bias")
RATES = {"bias_rate": 0.0, "beside": {"bias_rate": 0.01}}
run("5.bias", "loss-free-bias", **RATES, names=NAMES, pictures=SHOWN, outcome="gain in balance")

# %% [markdown]
# ## Explain
#
# With seed 0 the busiest expert of layer 0 has 29 % in A and 14 % in B, 15 points less and close to the fair share.
# After 400 steps MaxVio of the worst layer is 1.93 without and 0.13 with the bias (claim `bias-balances` of
# `loss-free-bias`), and the held-out loss is the same to 0.01 nats (claim `costs-no-loss`). Means of six seeds.
#
# Why the sign, and not the size? A large step for a large imbalance would let one odd batch throw the biases about. But
# a fixed step has its own trouble: near balance it goes too far, comes back, and goes too far again. With $u$ = 0.1
# MaxVio ends at 0.55 instead of 0.13 (claim `large-steps-swing`). Look at a short window and the swing hides, since
# over 20 steps it averages out.
#
# In the routing lab, open [this router](../labs/routing.ipynb?mechanism=loss-free-bias&task=text&bias_rate=0.01) and
# watch the picture *Bias of each expert*: within 25 steps the lines part, from −0.25 to 0.25 in layer 0 with seed 0,
# and they never quite rest, since the router goes on learning and the biases follow. Then set `bias_rate` to 0.1 in the
# middle of the run.
#
# Two details that are easily missed. The bias uses *past* batches: with the load of the batch it is choosing for, it
# would tell a word about the words after it. And in DeepSeek-V3 the experts fall into eight groups, each on its own
# machines. A token may use four groups only, so that it travels less. The third exercise builds that rule.
#
# ## Exercises

# %%
exercise("5.1")

# %% tags=["exercise"]
import torch

import explorer


def choose(scores, bias, k):
    index = ...
    weights = ...
    return weights, index


explorer.check("5.1", choose)

# %%
exercise("5.2")


# %% tags=["exercise"]
def move(bias, load, rate):
    return ...


explorer.check("5.2", move)

# %%
exercise("5.3")


# %% tags=["exercise"]
def open_groups(scores, groups, kept):
    size = scores.shape[-1] // groups
    return ...  # (N, E)


explorer.check("5.3", open_groups)

# %%
quiz(5)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Wang et al.: Auxiliary-Loss-Free Load Balancing, 2024", "https://arxiv.org/abs/2408.15664"),
        ("DeepSeek-AI: DeepSeek-V3 Technical Report, 2024", "https://arxiv.org/abs/2412.19437"),
        ("Csordas et al.: two-layer feedforward networks, sigmoid scores, 2023", "https://arxiv.org/abs/2310.10837"),
    ]
)

# %% [markdown]
# Next: [lesson 6, what do experts learn?](6_what_experts_learn.ipynb) All lessons and labs are in the
# [gallery](../index.ipynb).
