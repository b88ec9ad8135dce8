"""Tiny checkpoints with a tokenizer, as files: made by transformers and tokenizers on the spot."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.checkpoints.tiny import config

WORDS = ["the cat sat on the mat, and the cat was fat", "def cat(mat): return the[mat] + 1", "où est le chat ? 猫"]
VOCAB = 300
SMALL = {"vocab_size": VOCAB, "num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2}
KINDS: dict[str, dict[str, Any]] = {
    "Mixtral": {}, "Olmoe": {"num_experts_per_tok": 3}, "Qwen3Moe": {"moe_intermediate_size": 16, "norm_topk_prob": True},
    "GraniteMoe": {},
}  # fmt: skip


def tokenizer(folder: Path, start: bool = False) -> None:
    """A byte-level tokenizer.json; start: it puts <s> before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(WORDS * 3, trainer)
    if start:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(folder / "tokenizer.json"))


def model(kind: str, **changes: Any) -> Any:
    """One of KINDS, with random numbers large enough that routers are of different minds."""
    import transformers

    torch.manual_seed(3)
    made = getattr(transformers, f"{kind}ForCausalLM")(config(kind, **{**SMALL, **KINDS[kind], **changes})).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "norm" not in name:
                value.mul_(8)
    return made


def checkpoint(folder: Path, kind: str = "Mixtral", **changes: Any) -> Path:
    """A folder with weights, config.json and tokenizer.json."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model(kind, **changes).save_pretrained(folder)
    finally:
        logging.enable_progress_bar()
    tokenizer(folder)
    return folder


def configured(folder: Path, **changes: Any) -> None:
    """Change config.json; None takes a setting out."""
    file = folder / "config.json"
    told = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))
