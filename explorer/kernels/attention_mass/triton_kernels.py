"""The kernels of triton_path.py, in Triton. One program of each makes a block of queries or a block of keys of one head.

Scores are held in units of ln 2, since exp2 is what a GPU computes. `lse` is over the keys alone, also in ln 2; a sink is
a further entry of the softmax, so that all weights of a row are its softmax over the keys times keep = 1 / (1 +
2^(sink - lse)). Rows past T, keys past S and channels past d are loaded as zeros and masked.

q, o, do, dq are (BH, T, d) and k, v, dk, dv (BH, S, d), contiguous; lse, delta (BH, T); mass (BH, S). Query t is at
position t + S - T.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _rows(start, head, length, width, BLOCK: tl.constexpr, D: tl.constexpr):
    """Offsets and mask of the rows start .. start + BLOCK of one head of a (BH, length, width) tensor."""
    row, channel = start + tl.arange(0, BLOCK), tl.arange(0, D)
    inside = (row[:, None] < length) & (channel[None, :] < width)
    return head.to(tl.int64) * length * width + row[:, None] * width + channel[None, :], inside


@triton.jit
def _seen(queries, keys, T, S, CAUSAL: tl.constexpr):
    """Who may see whom, (queries, keys)."""
    seen = (queries[:, None] < T) & (keys[None, :] < S)
    if CAUSAL:
        seen = seen & (keys[None, :] <= queries[:, None] + S - T)
    return seen


@triton.jit
def _keep(lse, sink_at, head, H, SINK: tl.constexpr):
    """The share of each row that the keys keep."""
    keep = tl.full(lse.shape, 1.0, tl.float32)
    if SINK:
        keep = 1.0 / (1.0 + tl.exp2(tl.load(sink_at + head % H) - lse))
    return keep


@triton.jit
def forward_kernel(q_at, k_at, v_at, sink_at, o_at, lse_at, first_at, scale, H, T, S, width,
                   CAUSAL: tl.constexpr, SINK: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """Output, lse and, in the epilogue, the weight of key 0: one more dot product a query."""
    start, head = tl.program_id(0) * M, tl.program_id(1)
    queries = start + tl.arange(0, M)
    offsets, inside = _rows(start, head, T, width, M, D)
    q = tl.load(q_at + offsets, mask=inside, other=0.0)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    o = tl.zeros([M, D], tl.float32)
    end = S
    if CAUSAL:
        end = tl.minimum(S, start + M + S - T)
    for begin in range(0, end, N):
        keys = begin + tl.arange(0, N)
        at, valid = _rows(begin, head, S, width, N, D)
        k = tl.load(k_at + at, mask=valid, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        score = tl.where(_seen(queries, keys, T, S, CAUSAL), score, float("-inf"))
        new = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)  # a row past T sees nothing
        p = tl.exp2(score - safe[:, None])
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(v_at + at, mask=valid, other=0.0)
        o = o * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = new
    total = tl.where(total == 0.0, 1.0, total)  # a row past T
    lse = top + tl.log2(total)
    keep = _keep(lse, sink_at, head, H, SINK)
    tl.store(o_at + offsets, (o * (keep / total)[:, None]).to(o_at.dtype.element_ty), mask=inside)
    tl.store(lse_at + head * T + queries, lse, mask=queries < T)
    channel = tl.arange(0, D)
    k0 = tl.load(k_at + head.to(tl.int64) * S * width + channel, mask=channel < width, other=0.0)
    score0 = tl.sum(q.to(tl.float32) * k0.to(tl.float32)[None, :], 1) * scale
    tl.store(first_at + head * T + queries, tl.exp2(score0 - lse) * keep, mask=queries < T)


@triton.jit
def mass_kernel(q_at, k_at, sink_at, lse_at, mass_at, mixed_at, scale, H, T, S, width,
                CAUSAL: tl.constexpr, SINK: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """Key-major second pass: the sum of each key's weights, and sum(p log2 p) of a block's shares without the sink."""
    start, head = tl.program_id(0) * N, tl.program_id(1)
    keys = start + tl.arange(0, N)
    at, valid = _rows(start, head, S, width, N, D)
    k = tl.load(k_at + at, mask=valid, other=0.0)
    mass = tl.zeros([N], tl.float32)
    mixed = tl.zeros([N], tl.float32)
    low = 0
    if CAUSAL:
        low = tl.maximum(0, start - (S - T)) // M * M
    for begin in range(low, T, M):
        queries = begin + tl.arange(0, M)
        offsets, inside = _rows(begin, head, T, width, M, D)
        q = tl.load(q_at + offsets, mask=inside, other=0.0)
        lse = tl.load(lse_at + head * T + queries, mask=queries < T, other=0.0)
        log_p = tl.dot(q, tl.trans(k), input_precision="ieee") * scale - lse[:, None]
        seen = _seen(queries, keys, T, S, CAUSAL)
        p = tl.where(seen, tl.exp2(log_p), 0.0)
        mass += tl.sum(p * _keep(lse, sink_at, head, H, SINK)[:, None], 0)
        mixed += tl.sum(p * tl.where(seen, tl.maximum(log_p, -1e30), 0.0), 0)
    tl.store(mass_at + head * S + keys, mass, mask=keys < S)
    tl.store(mixed_at + head * S + keys, mixed, mask=keys < S)


@triton.jit
def keys_backward_kernel(q_at, k_at, v_at, do_at, sink_at, lse_at, delta_at, dk_at, dv_at, mass_at, scale, H, T, S, width,
                         CAUSAL: tl.constexpr, SINK: tl.constexpr, MASS: tl.constexpr,
                         M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """dk and dv of a block of keys. It makes the weights again anyway: their sum over the queries is one addition."""
    start, head = tl.program_id(0) * N, tl.program_id(1)
    keys = start + tl.arange(0, N)
    at, valid = _rows(start, head, S, width, N, D)
    k = tl.load(k_at + at, mask=valid, other=0.0)
    v = tl.load(v_at + at, mask=valid, other=0.0)
    dk = tl.zeros([N, D], tl.float32)
    dv = tl.zeros([N, D], tl.float32)
    mass = tl.zeros([N], tl.float32)
    low = 0
    if CAUSAL:
        low = tl.maximum(0, start - (S - T)) // M * M
    for begin in range(low, T, M):
        queries = begin + tl.arange(0, M)
        offsets, inside = _rows(begin, head, T, width, M, D)
        q = tl.load(q_at + offsets, mask=inside, other=0.0)
        do = tl.load(do_at + offsets, mask=inside, other=0.0)
        lse = tl.load(lse_at + head * T + queries, mask=queries < T, other=0.0)
        delta = tl.load(delta_at + head * T + queries, mask=queries < T, other=0.0)
        log_p = tl.dot(q, tl.trans(k), input_precision="ieee") * scale - lse[:, None]
        p = tl.exp2(log_p) * _keep(lse, sink_at, head, H, SINK)[:, None]
        p = tl.where(_seen(queries, keys, T, S, CAUSAL), p, 0.0)
        if MASS:
            mass += tl.sum(p, 0)
        dv += tl.dot(tl.trans(p.to(do.dtype)), do, input_precision="ieee")
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision="ieee")
    dk = dk * (scale * LN2)
    tl.store(dk_at + at, dk.to(dk_at.dtype.element_ty), mask=valid)
    tl.store(dv_at + at, dv.to(dv_at.dtype.element_ty), mask=valid)
    if MASS:
        tl.store(mass_at + head * S + keys, mass, mask=keys < S)


@triton.jit
def queries_backward_kernel(q_at, k_at, v_at, do_at, sink_at, lse_at, delta_at, dq_at, scale, H, T, S, width,
                            CAUSAL: tl.constexpr, SINK: tl.constexpr,
                            M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """dq of a block of queries."""
    start, head = tl.program_id(0) * M, tl.program_id(1)
    queries = start + tl.arange(0, M)
    offsets, inside = _rows(start, head, T, width, M, D)
    q = tl.load(q_at + offsets, mask=inside, other=0.0)
    do = tl.load(do_at + offsets, mask=inside, other=0.0)
    lse = tl.load(lse_at + head * T + queries, mask=queries < T, other=0.0)
    delta = tl.load(delta_at + head * T + queries, mask=queries < T, other=0.0)
    keep = _keep(lse, sink_at, head, H, SINK)
    dq = tl.zeros([M, D], tl.float32)
    end = S
    if CAUSAL:
        end = tl.minimum(S, start + M + S - T)
    for begin in range(0, end, N):
        keys = begin + tl.arange(0, N)
        at, valid = _rows(begin, head, S, width, N, D)
        k = tl.load(k_at + at, mask=valid, other=0.0)
        v = tl.load(v_at + at, mask=valid, other=0.0)
        p = tl.exp2(tl.dot(q, tl.trans(k), input_precision="ieee") * scale - lse[:, None]) * keep[:, None]
        p = tl.where(_seen(queries, keys, T, S, CAUSAL), p, 0.0)
        ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
    tl.store(dq_at + offsets, (dq * (scale * LN2)).to(dq_at.dtype.element_ty), mask=inside)
