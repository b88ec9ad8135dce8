"""A checkpoint on a server, read by HTTP range requests: the hub's, or any address below which the files lie."""

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from explorer.checkpoints.files import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
SECONDS = 30  # without a byte from the server
INSTALL = "pip install 'gating-explorer[checkpoints]'"


class Remote:
    """Files of a server. Of a hub's repository, all pieces are of the one commit that the first answer named."""

    at_once: ClassVar[int] = 8

    def __init__(self, given: str) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import utils
        except ImportError as error:
            raise CheckpointError(f"reading {given!r} from a server needs huggingface_hub: {INSTALL}") from error
        self.name, self._hub, self._utils = repr(given), huggingface_hub, utils
        self._repo, _, self._revision = given.partition("@")
        self._base = given.rstrip("/") + "/" if "://" in given else ""
        self.only: str | None = None
        if self._base and given.endswith(".safetensors"):
            self._base, _, self.only = given.rpartition("/")
            self._base += "/"
        self._lock, self._sizes = threading.Lock(), dict[str, int | None]()

    def names(self) -> list[str] | None:
        """Nobody can say without asking for a list, and a plain server has none."""
        return None

    def size(self, file: str) -> int | None:
        """Of one byte that is asked for, the answer tells the size of the whole."""
        if file not in self._sizes:
            with self._asked(file, 0, 0) as answer:
                size = None if answer is None else _total(answer, self._of(file))
            with self._lock:
                self._sizes[file] = size
        return self._sizes[file]

    def read(self, file: str, start: int, end: int) -> bytearray:
        """Bytes start..end, and never more than that, whatever the server sends."""
        data = bytearray()
        if end == start:
            return data
        with self._asked(file, start, end - 1) as answer:
            if answer is None:
                raise CheckpointError(f"{self._of(file)} is not there any more")
            _total(answer, self._of(file), start, end)
            for piece in _pieces(answer):
                data += piece
                if len(data) > end - start:
                    break
        if len(data) != end - start:
            raise CheckpointError(f"{self._of(file)}: asked for {end - start:,} bytes, the server sent another number")
        return data

    def soon(self, pieces: Iterable[tuple[str, int, int]]) -> None:
        """A server has no use for hints."""

    def in_cache(self, file: str) -> Path | None:
        """Where the hub's own cache holds a file of the repository."""
        if self._base:
            return None
        found = self._hub.try_to_load_from_cache(self._repo, file, revision=self._revision or None)
        return Path(found) if isinstance(found, str) else None

    def _of(self, file: str) -> str:
        return f"{file} of {self.name}"

    def _address(self, file: str) -> str:
        if self._base:
            return self._base + file
        return str(self._hub.hf_hub_url(self._repo, file, revision=self._revision or None))

    @contextmanager
    def _asked(self, file: str, first: int, last: int) -> Iterator[Any]:
        """The answer to one request, None where there is no such file; whatever goes wrong is one sentence."""
        headers = {} if self._base else self._utils.build_hf_headers()
        headers |= {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        try:
            with _get(self._utils.get_session(), self._address(file), headers) as answer:
                yield self._there(file, answer)
        except CheckpointError:
            raise
        except Exception as error:  # of whichever library the hub's client is built on
            first_line = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise CheckpointError(f"{self._of(file)} cannot be read from its server: {first_line}") from error

    def _there(self, file: str, answer: Any) -> Any | None:
        """The answer, None where it says that there is no such file; a missing repository is no missing file."""
        if answer.headers.get("x-error-code") == "RepoNotFound":
            raise CheckpointError(f"the hub has no repository {self.name}, or none that you may read")
        if answer.status_code not in (200, 206, 404, 416):
            raise CheckpointError(f"{self._of(file)}: {_refusal(answer.status_code)}")
        self._pin(answer.headers.get("x-repo-commit", ""))
        return None if answer.status_code == 404 else answer

    def _pin(self, commit: str) -> None:
        with self._lock:
            if re.fullmatch("[0-9a-f]{40}", commit):
                self._revision = commit


def _refusal(code: int) -> str:
    if code in (401, 403):
        return f"the server wants to know who asks (HTTP {code}): log in with `hf auth login`, or check the name"
    return f"the server answers HTTP {code}"


def _total(answer: Any, of: str, start: int = 0, end: int | None = None) -> int:
    """Bytes of the whole file, from the answer to a request for a part; an empty file has no part to ask for."""
    told = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", answer.headers.get("content-range", ""))
    if answer.status_code == 416 and told and told[3] == "0":
        return 0
    if answer.status_code != 206 or not told or told[1] is None:
        raise CheckpointError(
            f"{of}: its server does not answer range requests, so that only all of it could be fetched"
        )
    if int(told[1]) != start or (end is not None and int(told[2]) != end - 1):
        raise CheckpointError(f"{of}: the server sent another part than the one that was asked for")
    return int(told[3])


def _get(session: Any, address: str, headers: dict[str, str]) -> Any:
    """The hub's client is httpx since its version 1, and was requests before."""
    if hasattr(session, "stream") and callable(session.stream):
        return session.stream("GET", address, headers=headers, follow_redirects=True, timeout=SECONDS)
    return session.get(address, headers=headers, stream=True, timeout=SECONDS)


def _pieces(answer: Any) -> Iterator[bytes]:
    return answer.iter_bytes(1 << 16) if hasattr(answer, "iter_bytes") else answer.iter_content(1 << 16)


def there(given: str) -> Remote:
    """The checkpoint at an address or under a hub id; nothing is asked of its server yet."""
    if not re.match("https?://", given) and not HUB_ID.fullmatch(given):
        shown = given if len(given) <= 200 else given[:199] + "…"
        raise CheckpointError(
            f"there is nothing at {shown!r}: give a folder, a .safetensors file, a hub id or an address"
        )
    return Remote(given)
