"""What a server of many pages need not do again for each: compile the templates, and read all that kernels say.

Of a page's half second in the server, jinja took 38 % to compile templates that it had compiled for the page before, and
22 % went into parsing every message of every kernel, only to note when it came.
"""

from functools import cache
from typing import Any

DELIMITER = b"<IDS|MSG>"


def compile_templates_once() -> None:
    """Let all environments of the exporter, which is made anew for each page, share what jinja has compiled."""
    from jinja2.bccache import Bucket, BytecodeCache
    from nbconvert.exporters.templateexporter import TemplateExporter

    class Compiled(BytecodeCache):
        """In memory, by source: a template that was changed is another."""

        def __init__(self) -> None:
            self.code: dict[tuple[str, str], Any] = {}

        def load_bytecode(self, bucket: Bucket) -> None:
            bucket.code = self.code.get((bucket.key, bucket.checksum))

        def dump_bytecode(self, bucket: Bucket) -> None:
            self.code[bucket.key, bucket.checksum] = bucket.code

    exporter: Any = TemplateExporter
    make, compiled = exporter._create_environment, Compiled()

    def with_compiled(self: Any) -> Any:
        environment = make(self)
        environment.bytecode_cache = compiled
        return environment

    exporter._create_environment = with_compiled


def read_only_what_tells(manager: Any) -> None:
    """Let the manager parse only those messages of its kernels that say whether they are busy; the others just count."""
    from jupyter_server._tz import utcnow

    watch = manager.start_watching_activity

    def start(kernel_id: str) -> None:
        watch(kernel_id)
        kernel = manager._kernels[kernel_id]
        record = kernel._activity_stream._recv_callback

        def heard(parts: list[bytes]) -> None:
            if is_status(parts):
                record(parts)
            else:
                manager.last_kernel_activity = kernel.last_activity = utcnow()

        kernel._activity_stream.on_recv(heard)

    manager.start_watching_activity = start


def is_status(parts: list[bytes]) -> bool:
    """Whether the message says that the kernel is busy or idle, or cannot be told apart without being parsed."""
    try:
        return b'"status"' in parts[parts.index(DELIMITER) + 2]
    except (ValueError, IndexError):
        return True


def share_events(app: Any) -> None:
    """Let the managers of all kernels tell their events to one logger, as those of a notebook server do.

    Voila has none. Each manager would then make its own, and python keeps the `logging.Logger` behind it, under a name of
    its own, for as long as the process runs.
    """
    from jupyter_events import EventLogger

    app.event_logger = EventLogger(parent=app)


@cache
def install() -> None:
    """Whatever kind of server this is."""
    compile_templates_once()
