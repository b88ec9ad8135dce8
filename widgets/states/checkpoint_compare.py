"""Two recordings beside each other in the checkpoint lab: a model and another, or two sets of texts."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.errors import ExplorerError
from widgets.states.checkpoint_view import Seen

if TYPE_CHECKING:
    import pandas as pd


class Comparison:
    """A and B; `why` says what keeps their layers from being compared, "" where nothing does."""

    def __init__(self, a: Seen, b: Seen) -> None:
        self.a, self.b, self.why = a, b, ""
        self.table: pd.DataFrame | None = None
        from explorer.analyses import differences

        try:
            self.table = differences.difference(a.recording, b.recording)
        except ExplorerError as error:
            self.why = f"{error}."
        self.sides = differences.side_by_side({a.name: a.recording, self.name_b: b.recording})

    def prepared(self) -> "Comparison":
        """With what takes long computed already: for a thread."""
        self.loads, self.partners  # noqa: B018
        return self

    @property
    def name_b(self) -> str:
        """B's; never A's."""
        return self.b.name if self.b.name != self.a.name else f"{self.b.name} (B)"

    @property
    def same_tokens(self) -> bool:
        """Whether both saw the same tokens, so that their choices can be compared one by one."""
        return self.table is not None and bool(self.table["same_tokens"].all())

    @cached_property
    def partners(self) -> np.ndarray | None:
        """(L, E) the expert of B that stands for each of A, -1: none; None where the numbers are kept."""
        from explorer.analyses import differences

        if not self.same_tokens:
            return None
        rows = []
        for a, b in zip(self.a.layers, self.b.layers, strict=True):
            rows.append(differences.matching(self.a.recording, self.b.recording, a, b).permutation.numpy())
        E = max(map(len, rows))
        return np.stack([np.concatenate([row, np.full(E - len(row), -1)]) for row in rows])

    @cached_property
    def loads(self) -> tuple[np.ndarray, np.ndarray]:
        """(L, E) of both."""
        return self.a.load(), self.b.load()

    def words(self) -> str:
        """What was found, in a sentence or two."""
        if self.table is None:
            return f"Their layers cannot be paired: {self.why}"
        names = self.a.names
        moved = self.table["moved"].to_numpy()
        most = int(np.nanargmax(moved)) if np.isfinite(moved).any() else -1
        said = f"A is {self.a.name}, B is {self.name_b}. "
        if self.same_tokens:
            kept, agree, chance = (float(self.table[one].mean()) for one in ("saturation", "agreement", "chance"))
            said += f"Both saw the same tokens: B makes {kept:.0%} of A's choices too"
            said += f" (chance alone would give {chance:.0%}), and {agree:.0%} with its experts renumbered. "
        else:
            said += "They saw different tokens, so only the loads are compared, expert by number. "
        if most >= 0:
            where = names[most]
            said += f"The load moved most in {where}: {moved[most]:.0%} of it went to other experts"
            largest = int(self.table["largest"].iloc[most])
            said += f", most of all at expert {largest}." if largest >= 0 else "."
        return said

    def rows(self) -> list[dict[str, Any]]:
        """The table for the page, layers by their names."""
        if self.table is None:
            return []
        found: list[dict[str, Any]] = self.table.to_dict("records")
        return [{**row, "layer": name} for row, name in zip(found, self.a.names, strict=True)]
