"""What attention shows to those who watch it; nothing here is computed while nobody does."""

from typing import Any

from torch import Tensor

from explorer.kernels.attention_mass import attention_map, attention_mass

TAPS = {"received": "B H S", "first": "B H", "entropy": "B H", "attention": "B H T S"}


def watch(module: Any, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, y_BHTd: Tensor) -> Tensor:
    """Tap what was asked for. Returns y itself, or the values mixed anew by an attention map that somebody edited.

    module: the mechanism, an Instrumented with these TAPS and a `kernel` (what computed its outputs and statistics).
    """
    if any(map(module.watched, ("received", "first", "entropy"))):
        mass = attention_mass(q_BHTd, k_BHTd)
        module.kernel = f"sdpa, {mass.kernel}"
        module.tap("received", mass.received)
        module.tap("first", mass.first)
        module.tap("entropy", mass.entropy)
    if module.watched("attention"):
        seen_BHTS = attention_map(q_BHTd, k_BHTd)
        map_BHTS = module.tap("attention", seen_BHTS)
        if map_BHTS is not seen_BHTS:
            return map_BHTS.to(v_BHTd.dtype) @ v_BHTd
    return y_BHTd
