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
# # Lesson 6: What do experts learn?

# %%
from widgets.lessons import begin, exercise, further, predict, question, quiz, run

begin(6)

# %% [markdown]
# ## Question

# %%
question("They are called experts. **Experts for what?**")

# %% [markdown]
# It is tempting to imagine one expert for Python and one for poetry. Nobody asked for that: experts are trained to
# predict the next token, and routers to help them. So we look, and we look twice.
#
# - **Domain.** Which kind of text does a token come from? The text here has four: English, Python, markup and data.
# - **Vocabulary.** Which token is it? Here a token is a byte, mostly one character. Perhaps an expert simply takes all
#   vowels, or all brackets.
#
# A share alone misleads. If expert 3 takes 30 % of the Python tokens, it matters whether it takes 30 % of everything.
# So we ask how much the expert *tells*: if I know which expert got a token, how much of my doubt about its domain is
# gone? That is the **mutual information**. Divided by all the doubt there was, it runs from 0, nothing, to 1,
# everything.
#
# And chance tells stories. With few tokens, some expert always has more of some domain. So shuffle the labels and
# measure again. What is left after shuffling is the **floor**; only what is above it counts.
#
# ## Predict
#
# Two experts a token, two layers, four domains, 400 steps. We look at the expert with the larger weight, in layer 0.

# %%
TELLS = {"the domain": (-1, -0.1), "the byte": (0.1, 1), "neither more than the other": (-0.1, 0.1)}
predict("6.who", "Which goes closer together with a token's expert?", TELLS)

# %% [markdown]
# ## Run

# %%
SHOWN = ("tells", "specialisation", "load", "loss")
run("6.who", "topk-softmax", aux_loss=0.01, steps=400, pictures=SHOWN, outcome="byte over domain")

# %% [markdown]
# ## Explain
#
# With seed 0, knowing the expert takes away 5 % of the doubt about the domain, in either layer; the floor is 1 %. So
# there is something, and it is little. Now the other way round: knowing the byte takes away 74 % of the doubt about the
# expert in layer 0 and 62 % in layer 1, with a floor of 3 %. Before training it was 22 % and 13 %: even a router of
# random numbers treats the same byte in the same way. Over six seeds it is 0.75 in the first layer, against 0.20 before
# training (claim `experts-know-tokens` of `topk-softmax`).
#
# These experts, then, are mostly experts for *characters*. A good part of what looks like a taste for a domain is that
# domains use different characters: who takes all the angle brackets looks like a lover of markup. Before you call an
# expert a specialist for a domain, check whether its tokens say so already.
#
# How far does this carry? These models are tiny, their tokens are bytes, and 400 steps are few. In large models, too,
# single tokens explain much of the routing; some find domains as well, above all where experts are many and small. Read
# OLMoE's section on it beside your own picture.
#
# One trap remains. Expert 3 of one run and expert 3 of another share a number and nothing else. To compare two runs,
# first *match* their experts: pair those that get the same tokens. The routing lab does so under *B against A*: open
# [the same run there](../labs/routing.ipynb?mechanism=topk-softmax&task=text&aux_loss=0.01) and put a second router
# beside it.
#
# ## Exercises

# %%
exercise("6.1")

# %% tags=["exercise"]
import torch

import explorer


def domain_share(expert, domain, n_experts, n_domains):
    table = torch.zeros(n_domains, n_experts)
    ...
    return ...


explorer.check("6.1", domain_share)

# %%
exercise("6.2")


# %% tags=["exercise"]
def information(table):
    p = table / table.sum()
    ...
    return ...


explorer.check("6.2", information)

# %%
exercise("6.3")


# %% tags=["exercise"]
def chance(measure, expert, domain, draws):
    values = []
    for _ in range(draws):
        ...
    return ...


explorer.check("6.3", chance)

# %%
quiz(6)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Muennighoff et al.: OLMoE, section 5, 2024", "https://arxiv.org/abs/2409.02060"),
        ("Jiang et al.: Mixtral, section 5, 2024", "https://arxiv.org/abs/2401.04088"),
        ("Roller et al.: Hash Layers (the token alone decides), 2021", "https://arxiv.org/abs/2106.04426"),
    ]
)

# %% [markdown]
# Next: [lesson 7, attention sinks and gated attention](7_sinks_and_gates.ipynb). All lessons and labs are in the
# [gallery](../index.ipynb).
