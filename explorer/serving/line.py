"""The line before a full room: who waits, in which place, and the page that says so. Nothing here needs a server."""

import time
from collections.abc import Callable

RETRY = 5  # seconds between two tries of the waiting page
GONE = 4 * RETRY  # who has not tried for so long has left the line
LONGEST_LINE = 1000
COOKIE = "gating-explorer-place"
NTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def places_for(people: int) -> int:
    """Kernels for so many people: a few open a second page, and one page ends a moment after the next began."""
    return people + max(2, people // 4)


class Line:
    """Who waits for a place, in the order of arrival."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.places, self.clock = places, clock
        self.seen: dict[str, float] = {}

    def try_to_enter(self, ticket: str, taken: int) -> int:
        """0: come in; else the place in the line, from 1. Who waits longer goes first."""
        now = self.clock()
        self.seen = {one: at for one, at in self.seen.items() if now - at < GONE}
        waiting = list(self.seen)
        ahead = waiting.index(ticket) if ticket in self.seen else len(waiting)
        free = max(0, self.places - taken)
        if ahead < free:
            self.seen.pop(ticket, None)
            return 0
        if len(self.seen) < LONGEST_LINE or ticket in self.seen:
            self.seen[ticket] = now
        return ahead - free + 1


def waiting_page(place: int) -> str:
    """It tries again by itself, without scripts."""
    nth = NTH[place - 1] if place <= len(NTH) else f"number {place}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{RETRY}"><link rel="icon" href="data:;base64,="><title>The room is full</title>
<style>:root {{ color-scheme: light dark; }}
body {{ font: 1.1rem/1.5 system-ui, sans-serif; margin: 15vh auto; max-width: 32rem; padding: 0 1rem; }}</style></head>
<body><main role="status"><h1>The room is full</h1>
<p>You are {nth} in line. This page tries again every {RETRY} seconds; leave it open.</p>
<p>A place becomes free when somebody closes a page.</p></main></body></html>
"""
