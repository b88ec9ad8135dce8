"""Kernels for submissions, forked warm: torch and the exercises are imported once for a class, and not for each submission.

`python -m explorer.lessons.graders.kernels FD [MODULE...]` is the process that a grader's kernels are forked from.
"""

import logging
import sys
import time
from typing import Any

from explorer.serving.zygote import KERNEL, import_all, is_warm, main

NEEDED = ("torch", "torch.nn.functional", "explorer", "explorer.lessons.graders")


def fork_them(*modules: str) -> None:
    """From now on this process's kernels have imported what a submission needs, and these modules.

    The process that they are forked from begins to warm up at once. Called again, nothing happens. Where a system cannot
    fork, kernels are plain, which is said: they take seconds longer and do the same.
    """
    from jupyter_client.provisioning import KernelProvisionerFactory
    from traitlets.config import Application

    from explorer.serving.provisioner import Kernels, fork_from_it

    if Kernels.command[0] == __name__:
        return
    Kernels.command = (__name__, *modules)
    Kernels.start_zygote()
    fork_from_it(KernelProvisionerFactory.instance())
    log = logging.getLogger("traitlets")
    if not Application.initialized() and logging.lastResort:
        log.addHandler(logging.lastResort)  # without an application what kernels warn of goes nowhere
    if Kernels.zygote is None:
        log.warning("kernels are plain: %s", Kernels.why_plain)


def warm() -> dict[str, Any]:
    """Import it all; the modules are those of the command line."""
    begun = time.perf_counter()
    # see otter_plugin.STARTUP
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import_all([*KERNEL, *NEEDED, *sys.argv[2:]])
    from explorer.lessons.exercise import of_lesson

    of_lesson()
    return is_warm(begun)


def nothing(_kernel: Any) -> None:
    """These kernels have no page."""


if __name__ == "__main__":
    main(warm, nothing)
