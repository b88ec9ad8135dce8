"""A trace as the checkpoint lab asks for it: texts of a page as arguments, and a job that can be followed and stopped."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from explorer.errors import BadValue
from widgets.states.checkpoint import MOST_CHARACTERS, MOST_TEXTS, Text
from widgets.states.links import short

if TYPE_CHECKING:
    from explorer.checkpoints.checkpoint import Checkpoint
    from explorer.recording import Recording

NUMBERS = re.compile(r"[\s,;\[\]()]+")
LARGEST_ID = 2**31
NO_ASCII = 127  # the demo's id of every byte that is none of ASCII


@dataclass(frozen=True)
class Request:
    """What is traced: texts or token ids, each of a domain; windows of so many tokens; with attention or without."""

    texts: tuple[Text, ...]
    ids: bool = False
    window: int = 0  # 0: as the model allows, at most 512
    attention: bool = False

    def arguments(self) -> dict[str, Any]:
        """Of Checkpoint.trace; raises where the texts cannot be traced."""
        texts = checked(self.texts)
        what: dict[str, Any] = {"domains": [domain for domain, _ in texts]}
        if self.ids:
            what["tokens"] = [token_ids(text, domain) for domain, text in texts]
        else:
            what["texts"] = [text for _, text in texts]
        return {**what, "window": self.window or None, "attention": self.attention}


def checked(texts: Sequence[Text]) -> list[Text]:
    """Those that are not empty, with domains that have names; at least one and not too much."""
    left = [(domain.strip() or f"text {i}", text) for i, (domain, text) in enumerate(texts, 1) if text.strip()]
    if not left:
        raise BadValue("there is no text to trace: write or paste something into at least one box")
    if len(left) > MOST_TEXTS:
        raise BadValue(f"{len(left)} texts are too many for this page: at most {MOST_TEXTS}")
    if (size := sum(len(text) for _, text in left)) > MOST_CHARACTERS:
        raise BadValue(f"the texts have {size:,} characters, more than the {MOST_CHARACTERS:,} that this page traces")
    return left


def sample_ids(rows: int | None, count: int = 64) -> tuple[Text, ...]:
    """Token ids for a model without a tokenizer: of the first half of its vocabulary, and of the second; always the same."""
    half = max(1, (rows or 1000) // 2)
    # steps that have no divisor with most vocabularies, so that ids hardly repeat
    ids = [[(7 + 613 * i) % half + half * part for i in range(count)] for part in (0, 1)]
    return tuple((name, " ".join(map(str, one))) for name, one in zip(("low ids", "high ids"), ids, strict=True))


def byte_ids(text: str) -> list[int]:
    """As explorer.checkpoints.byte_tokenizer has it."""
    return [min(byte, NO_ASCII) for byte in text.replace("\r\n", "\n").encode("utf-8", "replace")]


def token_ids(text: str, domain: str) -> list[int]:
    """ "1, 2, 3" as numbers; blanks, commas, line ends and brackets may stand between them."""
    words = [word for word in NUMBERS.split(text) if word]
    for word in words:
        if not (word.isascii() and word.isdecimal()) or int(word[:12]) >= LARGEST_ID:
            raise BadValue(
                f"{short(word, 30)!r} in {short(domain)!r} is no token id: write whole numbers, such as 12 7 301"
            )
    if not words:
        raise BadValue(f"{short(domain)!r} holds no token id: write whole numbers, such as 12 7 301")
    return [int(word) for word in words]


@dataclass
class Job:
    """One trace: `run` on a thread, `progress` and `stop` from anywhere."""

    checkpoint: "Checkpoint"
    request: Request
    what: str = ""  # what is traced, for people
    as_bytes: bool = False  # the texts' bytes are the tokens, as the demo's tokenizer has them
    progress: Any = None  # the newest Progress; None before the first
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> "Recording":
        """The recording; of a job that was stopped, with the layers that were finished."""
        arguments = self.request.arguments()
        if self.as_bytes and "texts" in arguments:
            arguments["tokens"] = [byte_ids(text) for text in arguments.pop("texts")]
        recording = self.checkpoint.trace(progress=self._heard, stop=self.stopped.is_set, **arguments)
        if self.as_bytes:
            recording.header["trace"]["vocabulary"] = {
                str(i): chr(i) if i < NO_ASCII else "\ufffd" for i in range(NO_ASCII + 1)
            }
        return recording

    def _heard(self, progress: Any) -> None:
        self.progress = progress

    def stop(self) -> None:
        """End it after the piece under way."""
        self.stopped.set()

    @property
    def share(self) -> float:
        """0..1 of the bytes, else of the layers; 0 before anything is known."""
        one = self.progress
        if one is None:
            return 0.0
        total = (one.bytes_read or 0) + (one.bytes_left or 0)
        done = one.bytes_read / total if total else one.layer / one.layers if one.layers else 0.0
        return min(1.0, max(0.0, float(done)))

    def words(self) -> str:
        """Where it is, what was read, and how long it still takes."""
        one = self.progress
        of = f" {self.what}" if self.what else ""
        if one is None:
            return f"Tracing{of}: preparing."
        said = f"Tracing{of}: layer {min(one.layer + 1, one.layers)} of {one.layers}"
        said += f" ({one.what})" if one.what else ""
        if one.bytes_read:
            said += f", {size(one.bytes_read)} read"
            said += f" of about {size(one.bytes_read + one.bytes_left)}" if one.bytes_left else ""
        if self.stopped.is_set():
            return f"{said}. Stopping after the piece under way."
        left = one.seconds_left
        return said + (f", {duration(left)} left." if left is not None and left == left else ".")


def size(count: float) -> str:
    """Bytes for people."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """For people: "less than a second", "12 s", "3 min", "2 h"."""
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.0f} h"
