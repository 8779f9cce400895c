"""Model names, read as Ollama reads them: `[host/][namespace/]model[:tag]`, case-insensitive, with defaults."""

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"


def canonical(name: str) -> str:
    """The one spelling of all names that Ollama treats as equal: lower case, defaults dropped, tag always there.

    `Llama3`, `library/llama3` and `registry.ollama.ai/library/llama3:latest` are all `llama3:latest`.
    """
    path, tag = _split_tag(name.strip().lower())
    parts = path.split("/")
    if len(parts) == 3 and parts[0] == DEFAULT_HOST:
        del parts[0]
    if len(parts) == 2 and parts[0] == DEFAULT_NAMESPACE:
        del parts[0]
    return f"{'/'.join(parts)}:{tag or DEFAULT_TAG}"


def is_cloud(name: str) -> bool:
    """Whether the name says that the model runs elsewhere (`gpt-oss:120b-cloud`, `x:cloud`): nothing to load here."""
    tag = _split_tag(name.strip().lower())[1]
    return tag == "cloud" or tag.endswith("-cloud")


def _split_tag(name: str) -> tuple[str, str]:
    """A colon before the last slash belongs to the host's port, not to a tag."""
    head, slash, last = name.rpartition("/")
    model, _, tag = last.partition(":")
    return head + slash + model, tag
