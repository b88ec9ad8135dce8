"""What vLLM returns with `--enable-return-routed-experts` -> a Recording.

A file of responses of its server, one a line (or one alone), or an array saved with numpy. Ids come as nested lists
(v0.21), as an .npy array in base64 (newer), or as an object with data, shape and dtype. Source: vLLM's docs/training.
"""

import base64
import binascii
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.checkpoints.engine_files import a_file, dense, lines, npy
from explorer.checkpoints.engine_routes import Routes
from explorer.errors import RecordingError
from explorer.recording import Recording

AXES = "token, layer, slot"
NOTE = "layers are those of the returned array; the last generated token is in none, as it was never run"
DTYPES = ("uint8", "int8", "uint16", "int16", "int32", "int64")


def from_vllm(path: Any, experts: int | None = None) -> Recording:
    """Read one file: `.json` or `.jsonl` of responses, or `.npy` of ids (token, layer, slot); each response is a step.

    experts: how many a layer has, which these files do not say; None: the highest id that was chosen, plus one. Token ids
    are known where the request asked for them (`return_token_ids`).
    """
    path = a_file(path)
    with open(path, "rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        array = npy(path.read_bytes(), repr(str(path)))
        routes = Routes(path, "vllm", "an array of ids (.npy)", experts, NOTE)
        routes.add(dense(array, repr(str(path)), AXES)[None], byte=array.dtype == np.uint8)
        return routes.recording()
    if start[:2] == b"PK" or start[:1] == b"\x80":
        raise RecordingError(f"{str(path)!r} is an archive or a pickle: save responses as JSON, or one array as .npy")
    routes = Routes(path, "vllm", "", experts, NOTE)
    for where, response in lines(path):
        for one in response if isinstance(response, list) else [response]:
            _response(routes, one, where, path)
    return routes.recording()


def _response(routes: Routes, response: Any, where: str, path: Path) -> None:
    where = f"{where} of {path.name!r}" if where.startswith("line") else repr(path.name)
    if not isinstance(response, dict) or not ("choices" in response or "routed_experts" in response):
        raise RecordingError(f"{where} is no response of vLLM: it has neither choices nor routed_experts")
    choices = response.get("choices", [response])
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise RecordingError(f"choices of {where} is no list of objects")
    prompt_ids = _tokens(response.get("prompt_token_ids"), f"prompt_token_ids of {where}")
    before = response.get("prompt_routed_experts")
    prompt = None if before is None else _ids(before, f"prompt_routed_experts of {where}")
    found = False
    for choice in choices:
        given = choice.get("routed_experts")
        if given is None and prompt is None:
            continue
        found = True
        ids_P = prompt_ids if prompt_ids is not None else _tokens(choice.get("prompt_token_ids"), f"tokens of {where}")
        ids_G = _tokens(choice.get("token_ids"), f"token_ids of {where}")
        rest = None if given is None else _ids(given, f"routed_experts of {where}")
        _add(routes, prompt, rest, (ids_P, ids_G), where)
    if not found:
        raise RecordingError(f"{where} has no routed experts: start vLLM with --enable-return-routed-experts")


Ids = tuple[Tensor, str, int]  # ids (T, L, K), the format they came in, the position of the first


def _ids(value: Any, what: str) -> Ids:
    if isinstance(value, str):
        array = npy(_bytes(value, what), what)
        return dense(array, what, AXES), "base64 of .npy" + (", bytes" if array.dtype == np.uint8 else ""), 0
    if isinstance(value, dict):
        return _packed(value, what)
    return dense(value, what, AXES), "nested lists, as in v0.21", 0


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise RecordingError(f"{what} is no base64, or was cut short") from error


def _packed(value: dict[str, Any], what: str) -> Ids:
    shape, dtype, start = value.get("shape"), str(value.get("dtype")).removeprefix("torch."), value.get("start", 0)
    data = value.get("data")
    sizes = shape if isinstance(shape, list) else []
    if dtype not in DTYPES or not isinstance(data, str) or not all(type(n) is int and n >= 0 for n in [*sizes, start]):
        raise RecordingError(
            f"{what} needs data in base64, a shape of whole numbers and a dtype of {', '.join(DTYPES)}"
        )
    raw = _bytes(data, what)
    if len(sizes) != 3 or math.prod(sizes) * np.dtype(dtype).itemsize != len(raw):
        raise RecordingError(f"{what} was cut short: its shape {shape!r} does not fit its {len(raw):,} bytes")
    array = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(sizes)
    return dense(array, what, AXES), "base64 with shape and dtype" + (", bytes" if dtype == "uint8" else ""), start


def _tokens(value: Any, what: str) -> Tensor | None:
    return None if value is None else dense(value, what, "token") if value else torch.zeros(0, dtype=torch.int64)


def _add(
    routes: Routes, prompt: Ids | None, rest: Ids | None, tokens: tuple[Tensor | None, Tensor | None], where: str
) -> None:
    """One completion as one sequence: the prompt's ids before the generated ones, tokens beside those they belong to."""
    parts = [one for one in (prompt, rest) if one is not None]
    forms = sorted({form for _, form, _ in parts})
    if len({one.shape[1:] for one, _, _ in parts}) > 1:
        raise RecordingError(f"{where}: prompt and generation differ in layers or slots")
    ids_TLK = torch.cat([one for one, _, _ in parts])
    ids_P, ids_G = tokens
    P, G = (-1 if one is None else len(one) for one in tokens)
    known = torch.cat([one for one in tokens if one is not None]) if ids_P is not None and ids_G is not None else None
    first = parts[0][2]
    if prompt is None and P >= 0 and G > 0 and len(ids_TLK) in (G, G - 1) and first == 0 and P > 1:
        first = P  # the generated tokens alone
    elif prompt is None and known is not None and first + len(ids_TLK) > len(known):
        raise RecordingError(f"{where} has {len(known)} tokens, but ids of {first + len(ids_TLK)}")
    elif prompt is not None and P >= 0 and len(prompt[0]) != P:
        raise RecordingError(f"{where} has {P} prompt tokens, but ids of {len(prompt[0])}")
    position = torch.arange(first, first + len(ids_TLK))
    named = torch.full_like(position, -1)
    source = known if known is not None else ids_P if ids_P is not None else torch.zeros(0, dtype=torch.int64)
    inside = position < len(source)
    named[inside] = source[position[inside]]
    forms = sorted({*filter(None, [routes.source["format"]]), *forms})
    routes.source["format"] = "; ".join(forms)[:200]
    routes.add(ids_TLK[None], {"tokens": named[None], "position": position[None]}, byte="bytes" in forms[0])
