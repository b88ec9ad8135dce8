"""What the checkpoint lab computes of texts: the trace of A, and that of B to set beside it; each on a thread."""

from typing import TYPE_CHECKING

from widgets.labs.checkpoint_tracing import Progress
from widgets.labs.checkpoint_work import Work
from widgets.states import checkpoint_sources as sources
from widgets.states.checkpoint import EARLY, TEXTS, Text
from widgets.states.checkpoint_compare import Comparison
from widgets.states.checkpoint_sources import Opened
from widgets.states.checkpoint_trace import Job, Request
from widgets.states.checkpoint_view import Seen
from widgets.states.checkpoint_words import how

if TYPE_CHECKING:
    from widgets.labs.checkpoint import CheckpointLab

TOLD_ABOVE = "the reason stands at the top of the page."


class Runs:
    """One trace at a time; what it found goes to the lab, which shows it."""

    def __init__(self, lab: "CheckpointLab") -> None:
        self.lab, self.work = lab, Work(self._look)
        self.recorded_b = False  # whether B came as a recording
        self._request: Request | None = None  # of A's trace: B gets the same texts
        self._job: Job | None = None
        self._shown: Progress | None = None  # where it is told how far it is

    @property
    def running(self) -> bool:
        """Whether something is traced now."""
        return self.work.running

    def trace(self) -> None:
        """Send the texts through the model; the page stays free."""
        lab, opened = self.lab, self.lab.opened
        if opened is None or opened.checkpoint is None or self.running:
            return
        lab.state.error = None
        request = lab.tracer.request
        request.arguments()  # what is wrong with the texts is said before anything begins
        job = self._job = Job(opened.checkpoint, request, "", opened.as_bytes)

        def done(seen: Seen) -> None:
            self._request, lab.state.traced = request, True
            lab.tracer.progress.say(how(seen.trace))
            lab.beside.forget()
            lab.recorded(seen)
            if lab.state.beside == EARLY or (lab.state.beside not in ("", TEXTS) and sources.is_here(lab.state.beside)):
                lab.safe(lambda: self.compare(lab.state.beside, ()))()

        def failed(error: Exception) -> None:
            lab.fail(error)
            lab.tracer.progress.say(f"Nothing was traced: {TOLD_ABOVE}")
            lab.follow()

        self._shown = lab.tracer.progress
        self._shown.show(job)
        i = lab.state.layer
        self.work.start(lambda: Seen(job.run(), opened.name).prepared(i), done, failed)
        lab.follow()

    def compare(self, given: str, texts: tuple[Text, ...]) -> None:
        """Trace B as A was traced (or A's model with other texts), and set it beside A."""
        lab, a, opened = self.lab, self.lab.seen, self.lab.opened
        if a is None or opened is None or self.running:
            return
        lab.state.error = None
        request = lab.tracer.request_of(texts) if given == TEXTS else self._request or lab.tracer.request
        if given == TEXTS:
            request.arguments()

        def work() -> tuple[Comparison, bool]:
            seen, recorded = self._b(given, opened, request)
            return Comparison(a, seen).prepared(), recorded

        def done(found: tuple[Comparison, bool]) -> None:
            lab.state.beside, (comparison, self.recorded_b) = given, found
            lab.beside.show(comparison)
            lab.follow()

        def failed(error: Exception) -> None:
            lab.fail(error)
            lab.beside.progress.say(f"Nothing was compared: {TOLD_ABOVE}")
            lab.follow()

        self._job, self._shown = None, lab.beside.progress
        self._shown.bar.value = "<p>Reading B …</p>"
        self.work.start(work, done, failed)
        lab.follow()

    def stop(self) -> None:
        """End what is traced after the piece under way; finished layers are kept."""
        if self._job is not None and self.running:
            self._job.stop()
            self._look()

    def forget(self) -> None:
        """What is traced is of no use any more: end it, and hear nothing of it."""
        self.stop()
        self.work.forget()
        self._job = self._request = None

    def _b(self, given: str, opened: Opened, request: Request) -> tuple[Seen, bool]:
        """On the thread: what B is, and whether it came as a recording."""
        if given == TEXTS:
            other, name = opened, f"{opened.name}, other texts"
        else:
            other = sources.open_early() if given == EARLY else sources.open_given(given)
            name = other.name
        if other.recording is not None:
            return Seen(other.recording, name), True
        assert other.checkpoint is not None
        job = self._job = Job(other.checkpoint, request, "B", other.as_bytes)
        return Seen(job.run(), name), False

    def _look(self) -> None:
        if self._job is not None and self._shown is not None:
            self._shown.show(self._job)
