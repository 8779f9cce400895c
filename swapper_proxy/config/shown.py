"""The settings as people may see them."""

import msgspec

from swapper_proxy.config import keys, upstream
from swapper_proxy.config.settings import Settings


def shown(settings: Settings) -> Settings:
    """Return the settings without what tells a key, and without the credentials for Ollama."""
    hidden = {"keys": keys.hidden(settings.keys), "upstream": upstream.hidden(settings.upstream)}
    return msgspec.structs.replace(settings, **hidden)
