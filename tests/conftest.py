"""What every test relies on: one thread, no network, nothing of the user's Jupyter or caches."""

import gc
import os

# before torch is imported: two runs on different machines must not differ by their thread pools
os.environ.setdefault("OMP_NUM_THREADS", "1")
# an accidental download is an error at once instead of a long wait
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# examples are found anew at a desk and are the same ones in CI; a shared machine makes any deadline a coin toss
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    """A test that draws without a seed of its own still draws the same every time, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> None:
    """What earlier modules imported is not looked through again: a collection took up to two seconds of some test's time."""
    gc.collect()
    gc.freeze()
