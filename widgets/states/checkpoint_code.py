"""The lines of Python that give what the checkpoint lab shows."""

from pathlib import Path

from widgets.states.checkpoint import EARLY, TEXTS, CheckpointState
from widgets.states.checkpoint_sources import reader

DEMO = "demo.folder()"
EARLY_DEMO = "demo.early()"


def script(
    state: CheckpointState, layer: int, recording: bool = False, beside: str = "", is_recording_b: bool = False
) -> str:
    """layer: the one that is looked at. recording: what is open is one, and no checkpoint.

    beside: what it is compared with; "": nothing.
    """
    demo = not state.given or beside == EARLY or not state.own
    lines = ["import explorer", "from explorer.analyses import differences, domains, routes, sinks"]
    lines += ["from explorer import demo"] if demo and not recording else []
    if recording:
        lines += ["", f"a = {_read(state.given)}"]
    else:
        where = repr(state.given) if state.given else DEMO
        lines += ["", f"checkpoint = explorer.open_checkpoint({where})", "print(checkpoint.rule)", "checkpoint.routers"]
        lines += ["", *_texts(state), f"a = checkpoint.trace({_arguments(state)})"]
    lines += [
        "", "layer = a.layers()[" + str(layer) + "]", "routes.load_map(a)", "routes.utilisation(a)",
        "domains.specialisation(a)", "domains.vocabulary(a, layer)", "routes.company(a, layer)",
        "a.decisions()  # every token, layer and slot",
    ]  # fmt: skip
    if state.attention:
        lines += ["sinks.sinks(a)"]
    lines += _beside(state, beside, is_recording_b)
    lines += ["", 'a.save("trace.safetensors")']
    return "\n".join(lines) + "\n"


def _texts(state: CheckpointState) -> list[str]:
    if not state.own:
        return ["names, texts = zip(*demo.samples().items())"]
    what = "[[12, 7, 301], [5, 9]]" if state.ids else '["one text", "another"]'
    names = [domain for domain, text in state.texts if text.strip()]
    return [f"names, texts = {names!r}, {what}  # yours: the texts are not written here"]


def _arguments(state: CheckpointState) -> str:
    what = "tokens=list(texts)" if state.ids else "list(texts)"
    what += ", domains=list(names)" + (f", window={state.window}" if state.window else "")
    return what + (", attention=True" if state.attention else "")


def _beside(state: CheckpointState, beside: str, is_recording: bool) -> list[str]:
    if not beside:
        return []
    if beside == TEXTS:
        made = ["b = checkpoint.trace(['other texts'], domains=['other'])"]
    elif is_recording:
        made = [f"b = {_read(beside)}"]
    else:
        where = EARLY_DEMO if beside == EARLY else repr(beside)
        made = [f"other = explorer.open_checkpoint({where})", f"b = other.trace({_arguments(state)})"]
    return ["", *made, "differences.difference(a, b)"]


def _read(path: str) -> str:
    return f"explorer.Recording.{reader(Path(path).expanduser()) or 'load'}({path!r})"
