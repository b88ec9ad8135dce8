"""Hand-made recordings in the form that a trace has, for the tests of its page and its pictures."""

import torch

from explorer import Recording


def trace(
    layers=3, experts=4, k=2, windows=4, length=12, *, domains=("prose", "code"), scores=True, seed=0, texts=0, **more
):
    """A trace whose experts lean towards a domain: even ids to the first half of the experts, odd to the second.

    The last window is two tokens short. more: entries of header["trace"], or heads=H for attention. texts: other token ids.
    """
    dice = torch.Generator().manual_seed(seed)
    heads = more.pop("heads", 0)
    valid = torch.ones(windows, length, dtype=torch.bool)
    valid[-1, -2:] = False
    domain = [w % len(domains) for w in range(windows)] if domains else []
    ids = torch.Generator().manual_seed(texts)
    tokens = torch.randint(0, 20, (windows, length), generator=ids).masked_fill(~valid, 0)
    paths = [f"model.layers.{i}.mlp" for i in range(layers)]
    heard = [("", "tokens", tokens), ("", "valid", valid), ("", "position", torch.arange(length).expand(windows, -1))]
    axes = {"/tokens": "B T", "/valid": "B T", "/position": "B T"}
    for path in paths:
        logits = torch.randn(windows, length, experts, generator=dice)
        for w, one in enumerate(domain):
            logits[w, :, one::2] += 1.0
        probs = logits.softmax(-1)
        weights, index = probs.topk(k)
        said = {"index": index.masked_fill(~valid[..., None], -1), "weights": weights * valid[..., None]}
        if scores:
            said["probs"] = probs * valid[..., None]
        heard += [(path, tap, value) for tap, value in said.items()]
        axes |= {f"{path}/{tap}": "B T E" if tap == "probs" else "B T K" for tap in said}
        if heads:
            where = path.replace("mlp", "self_attn")
            share = torch.rand(windows, heads, generator=dice)
            heard += [(where, "first", share), (where, "elsewhere", share * 0), (where, "entropy", share + 1)]
            axes |= {f"{where}/{tap}": "B H" for tap in ("first", "elsewhere", "entropy")}
    about = {
        "checkpoint": "/home/ada/models/tiny-moe", "architecture": "TinyMoeForCausalLM", "method": "streamed", "why": "",
        "window": length, "domains": list(domains), "domain": domain, "text": list(range(windows)),
        "tokens": int(valid.sum()), "layers": layers, "done": layers, "cut": False, "bytes_read": 4_200_000_000,
        "seconds": 4.1, "scores_kept": scores, "dtype": "float32", "added": [],
        "vocabulary": {str(i): f" word{i}" for i in range(20)}, **more,
    }  # fmt: skip
    made = Recording(
        {
            "axes": axes, "experts": dict.fromkeys(paths, experts), "model": "TinyMoeForCausalLM", "trace": about,
            "scores": {f"{path}/probs": "probabilities: they sum to 1" for path in paths} if scores else {},
            "routers": {path: {"router": f"{path}.gate", "scores": "softmax", "shared": []} for path in paths},
        }
    )  # fmt: skip
    made.add(0, heard, tensors=True)
    made.settle()
    return made
