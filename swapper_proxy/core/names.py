"""Model names, read as Ollama reads them: `[host/][namespace/]model[:tag]`, case-insensitive, with defaults."""

from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
LONGEST = 600  # of a host, a namespace, a model and a tag, Ollama takes 350, 80, 80 and 80 characters
# Only of ASCII: Ollama knows no other letters, and U+212A in lower case is a plain k.
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def canonical(name: str) -> str:
    """The one spelling of all names that Ollama treats as equal: lower case, defaults dropped, tag always there.

    `Llama3`, `library/llama3` and `registry.ollama.ai/library/llama3:latest` are all `llama3:latest`.
    What Ollama accepts under no spelling (spaces, an empty tag) stays unlike every name it has.
    """
    return name if len(name) > LONGEST else _canonical(name)


@lru_cache(maxsize=4096)
def _canonical(name: str) -> str:
    path, tag = _split_tag(name.translate(_LOWER))
    parts = path.split("/")
    if len(parts) == 3 and parts[0] == DEFAULT_HOST:
        del parts[0]
    if len(parts) == 2 and parts[0] == DEFAULT_NAMESPACE:
        del parts[0]
    return f"{'/'.join(parts)}:{DEFAULT_TAG if tag is None else tag}"


def is_plausible(name: str) -> bool:
    """Whether anything may be called so: what is not never gets into a log, a label or a question to Ollama."""
    return len(name) <= LONGEST and name.isprintable()


def is_cloud(name: str) -> bool:
    """Whether the name says that the model runs elsewhere (`gpt-oss:120b-cloud`, `x:cloud`): nothing to load here."""
    tag = _split_tag(name.translate(_LOWER))[1] or ""
    return tag == "cloud" or tag.endswith("-cloud")


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon before the last slash belongs to the host's port, not to a tag."""
    head, slash, last = name.rpartition("/")
    model, colon, tag = last.partition(":")
    return head + slash + model, tag if colon else None
