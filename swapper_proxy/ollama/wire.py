"""What Ollama says about itself, as far as the proxy reads it."""

from typing import Any

import msgspec

from swapper_proxy.core.types import RUNNER_OPTIONS, RunnerOption

# Of layers, heads, widths and tokens of context no model has more.
MOST = 1 << 30


class TagEntry(msgspec.Struct):
    """A line of /api/tags; `size` is bytes on disk, `remote_host` is set for models that run elsewhere."""

    name: str
    size: int = 0
    digest: str = ""
    modified_at: str = ""
    remote_host: str = ""


class Tags(msgspec.Struct):
    models: list[TagEntry] | None


class PsEntry(msgspec.Struct):
    """A line of /api/ps; sizes are bytes, `size_vram` the part on the GPU."""

    name: str
    size: int = 0
    size_vram: int = 0
    digest: str = ""


class Ps(msgspec.Struct):
    models: list[PsEntry] | None


class Version(msgspec.Struct):
    version: str


class Show(msgspec.Struct):
    """/api/show of one model."""

    modelfile: str = ""
    parameters: str = ""
    modified_at: str = ""
    capabilities: list[str] | None = None
    remote_host: str = ""
    model_info: Any = None

    @property
    def context(self) -> tuple[int, int]:
        """Bytes of memory for a token of context and the longest context of the model; 0: unknown.

        As Ollama 0.9.3 reckons (fs/ggml, GraphSize): keys and values of 2 bytes in every layer, and the attention of a
        batch of 512 tokens in 4 bytes.  Newer ones may take less for the second.
        """
        info = self.model_info if isinstance(self.model_info, dict) else {}
        prefix = f"{info.get('general.architecture')}."
        layers, width, heads, longest = (
            _number(info.get(prefix + name))
            for name in ("block_count", "embedding_length", "attention.head_count", "context_length")
        )
        by_layer = info.get(prefix + "attention.head_count_kv", heads)
        by_layer = [_number(n) for n in by_layer] if isinstance(by_layer, list) else [_number(by_layer)] * layers
        key = _number(info.get(prefix + "attention.key_length")) or width // max(1, heads)
        value = _number(info.get(prefix + "attention.value_length")) or key
        if not (by_layer and heads and key):
            return 0, longest
        return 2 * sum(by_layer) * (key + value) + 4 * (512 * (1 + heads) + key * max(by_layer)), longest

    @property
    def runner(self) -> str:
        """Weights, adapters and projectors: what identifies a runner.  Empty if the modelfile names none."""
        lines = (line.split(maxsplit=1) for line in self.modelfile.splitlines())
        parts = [words[1] for words in lines if len(words) == 2 and words[0] in ("FROM", "ADAPTER")]
        return " ".join(part.rpartition("/")[2].rpartition("\\")[2] for part in parts)

    @property
    def runner_options(self) -> dict[str, RunnerOption]:
        """The PARAMETERs of the Modelfile that decide about reloads."""
        found: dict[str, RunnerOption] = {}
        for line in self.parameters.splitlines():
            name, _, text = line.partition(" ")
            if name in RUNNER_OPTIONS:
                found[name] = _option(text.strip())
        return found


def _option(text: str) -> RunnerOption:
    if text in ("true", "false"):
        return text == "true"
    return int(float(text))


def _number(value: object) -> int:
    """A count of a plausible size; 0 for anything else.  A list of counts, one for each layer: the largest."""
    if isinstance(value, list):
        return max(map(_number, value), default=0)
    return value if isinstance(value, int) and 0 <= value <= MOST else 0
