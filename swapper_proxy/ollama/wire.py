"""What Ollama says about itself, as far as the proxy reads it."""

import msgspec

from swapper_proxy.core.types import RUNNER_OPTIONS, RunnerOption


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
    """A line of /api/ps; sizes are bytes, `size_vram` the part on the GPU, `expires_at` is only compared."""

    name: str
    size: int = 0
    size_vram: int = 0
    digest: str = ""
    expires_at: msgspec.Raw = msgspec.Raw()


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
