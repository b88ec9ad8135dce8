"""Train the demo checkpoint anew: explorer/demo/olmoe-tiny, and explorer/demo/olmoe-tiny-early of the same run.

Some seven minutes on one core. The same bits come out on the same machine with the same packages; explorer/demo/README.md
says what differs elsewhere.
"""

import argparse
import time
from pathlib import Path

import torch

import explorer.demo
from explorer.checkpoints.export_hf import export_hf
from explorer.experiment import Experiment
from explorer.tasks import Text

STEPS, EARLY = 3150, 160
STAGES, STAGE, FALL = 8, 50, 0.75  # at the end the learning rate falls, so that the weights come to rest


def main() -> None:
    options = arguments()
    options.into.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums of another number of threads have other last bits
    run, began = experiment(), time.perf_counter()
    for _ in range(STEPS):
        settle(run, STEPS)
        step = run.advance()
        if run.step == EARLY:
            write(run, options.into / explorer.demo.early().name)
        if run.step % 200 == 0:
            print(f"step {run.step} of {STEPS}: loss {step.loss:.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    write(run, options.into / explorer.demo.folder().name)


def experiment() -> Experiment:
    """All of OLMoE's parts at a thousandth of its width: 0.7 million parameters."""
    return Experiment(
        "topk-softmax-raw", task=Text(sequence=128, bytes_per_domain=2_000_000), seed=0, watch=None,
        n_experts=16, k=2, aux_loss=0.002, expert_width=28, layers=4, d_model=96, heads=4, qk_norm="full",
        batch=8, warmup=100, weight_decay=0.1,
    )  # fmt: skip


def settle(run: Experiment, steps: int) -> None:
    """Before each step: in the last STAGES times STAGE steps of `steps` the learning rate falls, by FALL in each stage."""
    stage, within = divmod(run.step - steps + STAGES * STAGE, STAGE)
    if stage >= 0 and not within:
        run.set(learning_rate=run.settings["learning_rate"] * FALL)


def write(run: Experiment, folder: Path) -> None:
    export_hf(run, folder, force=True, dtype="bfloat16")
    print(f"{folder.name}: step {run.step}, held-out loss {run.evaluate():.4f} nats a byte", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=explorer.demo.HERE, help="where the two folders are written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
