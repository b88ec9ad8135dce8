"""What OLMoE's analysis script (scripts/run_moe_analysis.py) writes -> a Recording."""

from typing import Any

from explorer.checkpoints.engine_files import a_file, dense, lines, need
from explorer.checkpoints.engine_routes import Routes
from explorer.errors import RecordingError
from explorer.recording import Recording

KEYS = ("input_ids", "exp_ids")


def from_olmoe(path: Any, experts: int | None = None) -> Recording:
    """Read JSON lines of {input_ids (T), exp_ids (T, k, L), predicted_token_ids (T)}; each line is a step.

    experts: how many a layer has, which the file does not say (OLMoE: 64); None: the highest id that was chosen, plus one.
    The predicted tokens are the tap `/predicted`.
    """
    path = a_file(path)
    routes = Routes(path, "olmoe", "JSON lines of OLMoE's analysis", experts, "slots are in the order of the scores")
    for where, row in lines(path):
        what = f"{where} of {str(path)!r}"
        need(row, KEYS, what)
        tokens_T = dense(row["input_ids"], f"input_ids of {what}", "token")
        ids_TKL = dense(row["exp_ids"], f"exp_ids of {what}", "token, slot, layer")
        if len(ids_TKL) != len(tokens_T):
            raise RecordingError(f"{what} has {len(tokens_T)} tokens, but choices of {len(ids_TKL)}")
        extra = {"tokens": tokens_T[None]}
        if row.get("predicted_token_ids") is not None:
            extra["predicted"] = dense(row["predicted_token_ids"], f"predicted_token_ids of {what}", "token")[None]
            if extra["predicted"].shape != extra["tokens"].shape:
                raise RecordingError(f"{what} has {len(tokens_T)} tokens, but predicts {extra['predicted'].shape[1]}")
        routes.add(ids_TKL.transpose(1, 2)[None].contiguous(), extra)
    return routes.recording()
