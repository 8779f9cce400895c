"""docs/configuration.md, written from the typed settings: `make docs`.

Keys, types, ranges and defaults are read from the settings; what a key means stands here, once.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, get_type_hints

import msgspec

from swapper_proxy.config.kinds import words
from swapper_proxy.config.loading import ENVIRONMENT, NUM_PARALLEL
from swapper_proxy.config.settings import (
    LOCAL_ORIGINS,
    NOT_IN_FILES,
    ClientKey,
    ManagementKey,
    Model,
    Route,
    Section,
    Settings,
)

# What stands under names that the operator chooses.
NAMED: dict[str, type[Section]] = {
    "models": Model,
    "routes": Route,
    "keys.clients": ClientKey,
    "keys.management": ManagementKey,
}

MEANINGS = {
    "server.host": "address to listen on; `0.0.0.0`: to be reached from other machines",
    "server.port": "port to listen on; 0: any that is free",
    "server.max_body_bytes": "largest body of a request that names a model to load; larger ones get 413",
    "server.max_buffered_bytes": "all such bodies together; then 503",
    "server.max_connections": "of clients at once; more close those idle for longest, or get 503",
    "server.header_timeout": "seconds until the head of a request is there, from the connection or the previous answer",
    "server.body_idle_timeout": "seconds without a byte of a body that is not complete; then 408",
    "server.write_timeout": "seconds in which a client takes nothing of its answer; then its connection is closed",
    "server.shutdown_grace": "seconds for answers to end at shutdown",
    "server.cors_origins": "web pages that may use the proxy (patterns)",
    "server.allowed_hosts": "further Host names for load and unload",
    "server.trusted_proxies": "networks whose `X-Forwarded-For` and `X-Forwarded-Host` are believed",
    "server.read_only": "true: clients may not pull, push, create, copy, delete or alias models, send blobs, sign out",
    "upstream.url": "Ollama; a user and a password may stand before the host: `https://user:password@host`",
    "upstream.headers": "what each request to it carries: `{Authorization: {env: VARIABLE}}`, `{file: PATH}` or a text",
    "upstream.ca_file": "with `https://`: the file of the authorities that are trusted, instead of the system's (PEM)",
    "upstream.verify": "false: any certificate is taken, which protects from nobody on the way",
    "upstream.connect_timeout": "seconds to connect to Ollama",
    "upstream.first_byte_timeout": "seconds for an answer to begin, prompt included; then 504, and another load",
    "upstream.idle_timeout": "seconds without a byte in such an answer; then it is broken off (none: `null`)",
    "upstream.grace": "seconds that requests wait for an Ollama that went away",
    "swapper.mode": "one model in memory, or several",
    "swapper.max_concurrent_models": "models in memory in `multi-active`",
    "swapper.memory_budget_gb": "memory for all models, in both modes; a model that alone is larger is refused",
    "swapper.slots": "room beside the others for models of a type: `{embedding: 1}`",
    "swapper.model_swap_timeout": "seconds that a request waits for unload and load, from their begin; then 504",
    "swapper.gpu_enabled": "false: models are loaded with `num_gpu: 0`",
    "swapper.metal_acceleration": "the same switch, as the old Swapper service called it for Macs",
    "swapper.default_model": "loaded at start; a key under `models`",
    "swapper.default_after": "seconds in which nobody wants anything, after which `default_model` is loaded again",
    "swapper.keep_alive": "where the client gives none: seconds, or a duration like `30m`",
    "swapper.ignore_client_keep_alive": "true: the client's value is not used, and `ollama stop` is 403",
    "swapper.parallel": "requests sent to one model at once",
    "swapper.unlisted_models": "`deny`: only what is listed under `models`",
    "swapper.expose_aliases": "true: list the keys under `models` and `routes` where Ollama lists its models",
    "swapper.max_wait.high": "seconds that a request of priority `high` waits before it may force a swap",
    "swapper.max_wait.medium": "the same for `medium`",
    "swapper.max_wait.low": "the same for `low`",
    "swapper.priority_header": "what `X-Swapper-Priority` may do: nothing, only lower, anything",
    "swapper.max_queue": "requests that may wait; then 503",
    "swapper.queue_timeout": "seconds that a request may wait for its turn; then 504",
    "swapper.drain_timeout": "seconds that a forced swap waits for the answers of what has to go; then 504",
    "swapper.unload_settle": "seconds until GPU memory is back after an unload",
    "swapper.unload_timeout": "seconds for an unload",
    "swapper.load_stall_timeout": "seconds after which a load is given up",
    "models.NAME.path": "`ollama:` and the Ollama name, as in `ollama:llama3.2:3b`",
    "models.NAME.type": "free text, for `slots`; `embedding` also tells the simulator",
    "models.NAME.size_gb": "memory that it takes; a request's larger `num_ctx` adds to it; also for the swap timeout",
    "models.NAME.priority": "how patient its requests are, see `max_wait`",
    "models.NAME.parallel": "requests sent to this model at once",
    "models.NAME.pinned": "true: loaded at start, never unloaded by the proxy",
    "models.NAME.preload": "true: loaded at start",
    "models.NAME.keep_alive": "for this model",
    "models.NAME.max_queue": "requests that may wait for this model; then 503",
    "models.NAME.runner_options.policy": "options that reload a model: left as they are, set to those below, removed",
    "models.NAME.runner_options.num_ctx": "with `pin` only, like those below: length of the context in tokens",
    "models.NAME.runner_options.num_batch": "tokens of a prompt that are read at once",
    "models.NAME.runner_options.num_gpu": "layers on the GPU; -1: as Ollama sees fit",
    "models.NAME.runner_options.main_gpu": "number of the first GPU",
    "models.NAME.runner_options.use_mmap": "whether the file of the weights is mapped into memory",
    "models.NAME.runner_options.num_thread": "threads; 0: as Ollama sees fit",
    "models.NAME.runner_options.draft_num_predict": "tokens that a draft model guesses ahead",
    "routes.NAME.model": "of each rule: the model that it chooses, or a list of equals",
    "routes.NAME.has_images": "condition: whether the request has images",
    "routes.NAME.has_tools": "condition: whether it offers tools",
    "routes.NAME.is_embedding": "condition: whether it is for an embedding",
    "routes.NAME.longer_than": "condition: more characters of text than this",
    "metrics.default_format": "what `/metrics` answers to who accepts anything; `json`: as the old service did",
    "history.path": "file of the history: requests (no contents), swaps, states, problems; `history: off` keeps none",
    "history.days": "what is older is dropped",
    "history.max_mb": "the oldest is dropped while the file takes more",
    "keys.clients.NAME.key": "the key itself; of `key`, `key_sha256`, `key_env` and `key_file` exactly one is given",
    "keys.clients.NAME.key_sha256": "its SHA-256 in hexadecimal digits, as `swapper-proxy hash-key` prints it",
    "keys.clients.NAME.key_env": "the environment variable that holds it",
    "keys.clients.NAME.key_file": "the file that holds it, read with the configuration",
    "keys.clients.NAME.models": "its models: names, or patterns like `team/*`, where `*` fits no `/`; else 403",
    "keys.clients.NAME.max_priority": "its requests have no higher one, whatever the model's is",
    "keys.clients.NAME.concurrent": "its requests at once, with those that wait; then 429",
    "keys.clients.NAME.queued": "of these, how many may wait for their model; then 429",
    "keys.clients.NAME.per_minute": "its requests in a minute, all at once or spread; then 429",
    "keys.management.NAME.key": "as for clients, like the next three",
    "keys.management.NAME.key_sha256": "its SHA-256",
    "keys.management.NAME.key_env": "the variable that holds it",
    "keys.management.NAME.key_file": "the file that holds it",
    "keys.management.NAME.read_only": "true: it shows everything and changes nothing; then 403",
    "logging.level": "the least important lines that are shown",
    "logging.format": "`json`: an object a line",
}

# Defaults that are worked out, or too long for a table.
DEFAULTS = {
    "server.cors_origins": "pages of this machine and desktop applications, as in Ollama",
    "swapper.max_concurrent_models": "1; no limit with `memory_budget_gb`",
    "swapper.model_swap_timeout": "30 + 2 per GB of the model",
    "swapper.keep_alive": "Ollama's own timer",
    "swapper.parallel": "`OLLAMA_NUM_PARALLEL`, else 4",
    "history.path": "`swapper-proxy/history.sqlite` in `$XDG_STATE_HOME`, else in `~/.local/state`",
    "models.NAME.size_gb": "as measured with these options, or foreseen",
    "models.NAME.parallel": "`swapper.parallel`",
    "models.NAME.keep_alive": "`swapper.keep_alive`",
    "keys.clients.NAME.models": "all",
    "keys.clients.NAME.concurrent": "no limit",
    "keys.clients.NAME.queued": "no limit",
    "keys.clients.NAME.per_minute": "no limit",
}

HEAD = """# Configuration

Written from the settings by `make docs`; do not edit.

The YAML file stands below the environment, and that below the command line. Unknown keys, wrong types and values out of
range stop the start with a line for each, which names the file, the key and what was expected; so do contradictions.
Merge keys (`<<: *name`) work; a top-level key that begins with `x-` is ignored, so that it can hold what they merge.
`swapper-proxy check-config` says the same, and warns of what can surprise. The file is what `--config` names, else what
`SWAPPER_CONFIG_PATH` names, else `config/swapper_config.yaml` if it exists."""


class Key(NamedTuple):
    """One key of the file: its path, its type as written in Python, its default (NODEFAULT if it is required)."""

    path: str
    kind: Any
    default: Any


def all_keys() -> Iterator[Key]:
    """All keys, in the order of the settings."""
    for field in msgspec.structs.fields(Settings):
        if named := [path for path in NAMED if path.partition(".")[0] == field.name]:
            for path in named:
                yield from _keys_of(f"{path}.NAME", NAMED[path])
        elif field.name not in NOT_IN_FILES:
            yield from _keys_of(field.name, field.type)


def _keys_of(section: str, struct: type) -> Iterator[Key]:
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        path, kind = f"{section}.{field.name}", hints[field.name]
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _keys_of(path, kind)
        else:
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            yield Key(path, kind, default)


def _default(key: Key) -> str:
    if key.path in DEFAULTS:
        return DEFAULTS[key.path]
    if key.default is msgspec.NODEFAULT:
        return "required"
    if key.default in (None, (), {}):
        return "none"
    written = str(key.default)
    return f"`{written.lower() if isinstance(key.default, bool) else written.removesuffix('.0')}`"


def page() -> str:
    """The whole document."""
    lines, section = [HEAD], ""
    for key in all_keys():
        if section != (section := key.path.partition(".")[0]):
            lines += [f"\n## {section}\n", "| Key | Takes | Default | Meaning |", "|---|---|---|---|"]
        lines.append(f"| `{key.path}` | {words(key.kind).strip()} | {_default(key)} | {MEANINGS[key.path]} |")
    lines += ["\n## Lists\n", f"`server.cors_origins` by default: {', '.join(f'`{o}`' for o in LOCAL_ORIGINS)}."]
    lines += ["\n## Environment\n", "| Variable | Key |", "|---|---|", "| `SWAPPER_CONFIG_PATH` | the file |"]
    lines += [f"| `{variable}` | `{'.'.join(path)}` |" for variable, path in ENVIRONMENT.items()]
    lines.append(f"| `{NUM_PARALLEL}` | `swapper.parallel`, where that is not set; 0 counts as not given |")
    lines.append(
        "| `SWAPPER_URL` | the proxy that `health`, `status`, `models`, `queue`, `load` and `unload` talk to |"
    )
    lines.append("| `SWAPPER_KEY` | the management key that they send |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
