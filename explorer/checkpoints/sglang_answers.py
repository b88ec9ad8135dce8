"""The answers of an sglang server that was started with `--enable-return-routed-experts` -> a Recording.

Each has the ids of all tokens but the last generated one as one run of int32 in base64, without their shape. Source: sglang,
srt/state_capturer/routed_experts.py.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
import torch

from explorer.checkpoints.engine_files import MOST_LAYERS, MOST_SLOTS, dense, lines
from explorer.checkpoints.engine_routes import Routes
from explorer.errors import BadValue, RecordingError
from explorer.recording import Recording

WANTED = "shape=(layers, experts that a token gets)"
NOTE = "the last generated token is in none, as it was never run; layers are counted with those that have no experts"


def answers(path: Path, shape: tuple[int, int] | None, experts: int | None) -> Recording:
    """Read a file of answers, one a line or one alone or a list; each answer is a step of one sequence.

    shape: (layers, slots) of the model; which the answers do not say.
    """
    if shape is None:
        raise RecordingError(
            f"{str(path)!r} holds answers of a server, whose ids have no shape: give {WANTED}, for example (48, 8)"
        )
    numbers = list(shape) if isinstance(shape, list | tuple) else []
    if len(numbers) != 2 or not all(type(n) is int and n > 0 for n in numbers):
        raise BadValue(f"shape={shape!r}: it must be {WANTED}, two whole numbers")
    if numbers[0] > MOST_LAYERS or numbers[1] > MOST_SLOTS:
        raise BadValue(f"shape={shape!r}: more layers or slots than any model (the other way round?)")
    routes = Routes(path, "sglang", "answers of the server (JSON, base64 of int32)", experts, NOTE)
    for line, found in lines(path):
        where = f"{line} of {path.name!r}" if line.startswith("line") else repr(path.name)
        for one in found if isinstance(found, list) else [found]:
            _answer(routes, one, (numbers[0], numbers[1]), where)
    return routes.recording()


def _answer(routes: Routes, one: Any, shape: tuple[int, int], where: str) -> None:
    about = one.get("meta_info") if isinstance(one, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("routed_experts"), str):
        raise RecordingError(
            f"{where} has no meta_info with routed_experts: start sglang with --enable-return-routed-experts and ask for "
            "return_routed_experts"
        )
    try:
        raw = base64.b64decode(about["routed_experts"], validate=True)
    except (ValueError, binascii.Error) as error:
        raise RecordingError(f"routed_experts of {where} is no base64, or was cut short") from error
    L, K = shape
    if not raw or len(raw) % (4 * L * K):
        raise RecordingError(
            f"routed_experts of {where} has {len(raw):,} bytes, which are not those of whole tokens with {L} layers and {K} "
            "experts each"
        )
    index_TLK = torch.from_numpy(np.frombuffer(raw, "<i4").astype(np.int64)).view(-1, L, K)
    prompt, made = about.get("prompt_tokens"), about.get("completion_tokens")
    start = 0
    if type(prompt) is int and type(made) is int:
        start = prompt + made - 1 - len(index_TLK)  # routed_experts_start_len of the request
        if start < 0:
            raise RecordingError(f"{where} tells of {prompt + made} tokens, but has ids of {len(index_TLK)}")
    parts = {"position": torch.arange(start, start + len(index_TLK))[None]}
    generated = one.get("output_ids")
    if generated is not None and type(prompt) is int:
        parts["tokens"] = _named(dense(generated, f"output_ids of {where}", "token"), parts["position"], prompt)
    routes.add(index_TLK[None], parts)


def _named(output_G: torch.Tensor, position_1T: torch.Tensor, prompt: int) -> torch.Tensor:
    """The token at each position, -1 for those of the prompt, which the answer does not repeat."""
    tokens_1T = torch.full_like(position_1T, -1)
    known = (position_1T >= prompt) & (position_1T < prompt + len(output_G))
    tokens_1T[known] = output_G[position_1T[known] - prompt]
    return tokens_1T
