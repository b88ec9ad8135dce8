"""Where checkpoints keep what decides: one line for each way that files name a router, its bias, its experts, a sink, a gate.

The names are those in the files, which often differ from those in memory. A line is a regular expression behind the path
of the block; what uses it stands beside it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.headers import REAL
from explorer.checkpoints.weights import Weights

ROUTERS = (
    r"gate\.weight",  # Mixtral, Qwen, OLMoE, DeepSeek, GLM, Phi, Ernie and most others
    r"router\.weight",  # gpt-oss, Llama 4, Jamba, Aria, Granite with a sliding window
    r"router\.layer\.weight",  # Granite, JetMoE, DBRX
    r"router\.classifier\.weight",  # Switch, NLLB, LongCat
    r"router\.gate\.weight",  # AFMoE, HY 3
    r"router\.proj\.weight",  # Gemma 4
    r"gate\.wg\.weight",  # Hunyuan
    r"gate\.router_mlp\.out_proj\.weight",  # Zaya: the last of three layers
    r"router_gate\.weight",  # Doge: one row for each half of an expert's name
    r"(?:gating|switch|gate_network|router_network|wg|(?:gate|router)\.\w+)\.weight",  # nobody we know, but it looks like one
)
EXPERTS = (
    r"experts\.(?:expert_)?(?P<j>\d+)\.(?P<m>[\w.]+)\.weight",  # one by one: most
    r"experts\.(?P<m>gate_up_proj|down_proj)(?P<blocks>_blocks)?",  # gpt-oss, Llama 4, Qwen3-VL, Gemma 4: E R C
    r"experts\.(?P<m>fc1|fc2|w13|w2|gate_proj|up_proj|down_proj)[._]weight",  # Aria, Inkling: E R C
    r"experts\.mlp\.(?P<m>w1|v1|w2)",  # DBRX: all experts below each other
    r"(?P<m>input_linear|output_linear|gate_proj|up_proj|down_proj)\.weight",  # Granite, JetMoE, Step: E R C
    r"(?P<m>down_embed|up_embed)\.weight",  # Doge: an expert is a row
)
BIASES = (
    r"(?:gate\.|router\.|moe_statics\.|experts\.)?e_score_correction_bias",  # DeepSeek, GLM, LongCat, Ernie, MiniMax, Laguna
    r"(?:gate\.)?expert_bias",  # LFM2, AFMoE, HY 3; Bailing
    r"router_bias",  # Step
    r"gate\.balancing_biases",  # Zaya
    r"(?:gate|router)\.bias",  # DeepSeek 4: for the choice; gpt-oss: part of the scores
)
ELSEWHERE = "moe.router.expert_bias"  # Kolibri, beside the block and not in it
SHARED = r"(?P<s>shared_experts?|shared_mlp|share_expert)\."  # in the block, or (Granite, Step) beside it
SHARED_GATE = "shared_expert_gate.weight"  # Qwen
SINKS = (
    r"sinks",  # gpt-oss, Granite with a sliding window
    r"attn_sink",  # DeepSeek 4
    r"softmax_offset",  # Flint
    r"attention_sink_bias",  # MiMo
    r"learnable_sink_param",  # HY 4
)
MOVING_SINK = r"attn_sink_proj\.weight"  # Inkling 2: computed of every query
GATES = (
    r"gate_proj\.weight",  # AFMoE, Beam, Muse Spark
    r"g_proj\.weight",  # Laguna, Step, Dots, Bailing
    r"output_gate\.weight",  # MiniMax
    r"linear_gate\.weight",  # HY 4
    r"gate_attn\.weight",  # Inkling 2
)
OFTEN = tuple(f".{one}.weight" for one in ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"))  # never a router
ATTENTION = r"(?:self_attn|attn|attention|self_attention)"
LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|block|h)\.(\d+)\.")


class Matrix(NamedTuple):
    """One kind of matrix of a block's experts, R rows of C numbers for each. `names` is one tensor, or one an expert."""

    kind: str
    names: tuple[str, ...]
    rows: int
    width: int
    packed: bool = False  # MXFP4: two numbers a byte, `_scales` beside it


class Block(NamedTuple):
    """A place where tokens are routed. `bias`: tensor and what it is for ("selection" or "scores")."""

    path: str
    layer: int | None
    router: str
    experts: int
    width: int
    bias: tuple[str, str] | None
    shared: tuple[str, ...]
    shared_gate: str | None
    matrices: tuple[Matrix, ...]


def _any(lines: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{re.sub(r'[?]P<[a-z]+>', '?:', one)})$" for one in lines))


_KNOWN, _BIAS = _any(ROUTERS[:-1]), _any(BIASES)
_EXPERTS = [re.compile(one) for one in EXPERTS]


def blocks(weights: Weights, experts: int | None, biased: bool) -> list[Block]:
    """Every routed block in the order of the layers. experts: what the configuration says; biased: its rule has a bias."""
    routers = {name: match for name in weights.tensors if (match := _router(name)) is not None}
    places = {path for block, _ in routers.values() for path in (block, block.rpartition(".")[0])}
    below = _by_place(weights.tensors, places)
    found: dict[str, Block] = {}
    for name, match in routers.items():
        made = _block(weights, below, name, match, experts, biased)
        if made is not None and (made.path not in found or _KNOWN.fullmatch(match[1])):
            found[made.path] = made
    return sorted(found.values(), key=lambda one: _natural(one.path))


def _natural(path: str) -> list[tuple[int, str]]:
    """Layer 10 comes after layer 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in path.split(".")]


def _router(name: str) -> tuple[str, str] | None:
    """(block, rest) of a name that looks like a router's; the shortest rest that is known counts."""
    if not name.endswith(".weight") or name.endswith(OFTEN):
        return None
    parts = name.split(".")
    for length in (2, 3, 4):
        rest = ".".join(parts[-length:])
        if len(parts) > length and _KNOWN.fullmatch(rest):
            if length == 2 and parts[-3] in ("router", "gate"):
                continue
            return ".".join(parts[:-length]), rest
    for length in (3, 2):
        rest = ".".join(parts[-length:])
        if len(parts) > length and re.fullmatch(ROUTERS[-1], rest):
            return ".".join(parts[:-length]), rest
    return None


def _by_place(names: Iterable[str], places: set[str]) -> dict[str, list[str]]:
    """Of each place, a path of modules, the names below it; those of a numbered expert only where it is one of its own."""
    below: dict[str, list[str]] = {place: [] for place in places}
    for name in names if places else ():
        place, _, rest = name.partition(".experts.")
        if rest[:1].isdigit() and place in below:
            below[place].append(name)
            continue
        place = name
        while place := place.rpartition(".")[0]:
            if place in below:
                below[place].append(name)
    return below


def _block(
    weights: Weights, below: dict[str, list[str]], name: str, match: tuple[str, str], told: int | None, biased: bool
) -> Block | None:
    path, rest = match
    shape = weights.shape(name)
    if len(shape) != 2 or 0 in shape:
        return None
    own = {other[len(path) + 1 if path else 0 :]: other for other in below.get(path, ())}
    matrices = _matrices(weights, own, shape)
    known = _KNOWN.fullmatch(rest) is not None
    if not matrices and shape[0] != told and not re.search("router|moe", name):
        return None
    if not known and (not matrices or "expert" in rest):
        return None
    if weights.tensors[name].dtype not in REAL:
        raise CheckpointError(
            f"{name} is stored as {weights.tensors[name].dtype}, and a router should hold real numbers"
        )
    parent = path.rpartition(".")[0]
    beside = {other[len(parent) + 1 :]: other for other in below.get(parent, ())}
    experts = shape[0] if rest != "router_gate.weight" else (shape[0] // 2) ** 2
    return Block(
        path,
        _layer(path),
        name,
        experts,
        shape[1],
        _bias(weights, own, beside, (shape[0], told), biased),
        tuple(dict.fromkeys(m["s"] for one in (*own, *beside) if "share" in one and (m := re.match(SHARED, one)))),
        own.get(SHARED_GATE),
        matrices,
    )


def _layer(path: str) -> int | None:
    found = LAYER.search(path + ".")
    return int(found[1]) if found else None


def _bias(
    weights: Weights, own: dict[str, str], beside: dict[str, str], experts: tuple[int, int | None], biased: bool
) -> tuple[str, str] | None:
    found = [(rest, name) for rest, name in own.items() if "bias" in rest and _BIAS.fullmatch(rest)]
    found += [(rest, name) for rest, name in beside.items() if rest == ELSEWHERE]
    for rest, name in found:
        shape = weights.shape(name)
        if len(shape) in (1, 2) and shape[-1] in experts:
            part_of_scores = re.fullmatch(BIASES[-1], rest) and not biased
            return name, "scores" if part_of_scores else "selection"
    return None


def _matrices(weights: Weights, own: dict[str, str], router: tuple[int, ...]) -> tuple[Matrix, ...]:
    """The experts' matrices of a block, in whichever way they are kept; what is quantised in an unknown way is left out."""
    single: dict[str, dict[int, str]] = {}
    fused: list[Matrix] = []
    for rest, name in own.items():
        shape = weights.shape(name)
        match = next((m for line in _EXPERTS if (m := line.fullmatch(rest))), None)
        if match is None or len(shape) < 2:
            continue
        if match.re is _EXPERTS[0]:
            if len(shape) == 2 and len(match["j"]) < 7:
                single.setdefault(match["m"], {})[int(match["j"])] = name
        else:
            made = _fused(match["m"], name, shape, router[0], bool(match.groupdict().get("blocks")))
            fused += [] if made is None else [made]
    return tuple(
        fused + [one for kind, names in single.items() if (one := _one_by_one(weights, kind, names)) is not None]
    )


def _fused(kind: str, name: str, shape: tuple[int, ...], experts: int, packed: bool) -> Matrix | None:
    if 0 in shape:
        return None
    if packed:
        return Matrix(kind, (name,), shape[1], shape[2] * shape[3] * 2, True) if len(shape) == 4 else None
    if len(shape) == 3:
        return Matrix(kind, (name,), shape[1], shape[2])
    if kind.endswith("_embed"):
        return Matrix(kind, (name,), 1, shape[1]) if shape[0] >= (experts // 2) ** 2 else None
    return Matrix(kind, (name,), shape[0] // experts, shape[1]) if kind in ("w1", "v1", "w2") else None


def _one_by_one(weights: Weights, kind: str, names: dict[int, str]) -> Matrix | None:
    ordered = tuple(names[j] for j in sorted(names))
    shapes = {weights.shape(name) for name in ordered}
    if sorted(names) != list(range(len(names))) or len(shapes) != 1:
        return None
    rows, width = next(iter(shapes))
    return Matrix(kind, ordered, rows, width) if rows and width else None


class Gate(NamedTuple):
    """An output gate of attention: where its weights lie, and how many numbers it has for a token."""

    path: str
    layer: int | None
    tensor: str
    where: str
    numbers: int


_ATTENTION = re.compile(rf"(?P<path>.+\.{ATTENTION}(?:\.\d+)?)\.(?P<rest>[\w.]+)")


class Sink(NamedTuple):
    """Learned sinks of an attention layer: the tensor holds a logit for each head."""

    path: str
    layer: int | None
    tensor: str


def attention_parts(weights: Weights) -> tuple[list[Sink], list[str], list[Gate]]:
    """(learned sinks, paths of layers whose sink depends on the query, output gates)."""
    sinks: list[Sink] = []
    moving: list[str] = []
    gates: list[Gate] = []
    for name, one in weights.tensors.items():
        match = _ATTENTION.fullmatch(name) if "att" in name else None
        if match is None:
            continue
        path, rest = match["path"], match["rest"]
        layer = _layer(path)
        if len(one.shape) == 1 and re.fullmatch("|".join(SINKS), rest) and one.dtype in REAL:
            sinks.append(Sink(path, layer, name))
        elif re.fullmatch(MOVING_SINK, rest):
            moving.append(path)
        elif re.fullmatch("|".join(GATES), rest) and len(one.shape) == 2:
            gates.append(Gate(path, layer, name, rest.removesuffix(".weight"), one.shape[0]))
        elif rest == "q_proj.weight" and len(one.shape) == 2:
            out = weights.tensors.get(f"{path}.o_proj.weight")
            if out is not None and len(out.shape) == 2 and one.shape[0] == 2 * out.shape[1] > 0:
                gates.append(Gate(path, layer, name, "second half of q_proj", out.shape[1]))
    return sorted(sinks, key=_place), moving, sorted(gates, key=_place)


def _place(one: Sink | Gate) -> list[tuple[int, str]]:
    return _natural(one.path)
