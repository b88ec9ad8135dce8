"""The checkpoint lab in words: what each picture shows and what to look for in it, what to do next, how a trace was made."""

from collections.abc import Mapping
from typing import Any

from widgets.states.checkpoint_trace import duration, size
from widgets.states.checkpoint_view import Scene, Seen

CAPTIONS = {
    "norms": "A router has a row of numbers for each expert; a token goes to the experts whose rows point its way. The longer "
    "the row, the stronger it speaks for or against its expert. Look for cells that stand out from their line: that expert "
    "is called more readily, or avoided.",
    "biases": "This model adds a number to each expert's score. Training raises it for experts that got too few tokens: look "
    "for the experts that needed most help (brown) and those that had to be held back (blue).",
    "cosine": "Do two experts want the same tokens? Brown: their rows in the router point the same way, so they compete for "
    "the same tokens. Blue: what one wants the other avoids. Pale: they have nothing to do with each other. "
    "Where nearly all is brown, the rows share a direction, which decides nothing: compare the shades.",
    "similarity": "Are two experts alike inside? Experts that began as copies of one another stay alike; experts that began "
    "from random numbers look unrelated here even where they do the same work.",
    "sinks_learned": "A learned sink is a number that a head adds to its softmax: attention that it takes goes to no token. "
    "Look for heads whose number is large: they can choose to look at nothing.",
    "map": "A line is a layer, a cell an expert. 1 is its fair share of the tokens. Look for dark brown cells (overworked "
    "experts), blue ones (hardly used; a cross: next to nothing), and whether the layers differ.",
    "spread": "The same in short: how far the busiest and the idlest expert of each layer are from the fair share. "
    "Look for a layer whose bar is much longer than the others'.",
    "specialisation": "Does knowing the expert tell you the domain? Compare each line with the floor that chance alone would "
    "show: only what rises clearly above it is specialisation. Tokens are often told apart far better than domains are.",
    "domains": "Of each domain's tokens, which share goes to which expert? Look for a column that is strong in one domain and "
    "weak in the others: a specialist.",
    "vocabulary": "The tokens that an expert takes more often than its load would explain, the surest first. Look for experts "
    "that collect one kind: blanks, digits, parts of names, punctuation. Rare tokens say little: mind the counts.",
    "company": "Which experts serve the same token together? 1 is chance. Brown pairs come together more often, blue ones "
    "avoid each other.",
    "pairs": "The pairs of all layers that come together most often beyond chance; pairs that met too seldom to tell are left "
    "out. In a short text there may be none.",
    "margins": "How sure was the router? The margin is the lead of the last expert that was chosen over the first that was "
    "not. Tokens near 0 would go elsewhere after the smallest change, by rounding for example.",
    "strip": "Each token has the colour of the expert that took it, in the layer that is chosen. Read the text: is it the "
    "meaning that decides, or the word itself, its place, its punctuation? Click a token to follow it through all layers.",
    "path": "The way of the token you clicked: its strongest expert in each layer, with the others as open circles. Expert "
    "numbers of different layers have nothing to do with each other: look at the weights, and at where it is a close call.",
    "sinks": "Heads that spend their attention on the first token whatever it is (an emergent sink, which nobody asked for), "
    "and heads that have a learned sink and look at no token. Look for heads near 100%.",
    "saturation": "How many of A's choices does B make too? Near the top, the layer's routing was already settled; near the "
    "chance level, the two have nothing in common. Matched: after renumbering B's experts to fit A's as well as can be.",
    "sides": "Both in a few numbers, each from 0 to 1 and a mean over the layers. A larger effective share: more experts do "
    "real work. A larger margin: surer choices. Domain counts only as far as it is above its floor.",
    "difference": "Load of B less that of A, expert by expert. Brown: B uses it more; blue: less. Where experts were matched, "
    "the numbers are A's.",
}

SECTIONS = {
    "load": "Who works: the load of every expert",
    "tokens": "Which expert took which token",
    "domains": "Do experts specialise?",
    "together": "Company and close calls",
    "sinks": "Attention sinks",
}
INTRODUCTION = (
    "In many large language models a layer holds not one network but dozens, its experts, and for every token a small router "
    "picks a few of them. Here you open a trained model and see, with texts of your own, who gets which token. It begins with "
    "a tiny model that comes along: what its files say stands below; press Trace to send some text through it."
)


def advice(seen: Seen | None, opened: Any, scene: Scene | None) -> str:
    """What to do or look at next."""
    if seen is None or scene is None:
        if opened is None:
            return "Choose a model or a recording on the left."
        if opened.checkpoint is None or not opened.report["routers"]:
            return "Nothing in this model routes tokens to experts; what its files say stands below."
        return "Look through what the files say, then press Trace to see where the tokens of some texts go."
    return _of_load(seen) + _of_domains(seen)


def _of_load(seen: Seen) -> str:
    table = seen.utilisation
    worst = table.iloc[int(table["max"].to_numpy().argmax())]
    dead = int(table["dead"].sum())
    said = (
        f"The busiest expert of all is in {seen.names[list(table['layer']).index(worst['layer'])]}, with "
        f"{worst['max']:.1f} times its fair share. "
    )
    if dead:
        said += f"{dead} of {int(table['experts'].sum())} experts got next to nothing of these texts. "
    return said


def _of_domains(seen: Seen) -> str:
    if not seen.has_tokens:
        return "This recording holds counts only: what a single token did is not known."
    if len(seen.domains) < 2:
        return (
            "Give texts of two domains or more, and you see whether experts specialise. Click a token to see its path."
        )
    table = seen.specialisation
    over = (table["domain_nmi"] - table["domain_floor"]).to_numpy()
    if not (over == over).any():
        return "Click a token to see its path."
    best = int(max(range(len(over)), key=lambda i: over[i] if over[i] == over[i] else -1.0))
    nmi, floor = float(table["domain_nmi"].iloc[best]), float(table["domain_floor"].iloc[best])
    if nmi < 1.5 * floor or over[best] < 0.01:
        return "Its experts hardly know the domains apart: what they share is close to what chance would give."
    return (
        f"Experts know the domains best in {seen.names[best]}: the expert tells {nmi:.0%} of the domain, where chance "
        f"would give {floor:.0%}."
    )


def how(trace: Mapping[str, Any]) -> str:
    """How a trace was made: method, layers, time, and what was cut."""
    if not trace:
        return "Recorded elsewhere."
    method = str(trace.get("method", ""))
    ways = {
        "streamed": "Streamed from the files layer by layer, so that the model was never in memory as a whole",
        "transformers": "The whole model ran in transformers",
        "transformers, layers on disk": "The model ran in transformers, with layers on disk, as memory is short: slow",
    }
    said = [ways.get(method, f"Method: {method}") + (f" ({trace['why']})" if trace.get("why") else "") + "."]
    said.append(
        f"{trace.get('tokens', 0):,} tokens, {trace.get('done', 0)} of {trace.get('layers', 0)} routed layers, "
        f"{size(trace.get('bytes_read') or 0)} read, {duration(trace.get('seconds') or 0.0)}."
    )
    if trace.get("cut"):
        said.append("It was stopped: only the finished layers are shown.")
    return " ".join(said)


def facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a checkpoint is, in pairs of a word and its value."""
    found = [("architecture", str(report["architecture"]))]
    if report["routers"]:
        experts = sorted({row["experts"] for row in report["routers"]})
        found += [
            ("layers with experts", f"{len(report['routers'])}"),
            ("experts in each", " or ".join(map(str, experts[:4]))),
            ("experts a token gets", str(report["chosen"] or "not said")),
        ]
    found += [("tensors", f"{report['tensors']:,}"), ("size", size(report["bytes"]))]
    return found
