"""An experiment as the Python lines that make it again: what a page hands to whoever wants to go on in a script."""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explorer.experiment import Experiment


def script(experiment: "Experiment") -> str:
    """Lines that, run where the same versions are installed, give the same losses to the last bit."""
    task, imports = _task(experiment.task)
    defaults = {name: knob.default for name, knob in experiment.spec.knobs.items()} | _setting_defaults(experiment)
    given = {name: value for name, value in experiment.start.items() if value != defaults.get(name, MISSING)}
    arguments = [repr(experiment.spec.name), f"task={task}", f"seed={experiment.seed}"]
    if experiment.device.type != "cpu":
        arguments.append(f"device={str(experiment.device)!r}")
    arguments += [f"{name}={value!r}" for name, value in given.items()]
    lines = [*imports, "", f"run = explorer.Experiment({', '.join(arguments)})"]
    done = 0
    for step, changes in experiment.changes:
        lines += _trained(done, step)
        lines.append(f"run.set({', '.join(f'{name}={value!r}' for name, value in changes.items())})")
        done = step
    lines += _trained(done, experiment.step)
    return "\n".join([*lines, "run.recording.loads()  # a pandas table: step, layer, expert, load", ""])


def _trained(done: int, step: int) -> list[str]:
    return [f"run.run({step - done})"] if step > done else []


def _setting_defaults(experiment: "Experiment") -> dict[str, Any]:
    from explorer.assembly import SETTINGS

    return {name: knob.default for name, knob in SETTINGS.items() if name not in experiment.spec.knobs}


def _task(task: Any) -> tuple[str, list[str]]:
    """(the expression that makes a task, the imports it needs); a plain one goes by its name."""
    from explorer.tasks import TASKS

    kind = type(task)
    given = {one.name: getattr(task, one.name) for one in fields(task)}
    plain = kind()
    changed = {name: value for name, value in given.items() if value != getattr(plain, name)}
    name = next((name for name, known in TASKS.items() if known is kind), None)
    if name and not changed:
        return repr(name), ["import explorer"]
    texts = changed.pop("texts", None) or ()
    arguments = [f"{name}={value!r}" for name, value in changed.items()]
    imports = ["import explorer", f"from {kind.__module__.rpartition('.')[0]} import {kind.__name__}"]
    if texts:  # the user's own, which lie in files of the user's
        imports.insert(0, "from pathlib import Path\n")
        files = ", ".join(f"{name!r}: Path({name!r}).read_text(encoding='utf-8')" for name, _ in texts)
        arguments.append(f"texts={{{files}}}")
    return f"{kind.__name__}({', '.join(arguments)})", imports
