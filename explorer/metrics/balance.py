"""How evenly the experts are loaded: counts of assignments, what to read from them, and the losses that even them out.

Every function of `counts` works on the last axis, E: a row (E,) gives a scalar, and a batch of rows such as (steps,
layers, E) gives (steps, layers). Average over layers only afterwards, and seldom: the mean hides a dead layer. A row
without any assignment has no load, and every metric of it is NaN; a single expert is perfectly balanced.
In ranges, "k of E" means that the same k experts take every token, the worst that k slots allow.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.metrics.checks import need_at_least, need_codes, need_integers, need_last, need_same_shape, real
from explorer.metrics.entropy import shannon


def counts(index: Tensor, n_experts: int) -> Tensor:
    """Assignments each expert received: c_e = number of (token, slot) pairs with index = e, as int64 (E,).

    index: (...) or (..., K) integers (B T K), in 0..E-1, or -1 for an empty slot, which counts nowhere. The sum is the
    number of filled slots: tokens times k where nothing is dropped.
    """
    need_integers("index", index)
    need_at_least("n_experts", n_experts, 1)
    need_codes("index", index, n_experts)
    return _bins(index, n_experts)


def _bins(index: Tensor, n_experts: int) -> Tensor:
    flat = index.reshape(-1).long().clamp(min=-1) + 1
    bins = torch.zeros(n_experts + 1, dtype=torch.int64, device=index.device)
    return bins.scatter_add_(0, flat, torch.ones_like(flat))[1:]  # bin 0 collects the empty slots


def load_fraction(counts: Tensor) -> Tensor:
    """Load of each expert f_e = c_e / sum c: (..., E) -> (..., E), summing to 1 over E.

    0: dead; 1/E: its fair share; 1: this expert takes everything (1/k at most with k distinct experts a token).
    Source: Switch Transformer, arXiv 2101.03961.
    """
    need_last("counts", counts, "E")
    load = real(counts)
    return load / load.sum(-1, keepdim=True)


def load_entropy(counts: Tensor) -> Tensor:
    """Normalised load entropy H_load = -sum_e f_e ln f_e / ln E: (..., E) -> (...).

    0: one expert takes all (ln k / ln E for k of E); 1: even load. exp(H_load ln E) is the effective number of experts.
    It looks at the average load only, and says nothing of how sharply a single token decides: see `token_entropy`.
    """
    load = load_fraction(counts)
    E = load.shape[-1]
    return load.squeeze(-1) if E == 1 else shannon(load) / math.log(E)


def cv_squared(counts: Tensor) -> Tensor:
    """Squared coefficient of variation CV^2 = Var_e(c) / Mean_e(c)^2, population variance: (..., E) -> (...).

    0: even load; E - 1: one expert takes all (E/k - 1 for k of E). It also takes importances (sums of gate weights).
    An iid uniform router has (1 - k/E) / mean c in expectation, not 0.
    Source: noisy top-k gating, arXiv 1701.06538.
    """
    need_last("counts", counts, "E")
    load = real(counts)
    return load.var(-1, correction=0) / load.mean(-1).square()


def max_violation(counts: Tensor) -> Tensor:
    """MaxVio = max_e c_e / mean_e c_e - 1, the overload of the busiest expert: (..., E) -> (...).

    0: even load; E - 1: one expert takes all (E/k - 1 for k of E). Sampling alone lifts it above 0: print it beside
    `max_violation_floor`. Counts of one batch give MaxVio_batch, of a whole evaluation MaxVio_global, the smaller.
    Source: auxiliary-loss-free balancing, arXiv 2408.15664.
    """
    need_last("counts", counts, "E")
    load = real(counts)
    return load.amax(-1) / load.mean(-1) - 1


def utilisation(counts: Tensor) -> Tensor:
    """Utilisation u_e = c_e / mean c, load over ideal load: (..., E) -> (..., E), with mean 1 over E.

    0: dead; 1: its fair share; E: this expert takes all (E/k for k of E).
    """
    need_last("counts", counts, "E")
    load = real(counts)
    return load / load.mean(-1, keepdim=True)


def dead_experts(counts: Tensor, below: float = 0.01) -> Tensor:
    """Dead experts: share of the experts with c_e < below * mean c: (..., E) -> (...).

    0: every expert works; 1 - 1/E: all but one are dead. The default is 1 % of the mean load, not c_e = 0 as logged for
    arXiv 2310.10837, because a dead expert still catches a stray token. Count over a window that is long enough: a fair
    expert gets no token at all with probability (1 - k/E)^tokens.
    """
    need_last("counts", counts, "E")
    load = real(counts)
    dead = load < below * load.mean(-1, keepdim=True)
    return torch.where(load.sum(-1) > 0, dead.to(load.dtype).mean(-1), math.nan)


def gini(counts: Tensor) -> Tensor:
    """Gini coefficient, with c ascending: G = 2 sum_i i c_(i) / (E sum c) - (E + 1) / E: (..., E) -> (...).

    0: even load; 1 - 1/E: one expert takes all (1 - k/E for k of E). Twice the area between Lorenz curve and diagonal.
    """
    need_last("counts", counts, "E")
    load = real(counts).sort(dim=-1).values
    E = load.shape[-1]
    rank = torch.arange(1, E + 1, dtype=load.dtype, device=load.device)
    return 2 * (rank * load).sum(-1) / (E * load.sum(-1)) - (E + 1) / E


def drop_rate(index: Tensor) -> Tensor:
    """Drop rate: share of the slots that are empty, over all of index (..., K) (B T K). A scalar.

    0: every slot got its expert; 1: everything was dropped. NaN without slots. Where the number of experts varies by
    design (dynamic k, expert choice) an empty slot is no drop, and this is only the share of slots left unused.
    Source: capacity of Switch Transformer, arXiv 2101.03961.
    """
    need_integers("index", index)
    return (index < 0).float().mean()


def token_drop_rate(index: Tensor) -> Tensor:
    """Share of the tokens with no expert at all (all K slots empty), over index (..., K) (B T K). A scalar.

    0: every token reaches an expert (coverage 1); 1: none does, and only the residual stream is left. At most
    `drop_rate`. NaN without tokens. Source: GShard, arXiv 2006.16668; where experts choose tokens, arXiv 2202.09368.
    """
    need_integers("index", index)
    if index.dim() == 0:
        raise BadValue("index needs a last axis K, the slots of a token, not a single number")
    return (index < 0).all(-1).float().mean()


def load_balancing_loss(probs: Tensor, index: Tensor) -> Tensor:
    """Auxiliary load-balancing loss L = E sum_e f_e P_e, with f_e = c_e / sum c and P_e = mean_t p_te. A scalar.

    probs: (..., E) rows that sum to one (B T E; renormalise independent scores first); index: (..., K) (B T K), the
        choice before any capacity drops tokens. f is detached and sums to 1 over all slots (implementations that sum it
        to k give k times this); the gradient reaches probs alone.
    1: balanced; E: all tokens certain of one expert (E/k for k of E). Below 1 only where choice and probabilities
    disagree; 0 if every slot is empty, so that a training loss stays finite.
    Source: Switch Transformer, arXiv 2101.03961 (weight 0.01).
    """
    need_last("probs", probs, "E")
    need_integers("index", index)
    need_same_shape("probs without its last axis", probs.shape[:-1], "index without its last axis", index.shape[:-1])
    E = probs.shape[-1]
    assigned = _bins(index, E)
    mean_probs = real(probs).reshape(-1, E).mean(0)
    fraction = assigned.to(mean_probs.dtype) / assigned.sum().clamp(min=1)
    return E * torch.dot(fraction, mean_probs)


def z_loss(logits: Tensor) -> Tensor:
    """Router z-loss L_z = mean over tokens of (ln sum_e exp l_e)^2, over logits (..., E) (B T E). A scalar.

    0: the logits of each token sum to one after exp (their scale is tame); large: logits of large size, where softmax
    in low precision rounds. No upper bound; it does not balance. Source: ST-MoE, arXiv 2202.08906 (weight 1e-3).
    """
    need_last("logits", logits, "E")
    return real(logits).logsumexp(-1).square().mean()


@lru_cache(maxsize=1024)
def max_violation_floor(
    n_tokens: int, n_experts: int, k: int = 1, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Noise floor of `max_violation`: (mean, 95 % quantile) for an iid router that picks k of E experts at random.

    Simulated, `draws` times, with a generator of its own; the same arguments give the same pair, and are remembered.
    A router whose MaxVio is below the quantile cannot be told from a perfectly balanced one by this many tokens.
    (0, 0) for k = E; E - 1 for one token and k = 1; in between it falls with the root of n_tokens. Tokens of real text
    are correlated within a sequence: expect about twice this on a training batch.
    """
    for name, value in (("n_tokens", n_tokens), ("n_experts", n_experts), ("draws", draws)):
        need_at_least(name, value, 1)
    if not 1 <= k <= n_experts:
        raise BadValue(f"k must be between 1 and the {n_experts} experts, not {k}")
    violation = max_violation(uniform_counts(n_tokens, n_experts, k, draws, seed))
    return violation.mean().item(), violation.quantile(0.95).item()


def uniform_counts(n_tokens: int, n_experts: int, k: int, draws: int, seed: int) -> Tensor:
    """Counts (draws, E) of a router that gives every token k distinct experts, each set of k equally likely.

    Exact, in a time that does not depend on n_tokens: the experts take their turn, and with m of them left, a token
    that still lacks r takes this one with probability r/m, so that of n such tokens a binomial number does.
    """
    generator = torch.Generator().manual_seed(seed)
    lacking = torch.zeros(draws, k + 1, dtype=torch.float64)  # tokens that still lack 0..k experts
    lacking[:, k] = n_tokens
    r = torch.arange(k + 1, dtype=torch.float64)
    taken_by = []
    for left in range(n_experts, 0, -1):
        chance = (r / left).clamp(max=1)  # r > left never occurs: its tokens were all taken before
        taken = torch.binomial(lacking, chance.expand_as(lacking).contiguous(), generator=generator)
        taken_by.append(taken.sum(-1))
        lacking = lacking - taken
        lacking[:, :-1] += taken[:, 1:]
    return torch.stack(taken_by, dim=-1)
