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
# # Lesson 3: Collapse and balance

# %%
from widgets.lessons import begin, exercise, formula, further, predict, question, quiz, run

begin(3)

# %% [markdown]
# ## Question

# %%
question("Nobody tells a router to use all of its experts. **If it may do as it likes, will it?**")

# %% [markdown]
# An expert that is asked often learns quickly. What learns quickly gives better answers. What gives better answers is
# asked more. This loop has no brake, and at the other end of it stand experts that are never asked, so never learn, so
# are never asked: *dead* experts. When a few take everything, the router has **collapsed**. You pay memory for eight
# experts and use two.
#
# To talk about it we need numbers. The *load* of an expert is its share of all choices. The *fair share* is one over
# the number of experts, here an eighth. The **maximal violation**, MaxVio for short, says by how many fair shares the
# busiest expert is over its own: 0 is even, and 1 means that somebody works for two. Even a router that throws dice is
# not at 0, since small batches are uneven by luck. The grey band in the picture of imbalance shows how much that is.
#
# ## Predict
#
# One expert a token, eight experts, two layers, nothing that balances. To make the loop turn within a minute, the
# router learns ten times as fast as the rest. Beside it you will see the same run with the cure that is explained
# below.

# %%
predict(
    "3.collapse", "What share of the tokens does the busiest expert of layer 0 get after 150 steps?", unit="per cent"
)

# %% [markdown]
# ## Run

# %%
FREE = {"aux_loss": 0.0, "capacity_factor": 8.0, "router_rate": 10.0, "steps": 150, "outcome": "largest share"}
NAMES, SHOWN = ("A, free", "B, balanced"), ("load", "balance", "map")
run("3.collapse", "switch", **FREE, beside={"aux_loss": 0.1}, names=NAMES, pictures=SHOWN)

# %% [markdown]
# ## Explain
#
# With seed 0 the busiest expert of layer 0 gets 70 % of the tokens, and that of layer 1, the second, 98 %. In the
# balanced run beside it the loads swing for fifty steps, since a router that learns so fast sends everything to an
# expert and drives it off again; then they settle, and the busiest has 13 %, where the fair share is 12.5. With seeds 1
# and 2 other experts win, and they too end at 70 %. Without the faster router it takes longer: after 400 steps at the
# usual rate, MaxVio of the worst layer is 4.3 without balancing and 0.46 with a balancing loss of weight 0.01 (means of
# six seeds, claims `collapse-without-balancing` and `loss-prevents-collapse` of `switch`).
#
# The cure is a second loss, which is added to the task's. Let $f_e$ be the share of tokens that expert $e$ got, $P_e$
# the probability that the router gave it, on the average, and $E$ the number of experts. Then

# %%
formula(r"L = E \sum_e f_e\, P_e")

# %% [markdown]
# is 1 when all is even, and $E$ when one expert has everything. The count $f_e$ has no slope. The probability $P_e$ has
# one, and it is pushed down hardest where the count is high.
#
# Does collapse hurt? In this small run, hardly yet: on held-out text the collapsed model has 2.64 nats a byte and the
# balanced one 2.66. The harm comes with size, when most of the parameters that you paid for lie idle. So do not take
# balance for a goal. A very strong balancing loss gives a perfectly even router that knows nothing: that is the preset
# *over-balancing*.
#
# Now [watch routing collapse, then repair it](../labs/routing.ipynb?preset=collapse) in the routing lab: train 150
# steps, then raise `aux_loss` to 1 and train on. With seed 0 MaxVio of layer 1 falls from 6.8 to about 0.1 within 60
# steps. Then try [the preset *over-balancing*](../labs/routing.ipynb?preset=over-balancing), and repair it the other
# way.
#
# ## Exercises

# %%
exercise("3.1")

# %% tags=["exercise"]
import torch

import explorer


def load(index, n_experts):
    counts = ...  # (n_experts,)
    return ...


explorer.check("3.1", load)

# %%
exercise("3.2")


# %% tags=["exercise"]
def max_violation(counts):
    return ...


explorer.check("3.2", max_violation)

# %%
exercise("3.3")


# %% tags=["exercise"]
def balancing_loss(probs, index):
    n_experts = probs.shape[-1]
    f = ...  # (E,)
    P = ...  # (E,)
    return ...


explorer.check("3.3", balancing_loss)

# %%
quiz(3)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Fedus et al.: Switch Transformers, section 2.2, 2021", "https://arxiv.org/abs/2101.03961"),
        ("Shazeer et al.: two losses for balance, 2017", "https://arxiv.org/abs/1701.06538"),
        ("Zoph et al.: ST-MoE, on the stability of routers, 2022", "https://arxiv.org/abs/2202.08906"),
    ]
)

# %% [markdown]
# Next: [lesson 4, token choice, expert choice, capacity](4_token_or_expert_choice.ipynb). All lessons and labs are in
# the [gallery](../index.ipynb).
