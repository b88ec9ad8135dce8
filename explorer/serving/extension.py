"""The pages inside a Jupyter server that runs anyway, as on Binder or a JupyterHub: a server extension around Voila's.

All that it needs is "explorer.serving.extension": true among the server's jpserver_extensions (binder/jupyter_server.json);
a page is then at BASE_URL/voila/render/PATH.ipynb, with the settings of voila.json. What the server's own configuration
says wins.
"""

import json
import os
from pathlib import Path
from typing import Any

from explorer.serving import environment, on_hub
from explorer.serving.server import (
    CONNECTION,
    PLOTLY_URL,
    keep_runs,
    let_pages_say_goodbye,
    plotly_handler,
    plotly_url,
    read_any_link,
)

HERE = Path(__file__).resolve().parent


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "explorer.serving.extension"}]


def _link_jupyter_server_extension(app: Any) -> None:
    """Called before the server makes its kernel manager and before Voila's extension looks for its template."""
    from traitlets.config import Config

    os.environ.update(environment())
    settings = Config(configuration() | on_hub.settings())
    # with a gateway, kernels run elsewhere and have connections of their own kind
    if not (app.config.GatewayClient.get("url") or os.environ.get("JUPYTER_GATEWAY_URL")):
        settings.ServerApp.kernel_websocket_connection_class = CONNECTION
    settings.merge(app.config)
    app.update_config(settings)


def _load_jupyter_server_extension(app: Any) -> None:
    """Kernels inherit the environment, and with it the address of plotly's bundle on this server."""
    from explorer.serving import answers, watch

    let_pages_say_goodbye()
    read_any_link()
    keep_runs()
    os.environ[PLOTLY_URL] = plotly_url("voila", app.base_url)
    pages = watch.Watch()
    pages.open(app.kernel_manager)
    watch.begin_to_log(app.log.getEffectiveLevel())
    app.web_app.add_handlers(".*$", [plotly_handler(app.base_url), *answers.handlers(pages, app.base_url)])
    # formulas by what Voila itself brings, as in its own server: unset, pages ask a content network
    app.web_app.settings |= {"mathjax_url": None, "mathjax_config": None}
    on_hub.begin(app)


def configuration() -> dict[str, Any]:
    """voila.json, as a server that is not Voila's own takes it."""
    settings: dict[str, Any] = json.loads((HERE / "voila.json").read_text())
    standalone = settings.pop("Voila")
    return settings | {"ServerApp": {"tornado_settings": standalone["tornado_settings"]}}
