"""Model options: their types, and the runner options that decide whether a loaded model can serve a request."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from swapper_proxy.ollama.simulator.requests import RefusalError

Value = object

_INTEGERS = (
    *("main_gpu", "num_batch", "num_ctx", "num_gpu", "num_keep", "num_predict", "num_thread"),
    *("repeat_last_n", "seed", "top_k"),
)
_FLOATS = (
    *("frequency_penalty", "min_p", "presence_penalty", "repeat_penalty"),
    *("temperature", "top_p", "typical_p"),
)
_TYPES = {
    **dict.fromkeys(_INTEGERS, "integer"),
    **dict.fromkeys(_FLOATS, "float32"),
    "use_mmap": "boolean",
    "stop": "array",
}


@dataclass(frozen=True)
class RunnerOptions:
    """What a runner is started with; another value of any of these is another start."""

    num_ctx: int = 4096
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int = 0
    use_mmap: bool | None = None
    num_thread: int = 0

    def serves(self, wanted: "RunnerOptions") -> bool:
        """Whether a runner started with these can take a request that wants those: no `num_gpu` takes any."""
        if wanted.num_gpu < 0:
            wanted = replace(wanted, num_gpu=self.num_gpu)
        return self == wanted


@dataclass(frozen=True)
class Options:
    """What a request runs with."""

    runner: RunnerOptions
    num_predict: int


_RUNNER_FIELDS = frozenset(RunnerOptions.__dataclass_fields__)


def effective(*layers: Mapping[str, Value]) -> Options:
    """The defaults, then the Modelfile's parameters, then the request's.  Raises RefusalError (500) on a wrong type."""
    merged: dict[str, Value] = {}
    for layer in layers:
        for name, value in layer.items():
            if name in _TYPES and value is not None:
                merged[name] = _checked(name, value)
    predict = merged.get("num_predict", -1)
    wanted = {name: value for name, value in merged.items() if name in _RUNNER_FIELDS}
    runner = RunnerOptions(**wanted)  # type: ignore[arg-type]
    return Options(replace(runner, num_ctx=max(runner.num_ctx, 4)), predict if isinstance(predict, int) else -1)


def _checked(name: str, value: Value) -> Value:
    expected = _TYPES[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if expected == "integer" and number:
        return int(value)  # type: ignore[call-overload]
    if (expected == "float32" and number) or (expected == "boolean" and isinstance(value, bool)):
        return value
    if expected == "array" and isinstance(value, list):
        expected = "an array of strings"
        if all(isinstance(item, str) for item in value):
            return value
    raise RefusalError(500, f'option "{name}" must be of {"" if expected.startswith("an ") else "type "}{expected}')
