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
# # Lesson 7: Attention sinks and gated attention

# %%
from widgets.lessons import begin, exercise, formula, further, predict, question, quiz, run

begin(7)

# %% [markdown]
# ## Question

# %%
question("In trained language models many heads look at the very first token, whatever it is. **What is it to them?**")

# %% [markdown]
# An attention *head* lets each token (the *query*) look back at the tokens before it, and mixes what it finds there.
# How much it looks at each is decided by a softmax, so the shares are positive and *sum to one*. That sounds harmless.
# But a head that looks for something, say a closing bracket, has nothing to look for at most tokens. It must spend its
# attention all the same.
#
# So heads learn a place to spend it where it does no harm: a token that is always there, and whose content they learn
# to make nearly nothing. The first token serves. Such a place is called an **attention sink**.
#
# Our toy is the smallest task known to grow one. Sequences run on by a simple rule, and now and then comes a *trigger*:
# the token after it repeats the one before it. The head is needed at triggers. Everywhere else it has nothing to do.
#
# Now give each head a **gate**: a sigmoid of the query token that multiplies all the head has found. A shut gate
# silences the head, wherever it looks. With the query's vector $x$, the head's shares $a_j$ and the values $v_j$ that
# it finds, a gated head says

# %%
formula(r"y = \sigma(x W_g) \sum_j a_j\, v_j, \qquad \sum_j a_j = 1")

# %% [markdown]
# ## Predict
#
# Two models of one layer with two heads, trained side by side. A is without a gate, B has one gate value a head. If a
# head spread its attention evenly, the first token would get less than 10 per cent.

# %%
ASKED = "In A, what share of its attention does the head with the larger sink give to the first token after 700 steps?"
predict("7.sink", ASKED, unit="per cent")

# %% [markdown]
# ## Run
#
# This takes a little longer than the runs before.

# %%
TOY = {
    "task": "bigram-backcopy",
    "layers": 1,
    "n_heads": 2,
    "feed_forward": "none",
    "tied": False,
    "attention_scale": 0.16,
}
RATE = {"batch": 16, "learning_rate": 0.01, "warmup": 50, "horizon": 700, "steps": 700}
B = {"mechanism": "gated-attention", "granularity": "headwise"}

# %%
NAMES, SHOWN = ("A, no gate", "B, gate"), ("sinks", "loss")
run("7.sink", "softmax-attention", **TOY, **RATE, beside=B, names=NAMES, pictures=SHOWN, outcome="sink")

# %% [markdown]
# ## Explain
#
# With seed 0 a head of A ends at 45 %, and the heads of B below 9 %. On held-out sequences both have a loss of 2.04:
# the sink was no help, only a way round. Watch the order, too. After 400 steps that head of A was at 28 %, with nearly
# all that can be learned learned: the loss was 2.02 already and ends at 2.01. The sink goes on growing when there is
# little left to learn.
#
# If only the queries are counted that are no triggers, the sink is 0.51 without and 0.06 with the gate, in the mean of
# six seeds (claims `grows-a-sink` of `softmax-attention`, `no-sink-headwise` of `gated-attention`). The gate itself is
# 0.002 where the head is not needed and 0.92 at triggers (`gate-shuts`). And the first token's content is small, a
# fifth as long as that of the others (`the-sink-says-nothing`).
#
# Is it the gate as such, one more bend in the network? There is a test. A gate that runs from one half to one is as
# bent and cannot shut. With it the sink stays at 0.51 (`half-shut-keeps-the-sink`). So what counts is being able to say
# *nothing*.
#
# There are other ways to let a head say nothing. gpt-oss puts one more entry into the softmax, a learned number for
# each head that stands for no token. It takes its share and gives nothing back: 94 % of the attention that has no place
# to go, and the first token is down to 0.01 (`takes-the-mass`, `no-sink` of `sink-logit`). Where the gate stands
# matters as well: on the values instead of the outputs, the sink here grows to 0.96. In the attention lab, try [the
# sink](../labs/attention.ipynb?preset=sink), [the gate](../labs/attention.ipynb?preset=gate), [the learned
# sink](../labs/attention.ipynb?preset=learned), and the control with [nothing to
# do](../labs/attention.ipynb?preset=nothing-to-do), where no sink grows at all.
#
# Who cares? A model with sinks is hard to compress into small numbers, and a long chat that drops its first token to
# save room falls apart.
#
# ## Exercises

# %%
exercise("7.1")

# %% tags=["exercise"]
import torch

import explorer


def first_share(attention):
    return ...  # (H,)


explorer.check("7.1", first_share)

# %%
exercise("7.2")


# %% tags=["exercise"]
def gated(attention, values, x, W):
    gate = ...  # one number for each token and head
    return ...  # (H, T, d)


explorer.check("7.2", gated)

# %%
exercise("7.3")


# %% tags=["exercise"]
def with_sink(scores, sink):
    return ...  # (H, T, S)


explorer.check("7.3", with_sink)

# %%
quiz(7)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Qiu et al.: Gated Attention for Large Language Models, 2025", "https://arxiv.org/abs/2505.06708"),
        (
            "Xiao et al.: Efficient Streaming Language Models with Attention Sinks, 2023",
            "https://arxiv.org/abs/2309.17453",
        ),
        ("Guo et al.: Active-Dormant Attention Heads, 2024", "https://arxiv.org/abs/2410.13835"),
    ]
)

# %% [markdown]
# Next: [lesson 8, read a trained checkpoint](8_read_a_checkpoint.ipynb). All lessons and labs are in the
# [gallery](../index.ipynb).
