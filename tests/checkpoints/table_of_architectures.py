"""The table of architectures: whether `explorer.record` hears exactly the decisions that transformers makes.

`python -m tests.checkpoints.table_of_architectures` prints it for the transformers that is installed. What is compared is
read apart from the explorer: what the router returned, which tokens each expert was given, what the block then computed.
"""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import explorer
from explorer.checkpoints.table import BLOCKS, TABLE
from tests.checkpoints.architectures import ARCHITECTURES, ONE_WAY, broken, model_of
from tests.checkpoints.tiny import tokens

DECODED = ("Mixtral", "Qwen3Moe", "DeepseekV3", "GptOss")  # a token after the prefill, too


def run(model: Any, ids: Tensor, mask: Tensor, **more: Any) -> Any:
    """A forward pass without gradients; a translator gets the same tokens on both sides."""
    if model.config.is_encoder_decoder:
        more |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    with torch.no_grad():
        return model(ids, attention_mask=mask, **more)


class Returned:
    """What routers and blocks returned, and what the experts of a block were given, heard by hooks of its own."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: dict[str, tuple[nn.Module, Any]] = {}
        self.given: dict[tuple[str, int], Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.results: dict[str, Tensor] = {}
        self.hooks: list[Any] = []
        for path, one in model.named_modules():
            if type(one).__name__ in TABLE or type(one).__name__ in BLOCKS:
                self.hooks.append(one.register_forward_hook(self._keep(path)))
            experts = getattr(one, "experts", None)
            if isinstance(experts, nn.ModuleList):
                self.hooks += [each.register_forward_pre_hook(self._rows(path, e)) for e, each in enumerate(experts)]
            plain = type(one).__name__ in BLOCKS and not any(type(part).__name__ in TABLE for part in one.children())
            if isinstance(experts, nn.ModuleList) or plain:
                self.hooks.append(one.register_forward_pre_hook(self._rows(path, -1)))
            if plain and isinstance(experts, nn.Module):
                self.hooks.append(experts.register_forward_pre_hook(self._weights(path)))

    def _keep(self, path: str) -> Any:
        return lambda module, args, output: self.outputs.__setitem__(path, (module, output))

    def _rows(self, path: str, expert: int) -> Any:
        def keep(module: nn.Module, args: Any) -> None:
            if args:
                self.given[path, expert] = args[0].flatten(0, -2).clone()

        return keep

    def _weights(self, path: str) -> Any:
        def keep(module: nn.Module, args: Any) -> None:
            if len(args) == 3:  # hidden states, choice, and weights of the chosen or of all
                index = next(one for one in args[1:] if not one.is_floating_point())
                self.weights[path] = next(one for one in args[1:] if one.is_floating_point())
                if self.weights[path].shape == index.shape:
                    dense = torch.zeros(len(index), module.num_experts)
                    self.weights[path] = dense.scatter(1, index, self.weights[path])

        return keep

    def dense(self, block: str, width: int) -> Tensor:
        """(N, E) 1 where an expert of this block was given a row that is the token's."""
        tokens_ND = self.given[block, -1]
        dense = torch.zeros(len(tokens_ND), width)
        for e in range(width):
            for row in self.given.get((block, e), ()):
                dense[(tokens_ND == row).all(-1), e] = 1
        return dense

    def __enter__(self) -> "Returned":
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()


def dense_of(module: nn.Module, output: Any, width: int) -> Tensor:
    """(N, E) what transformers gives each expert of each token, by a reading apart from the explorer's."""
    name = type(module).__name__
    if name == "SwitchTransformersTop1Router":
        return (output[0] * output[1]).flatten(0, 1)
    if name == "NllbMoeTop2Router":
        return output[1]
    if name == "Llama4Router":
        return output[0]
    if name.endswith("TopKGating"):
        _, token, gates, sizes, logits = output
        dense, at = torch.zeros_like(logits), 0
        for expert, size in enumerate(sizes):
            for i in range(at, at + size):
                dense[token[i], expert] += gates[i]
            at += size
        return dense
    if name == "DbrxRouter" and isinstance(output, Tensor):
        best = output.softmax(-1).topk(2)
        return torch.zeros_like(output).scatter(1, best.indices, best.values / best.values.sum(-1, keepdim=True))
    if name == "DogeCDMoE":
        x, y = output[1]
        scores = torch.stack([(x[:, i] + y[:, j]) for i in range(x.shape[1]) for j in range(y.shape[1])], 1)
        best = scores.topk(2)
        return torch.zeros_like(scores).scatter(1, best.indices, best.values.softmax(-1))
    index = next(one for one in output if not one.is_floating_point())
    weights = next((one for one in output if one.is_floating_point() and one.shape == index.shape), None)
    if weights is None:  # gpt-oss of version 4: all scores, 0 where not chosen
        return output[0]
    return torch.zeros(len(index), width).scatter_add(1, index, weights.float())


def dense_recorded(index_BTK: Tensor, weights_BTK: Tensor, width: int) -> Tensor:
    """(N, E) what the explorer heard."""
    index, weights = index_BTK.flatten(0, -2), weights_BTK.flatten(0, -2).float()
    return torch.zeros(len(index), width).scatter_add(1, index.clamp(min=0), weights * (index >= 0))


@torch.no_grad()
def mixed(block: Any, x_ND: Tensor, weights_NE: Tensor) -> Tensor:
    """What a block of version 4 makes of its tokens with these weights."""
    N, E = weights_NE.shape
    if isinstance(block.experts, nn.ModuleList):
        all_END = torch.stack([expert(x_ND) for expert in block.experts])
    else:
        all_END = block.experts(x_ND.repeat(E, 1), torch.full((E,), N)).view(E, N, -1)
    y_ND = (all_END * weights_NE.T[..., None]).sum(0)
    if getattr(block, "shared_expert_gate", None) is not None:
        y_ND = y_ND + block.shared_expert_gate(x_ND).sigmoid() * block.shared_expert(x_ND)
    if getattr(block, "shared_experts", None) is not None:
        y_ND = y_ND + block.shared_experts(x_ND)
    return y_ND


def _same(got_NE: Tensor, returned: Returned, layer: str, module: Any, output: Any, real_N: Tensor) -> None:
    width = got_NE.shape[1]
    if (layer, 0) in returned.given:
        assert ((got_NE > 0) == (returned.dense(layer, width) > 0))[real_N].all()
    if layer in returned.weights:
        wanted_NE = returned.weights[layer]
    elif type(module).__name__ in BLOCKS:
        x_ND, y = returned.given[layer, -1], output[0] if isinstance(output, tuple) else output
        again_ND = mixed(module, x_ND[real_N], got_NE[real_N])
        torch.testing.assert_close(again_ND, y.flatten(0, -2)[real_N], atol=1e-6, rtol=1e-4)
        return
    elif isinstance(output, Tensor) and type(module).__name__ != "DbrxRouter":  # logits alone
        best = output.softmax(-1).topk(2)
        wanted_NE = torch.zeros_like(output).scatter(1, best.indices, best.values / best.values.sum(-1, keepdim=True))
    else:
        wanted_NE = dense_of(module, output, width)
    torch.testing.assert_close(got_NE[real_N], wanted_NE[real_N].float(), atol=1e-6, rtol=1e-6)
    assert ((got_NE > 0) == (wanted_NE > 0))[real_N].all()


def compare(model: Any, ids: Tensor, mask: Tensor, **more: Any) -> tuple[int, list[str], Any]:
    """(decisions compared, layers, recording) of one forward pass; every one must be equal."""
    with Returned(model) as returned, explorer.record(model, ["*/index", "*/weights", "*/probs"]) as recording:
        run(model, ids, mask, **more)
    layers, compared, real_N = recording.layers(), 0, mask[:, -ids.shape[1] :].bool().flatten()
    outputs = {p: one for p, one in returned.outputs.items() if type(one[0]).__name__ in TABLE} or returned.outputs
    assert len(layers) == len(outputs) > 0
    for layer, (module, output) in zip(layers, outputs.values(), strict=True):
        index, weights = recording.last(f"{layer}/index"), recording.last(f"{layer}/weights")
        probs = recording.last(f"{layer}/probs").flatten(0, 1)[real_N]
        assert index.shape[:2] == ids.shape == weights.shape[:2]
        _same(dense_recorded(index, weights, probs.shape[1]), returned, layer, module, output, real_N)
        assert (index.flatten(0, 1)[~real_N] == -1).all() and not weights.flatten(0, 1)[~real_N].any()
        if "probabilities" in recording.header["scores"][f"{layer}/probs"]:
            torch.testing.assert_close(probs.sum(-1), torch.ones(len(probs)))
        compared += int((index >= 0).sum())
    assert len(recording.decisions()) == compared
    return compared, layers, recording


class Row(NamedTuple):
    """A line of the table. equal: None where nothing could be compared, for the reason in `how`."""

    name: str
    model_type: str
    routers: int
    decisions: int
    equal: bool | None
    how: str

    def __str__(self) -> str:
        verdict = {True: "equal", False: "DIFFERENT", None: "-"}[self.equal]
        return (
            f"{self.name:20} {self.model_type:24} {self.routers:3} routers {self.decisions:5} decisions "
            f"{verdict:9} {self.how}"
        )


def row(name: str) -> Row:
    """Build a tiny random model, and compare it under every implementation of its experts that there is."""
    why = broken(name)
    if why:
        return Row(name, "", 0, 0, None, why)
    model = model_of(name)
    ways = ["as built"]
    if name not in ONE_WAY and hasattr(model, "set_experts_implementation"):
        ways = ["eager", "batched_mm", "grouped_mm"]
    total, seen, recording, layers = 0, set(), None, list[str]()
    for way in ways:
        if way != "as built":
            model.set_experts_implementation(way)
        ids, mask = tokens("left")
        try:
            compared, layers, recording = compare(model, ids, mask)
            seen.add(compared)
            total += compared
            if name in DECODED:
                cache = run(model, ids, mask, use_cache=True).past_key_values
                one, longer = ids[:, :1] + 1, torch.cat([mask, mask.new_ones(3, 1)], 1)
                total += compare(model, one, longer, past_key_values=cache)[0]
        except AssertionError as error:
            return Row(name, model.config.model_type, len(layers), total, False, f"{way}: {str(error).splitlines()[0]}")
    assert len(seen) == 1 and recording is not None
    rules = {
        f"{one['scores']}{', shared experts' if one['shared'] else ''}" for one in recording.header["routers"].values()
    }
    how = f"{'/'.join(ways)}{', prefill and decode' if name in DECODED else ''}: {', '.join(sorted(rules))}"
    return Row(name, model.config.model_type, len(layers), total, True, how)


def summary(rows: list[Row]) -> str:
    """The last line."""
    import transformers

    count = [sum(one.equal is verdict for one in rows) for verdict in (True, False, None)]
    return (
        f"transformers {transformers.__version__}, torch {torch.__version__}: {count[0]} architectures with "
        f"{sum(one.decisions for one in rows):,} decisions equal, {count[1]} different, {count[2]} not in this version or "
        "not run by it"
    )


def main() -> int:
    """Print the table; 1 where anything differs."""
    from transformers import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = []
    for name in ARCHITECTURES:
        rows.append(row(name))
        print(rows[-1], flush=True)
    print(summary(rows))
    return int(any(one.equal is False for one in rows))


if __name__ == "__main__":
    sys.exit(main())
