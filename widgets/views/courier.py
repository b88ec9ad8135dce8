"""The courier: an invisible widget that saves a file in the browser and copies a link or a text.

courier = Courier()                        put it anywhere on the page
courier.download("run.csv", content, "text/csv")
courier.copy_link("seed=3&k=2")            then `copied` = {"link": ..., "ok": True, "number": 1}
"""

import os
from typing import Any

import anywidget
import traitlets

from explorer.errors import BadValue
from widgets.views.framed import script

LONGEST_TEXT = 1_000_000  # characters that may be copied


class Courier(anywidget.AnyWidget):
    """What a page hands to its reader's machine; see the top of this file.

    copied = {"link": the link or text, "ok": whether it is on the clipboard now, "number": of the request}: where the
    browser refuses (ok is False), show the link in a field that can be selected.
    """

    _esm = script("save", "courier")
    copied = traitlets.Dict({}, help="the browser's last answer to copy or copy_link; {} before the first")

    def __init__(self, **traits: Any) -> None:
        self._requests = 0
        super().__init__(**traits)
        self.on_msg(self._heard)

    def download(self, name: str, content: bytes, media_type: str = "application/octet-stream") -> None:
        """Let the browser save `content` under `name`."""
        self.send({"kind": "download", "name": name, "media_type": media_type}, buffers=[content])

    def copy_link(self, query: str) -> None:
        """Copy the page's own address with `query` ("a=1&b=2"); `theme` and `large` stay as the page has them."""
        self._ask({"query": query, **_addresses()})

    def copy(self, text: str) -> None:
        """Copy `text`."""
        if len(text) > LONGEST_TEXT:
            raise BadValue(f"a text of {len(text):,} characters is too long to copy; at most {LONGEST_TEXT:,} are")
        self._ask({"text": text})

    def _ask(self, what: dict[str, Any]) -> None:
        self._requests += 1
        self.send({"kind": "copy", "request": self._requests, **what})

    def _heard(self, _widget: Any, content: Any, _buffers: list[Any]) -> None:
        """The page's answer; anything else is ignored, and so is a late answer to an older request."""
        if not isinstance(content, dict) or content.get("kind") != "copied" or content.get("request") != self._requests:
            return
        link, ok = str(content.get("link"))[:LONGEST_TEXT], content.get("ok") is True
        self.copied = {"link": link, "ok": ok, "number": self._requests}


def _addresses() -> dict[str, str]:
    """Where this user's pages are on a JupyterHub, and where everybody finds their own; nothing elsewhere.

    Nor on a Binder, which is a hub that nobody can log in to.
    """
    own, host = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", ""), os.environ.get("JUPYTERHUB_HOST", "")
    if not own or os.environ.get("BINDER_LAUNCH_HOST"):
        return {}
    return {"own": own, "shared": f"{host}{os.environ.get('JUPYTERHUB_BASE_URL', '/')}hub/user-redirect/"}
