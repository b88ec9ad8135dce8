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
# # Lesson 1: What is a gate?

# %%
from widgets.lessons import begin, exercise, formula, further, predict, question, quiz, run

begin(1)

# %% [markdown]
# ## Question

# %%
question("A network computes many things for every word it reads. **How can it decide, word by word, what passes?**")

# %% [markdown]
# Take one number that a network has computed, and multiply it by another number between 0 and 1. With 0 nothing passes,
# with 1 everything, with 0.3 a little. If the network computes that second number itself, from the word it is reading,
# you have a **gate**.
#
# A *sigmoid* is the usual way to get a number between 0 and 1 from any number, called a *score*: a large score gives
# nearly 1, a very negative one nearly 0, and a score of 0 gives one half. It is smooth on purpose. A network learns by
# small steps in the direction in which its error falls; a switch that is either on or off has no such direction.
#
# The same idea comes in three sizes.
#
# - **One channel.** A *gated linear unit* computes each hidden number twice, and lets one copy gate the other.
# - **One head.** A gate can silence a whole attention head for a word. That is lesson 7.
# - **One network.** Put several small networks side by side, call them *experts*, and let a gate weigh what each of
#   them says. That is a **mixture of experts**. The part that computes the weights is the *router*.
#
# In this lesson every expert with a share worth mentioning answers. The gate is a *softmax*: it turns the experts'
# scores into shares that sum to one. Expert $e$ says $E_e(x)$ about the point $x$, its share is $g_e(x)$, and together
# they say

# %%
formula(r"y = \sum_e g_e(x)\, E_e(x), \qquad g(x) = \operatorname{softmax}\big(x W_r / T\big)")

# %% [markdown]
# ## Predict
#
# Below, eight experts learn where to send the points of eight clusters. The router begins undecided: every expert has
# about an eighth of every point. The number $T$ above, the *temperature*, falls during the first 240 steps, and a low
# temperature makes shares more extreme. *Entropy* says how undecided a router is about a point: 1 is perfectly even, 0
# is certain of one expert.

# %%
SURE = {"nearly as at the start, above 0.8": (0.8, 1), "in between": (0.2, 0.8), "certain, below 0.2": (0, 0.2)}
predict("1.sure", "How undecided is the router about a point after 300 steps, as entropy?", SURE)

# %% [markdown]
# ## Run
#
# Press Run and watch. The *loss*, in the last picture, is the network's error: training makes it fall.

# %%
SHOWN = ("entropy", "load", "loss")
run(
    "1.sure", "dense-to-sparse", task="clusters", learning_rate=0.01, steps=300, pictures=SHOWN, outcome="token entropy"
)

# %% [markdown]
# ## Explain
#
# In the first picture look at the line of a token's choice (here a token is a point). It is 0.98 at the first step,
# 0.72 after 100 and 0.38 at the end; the loss falls from 1.18 to 0.06. Part of that is the temperature, which falls by
# plan. The rest is learned: a router whose scores are all equal stays undecided at any temperature. In the end most of
# the eight answers are weighted with almost nothing. Those below one per cent are left out already; the next lesson
# leaves out all but the best `k`.
#
# Every run on these pages begins from a *seed*, a number that fixes all that is random. With the same seed you see the
# same pictures as your neighbour. These runs have seed 0. And numbers at the end of a run are, here and in all lessons,
# means of its last 20 steps.
#
# Why multiply at all? Try to fit a target that is a product of two sums of the inputs. At equal size, a gated layer
# without any squashing leaves 0.0004 of the target's variance unexplained, and a plain ReLU layer 0.13 (mean of three
# seeds: claim `products-for-free` of `glu`, in the [catalogue](../index.ipynb?q=glu)). Sums and kinks are poor at
# products; a gate *is* one.
#
# ## Try: does it help with text?
#
# Here two small language models read real text and learn to predict its next letter, one without gates and one with. No
# prediction is asked for.

# %%
PLAIN, GATED = {"activation": "relu", "width": 258}, {"activation": "swiglu", "width": 172}
NAMES = ("A, plain", "B, gated")
run("1.text", "glu", **PLAIN, beside=GATED, names=NAMES, pictures=("loss",), outcome="gain in loss", waits=False)

# %% [markdown]
# After 200 steps the gated model is ahead by 0.03 on the text it learns from, and the two are level on text that was
# held out: do not read much into it. After 400 steps the claim `better-on-text` has 2.28 against 2.35, reported and not
# promised. (The loss on text is in *nats* a letter: lower is better, and a model that knows nothing is near 4.9.) The
# widths differ because a gated layer has three matrices where a plain one has two; at these widths both cost the same.
#
# ## Exercises

# %%
exercise("1.1")

# %% tags=["exercise"]
import torch

import explorer


def gate(signal, x, w):
    score = ...  # (N,): one number for each token
    return ...  # (N, F)


explorer.check("1.1", gate)

# %%
exercise("1.2")


# %% tags=["exercise"]
def gated_unit(x, W_gate, W_up, W_down):
    gate = ...  # (N, F)
    hidden = ...  # (N, F)
    return ...  # (N, D)


explorer.check("1.2", gated_unit)

# %%
exercise("1.3")


# %% tags=["exercise"]
def mixture(x, router, experts):
    shares = ...  # (N, E)
    return ...  # (N, D)


explorer.check("1.3", mixture)

# %%
quiz(1)

# %% [markdown]
# ## Further reading

# %%
further(
    [
        ("Shazeer: GLU Variants Improve Transformer, 2020", "https://arxiv.org/abs/2002.05202"),
        ("Nguyen et al.: on the temperature of a mixture of experts, 2024", "https://arxiv.org/abs/2401.13875"),
        ("Shazeer et al.: the sparsely-gated mixture-of-experts layer, 2017", "https://arxiv.org/abs/1701.06538"),
    ]
)

# %% [markdown]
# Next: [lesson 2, top-k routing](2_top_k_routing.ipynb). All lessons and labs are in the [gallery](../index.ipynb).
