"""Numbers that a checkpoint keeps in eight or four bits, as float32: DeepSeek's float8 with factors, gpt-oss' MXFP4.

A name is that of the tensor as a whole: "...gate_proj.weight" with "...gate_proj.weight_scale_inv" beside it, and
"...experts.gate_up_proj" where the files hold "..._blocks" and "..._scales". Rows are counted over all axes but the last.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.headers import REAL
from explorer.checkpoints.weights import Weights

FACTORS, BLOCKS, SCALES = "_scale_inv", "_blocks", "_scales"
SQUARE = (128, 128)  # DeepSeek's blocks, where the configuration says nothing
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of MXFP4 (OCP microscaling formats); the high bit is the sign
TOGETHER = 1 << 17  # bytes
METHODS = ("fp8", "mxfp4")


def shape(weights: Weights, name: str) -> tuple[int, ...]:
    """What a tensor would have if it were not packed: (E, R, C) where `_blocks` are (E, R, C / 32, 16)."""
    if name in weights:
        return weights.shape(name)
    packed = weights.shape(name + BLOCKS)
    return (*packed[:-2], packed[-2] * packed[-1] * 2)


def is_quantised(weights: Weights, name: str) -> bool:
    """Whether a tensor must be read through `dequantised`, and can be."""
    if name in weights:
        return weights.tensors[name].dtype.startswith("F8") and name + FACTORS in weights
    return name + BLOCKS in weights and name + SCALES in weights


def refusal(weights: Weights, config: dict[str, Any] | None) -> str:
    """Why the weights cannot be read as numbers, in words; "": they can."""
    for part in (weights.config, config):
        said = (part or {}).get("quantization_config")
        method = said.get("quant_method") if isinstance(said, dict) else None
        if said is not None and method not in METHODS:
            return f"weights quantised by {str(method)[:40]!r} are not read here"
    for name, one in weights.tensors.items():
        if one.dtype.startswith("F8") and not name.endswith((FACTORS, SCALES)) and name + FACTORS not in weights:
            return f"{name} is stored as {one.dtype} without the factors {name}{FACTORS}"
        if name.endswith(BLOCKS) and name.removesuffix(BLOCKS) + SCALES not in weights:
            return f"{name} has no {SCALES} beside it"
    return ""


def dequantised(weights: Weights, name: str, first: int, rows: int) -> Tensor:
    """(rows, width) in float32, from row `first` on; a tensor that is not quantised is made float32 too."""
    if name not in weights:
        return _unpacked(weights, name, first, rows)
    if not weights.tensors[name].dtype.startswith("F8"):
        return weights.numbers(name, first, rows).float()
    stored = weights.read(name, first, rows)
    numbers = _looked_up(_float8(stored.dtype), stored).view(stored.shape)  # torch converts more slowly
    _multiply(weights, name, first, numbers)
    return numbers


def _multiply(weights: Weights, name: str, first: int, numbers: Tensor) -> None:
    """In place: a factor for each block of the matrix, or one for all of it, in a tensor beside it."""
    factors = name + FACTORS
    if factors not in weights:
        raise CheckpointError(f"{name} is stored as {weights.tensors[name].dtype} without the factors {factors}")
    grid = weights.shape(factors)
    if math.prod(grid) == 1:
        numbers *= _factors(weights, factors, 0, None).flatten()
        return
    down, across = _block(weights, name)
    R = weights.shape(name)[-2]
    row_R = torch.arange(first, first + len(numbers))
    row_R = row_R // R * grid[-2] + row_R % R // down
    low, high = int(row_R[0]), int(row_R[-1])
    picked = _factors(weights, factors, low, high - low + 1)[row_R - low]
    if numbers.shape[1] == across * grid[-1]:
        numbers.view(len(numbers), grid[-1], across).mul_(picked[..., None])
        return
    for j in range(grid[-1]):
        numbers[:, j * across : (j + 1) * across] *= picked[:, j : j + 1]


def _factors(weights: Weights, name: str, first: int, rows: int | None) -> Tensor:
    """As float32; some keep them as powers of two in eight bits."""
    dtype = weights.tensors[name].dtype
    if dtype not in (*REAL, "F8_E8M0"):
        raise CheckpointError(f"{name} is stored as {dtype}, and should hold real numbers")
    return weights.read(name, first, rows).float()


def _block(weights: Weights, name: str) -> tuple[int, int]:
    """Rows and columns that share a factor: those the configuration says, if they fit, or 128, or equal parts."""
    whole, grid = weights.shape(name), weights.shape(name + FACTORS)
    if len(whole) == len(grid) > 1 and whole[:-2] == grid[:-2] and 0 not in grid:
        for down, across in (_told(weights), SQUARE, (whole[-2] // grid[-2], whole[-1] // grid[-1])):
            if (-(-whole[-2] // max(1, down)), -(-whole[-1] // max(1, across))) == grid[-2:]:
                return down, across
    raise CheckpointError(
        f"{name}{FACTORS} has the shape {list(grid)}, which does not fit the blocks of a tensor of shape {list(whole)}"
    )


def _told(weights: Weights) -> tuple[int, int]:
    said = (weights.config or {}).get("quantization_config")
    size = said.get("weight_block_size") if isinstance(said, dict) else None
    if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    return SQUARE


def _unpacked(weights: Weights, name: str, first: int, rows: int) -> Tensor:
    """MXFP4: 16 bytes hold 32 numbers, which share the power of two that stands in `_scales`."""
    blocks, scales = name + BLOCKS, name + SCALES
    if blocks not in weights or scales not in weights:
        raise CheckpointError(f"{name} should be in the files, or {BLOCKS} and {SCALES} of it")
    packed, groups = weights.shape(blocks), weights.shape(blocks)[-2]
    types = weights.tensors[blocks].dtype, weights.tensors[scales].dtype
    if packed[:-1] != weights.shape(scales) or set(types) - {"U8", "F8_E8M0"} or types[0] != "U8":
        raise CheckpointError(
            f"{blocks} has the shape {list(packed)}, and {scales} {list(weights.shape(scales))}: they do not fit"
        )
    data = weights.read(blocks, first * groups, rows * groups)
    power = weights.read(scales, first, rows).view(torch.uint8)
    pairs_P, power_S = _tables()
    numbers = _looked_up(pairs_P, data).view(torch.float32).view(rows, groups, -1)
    return numbers.mul_(_looked_up(power_S, power).view(rows, groups, 1)).view(rows, -1)


def _looked_up(table: Tensor, packed: Tensor) -> Tensor:
    """(n,): the entry for each byte, some at a time, as their numbers take more room than they do."""
    bytes_n = packed.view(torch.uint8).flatten()
    found = torch.empty(len(bytes_n), dtype=table.dtype)
    for part, out in zip(bytes_n.split(TOGETHER), found.split(TOGETHER), strict=True):
        torch.index_select(table, 0, part.int(), out=out)
    return found


@cache
def _float8(dtype: torch.dtype) -> Tensor:
    """The number that each byte stands for."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """(the two numbers of each byte, the lower four bits first, as one of 64 bits; the factor of each scale)."""
    one = torch.tensor([*FP4, *(-x for x in FP4)])
    byte = torch.arange(256)
    pairs_P2 = torch.stack([one[byte & 15], one[byte >> 4]], -1)
    return pairs_P2.view(torch.int64).flatten(), torch.ldexp(torch.ones(256), byte - 127)
