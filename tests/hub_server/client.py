"""Points `huggingface_hub` and `transformers` of this process at a server, and back."""

import os
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import huggingface_hub
import transformers.dynamic_module_utils
import transformers.utils.hub
from huggingface_hub import constants

from .server import LOGIN, HubServer


@contextmanager
def pointed_at(server: HubServer, home: str | Path, token: str | None = None):
    """Lets `huggingface_hub` and `transformers`, imported long ago, use this Hub; afterwards all is as before.

    The libraries read the environment when they are imported, so their constants are set besides. The environment is
    set too: the client reads the token from it at every call, and child processes inherit it.

    Args:
        home: stands for `HF_HOME`: cache, modules, tokens.
        token: None: logged out.
    """
    environment = server.settings(home, token)
    paths = ("HF_HOME", "HF_HUB_CACHE", "HF_ASSETS_CACHE", "HF_TOKEN_PATH")
    settings = {
        **{name: environment[name] for name in paths},
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
        "HUGGINGFACE_HUB_CACHE": environment["HF_HUB_CACHE"],
        "HF_STORED_TOKENS_PATH": str(Path(home) / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    modules = environment["HF_MODULES_CACHE"]
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.multiple(
            constants, **{name: value for name, value in settings.items() if hasattr(constants, name)}
        ),
        # the functions of the top level are methods of this object, made when the library was imported
        mock.patch.object(huggingface_hub.hf_api.api, "endpoint", server.endpoint),
        mock.patch.object(transformers.utils.hub, "_hf_api", None, create=True),
        mock.patch.object(transformers.utils.hub, "HF_MODULES_CACHE", modules),
        mock.patch.object(transformers.dynamic_module_utils, "HF_MODULES_CACHE", modules),
    ):
        for name in LOGIN:
            if name not in environment:
                os.environ.pop(name, None)
        huggingface_hub.utils.close_session()  # its connections and proxies are those of before
        try:
            yield
        finally:
            huggingface_hub.utils.close_session()
