"""What is known, and what is foreseen, of the memory that a key takes."""

from typing import Any

import msgspec
import pytest

from swapper_proxy import config
from swapper_proxy.ollama import wire
from swapper_proxy.runtime import sizes
from swapper_proxy.runtime.model import GB, Model
from swapper_proxy.runtime.ports import Shown
from swapper_proxy.runtime.sizes import Size, Sizes

MB = 1_000_000
# What /api/show of Ollama 0.9.3 said of a model with 2 layers, and /api/ps of its size with each context, for two
# requests at once.
INFO: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 4,
    "llama.block_count": 2,
    "llama.context_length": 1_000_000,
    "llama.embedding_length": 64,
}
MEASURED = {2048: 45_896_320, 8192: 181_162_624, 32768: 722_227_840, 200_000: 4_404_007_552}


def shown(info: Any) -> tuple[int, int]:
    return msgspec.json.decode(msgspec.json.encode({"model_info": info}), type=wire.Show).context


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def model(size: int = 240_000, size_gb: float | None = None, per: int = 11_008, longest: int = 1_000_000) -> Model:
    configured = None if size_gb is None else config.Model(path="ollama:m", size_gb=size_gb)
    return Model("m", "m", configured, Shown("w", {}, None, False, "", per, longest), size=size)


def of(known: Sizes, model: Model, slots: int = 2, **options: int) -> Size:
    return known.of(model, model.key(options), model.key({}), slots)


def test_the_difference_of_two_contexts_is_what_ollama_says() -> None:
    per_context, longest = shown(INFO)
    assert (per_context, longest) == (11_008, 1_000_000)
    for context, size in MEASURED.items():
        assert size - MEASURED[2048] == 2 * per_context * (context - 2048)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (None, (0, 0)),
        ([1], (0, 0)),
        ("llama", (0, 0)),
        ({"general.architecture": [1]}, (0, 0)),
        ({**INFO, "llama.block_count": "two"}, (0, 1_000_000)),
        ({**INFO, "llama.block_count": -1}, (0, 1_000_000)),
        ({**INFO, "llama.block_count": 10**30}, (0, 1_000_000)),
        ({**INFO, "llama.attention.head_count": None}, (0, 1_000_000)),
        ({**INFO, "llama.context_length": 1.5}, (11_008, 0)),
        ({**INFO, "llama.attention.head_count_kv": [4, 0]}, (2 * 4 * 32 + 4 * (512 * 5 + 64), 1_000_000)),
        ({**INFO, "llama.attention.head_count_kv": []}, (0, 1_000_000)),
        ({**INFO, "llama.attention.head_count_kv": [{}, 4]}, (2 * 4 * 32 + 4 * (512 * 5 + 64), 1_000_000)),
        (
            {**INFO, "llama.attention.key_length": 8, "llama.attention.value_length": 4},
            (2 * 8 * 12 + 4 * 2592, 1_000_000),
        ),
    ],
)
def test_what_cannot_be_read_of_a_model_counts_as_nothing(info: Any, expected: tuple[int, int]) -> None:
    assert shown(info) == expected


def test_a_larger_context_is_foreseen_from_the_disk_and_then_from_what_was_measured() -> None:
    known, m = Sizes(), model()
    assert of(known, m) == Size(0.0)
    assert of(known, m, num_ctx=200_000) == Size(4.403, 0.0)
    known.measured(m.key({}), MEASURED[8192])  # with a default context that is taken for 4,096
    assert of(known, m, num_ctx=200_000) == Size(round(0.181 + 22_016 * 195_904 / GB, 3), 0.0)
    known.measured(m.key({"num_ctx": 32768}), MEASURED[32768])
    assert of(known, m, num_ctx=32768) == Size(0.722)
    slope = (MEASURED[32768] - MEASURED[8192]) // (32768 - 4096)
    assert of(known, m, 4, num_ctx=200_000) == Size(round(0.722 + slope * (200_000 - 32768) / GB, 3), 0.0)


def test_a_context_is_never_longer_than_the_model_was_trained_for() -> None:
    m = model(longest=2048)
    assert of(Sizes(), m, num_ctx=10**30) == of(Sizes(), m, num_ctx=2048)
    assert of(Sizes(), model(longest=0), num_ctx=10**30).gb == pytest.approx(2 * 11_008 * 2**30 / GB)


def test_without_any_knowledge_of_the_model_there_are_only_its_weights() -> None:
    assert of(Sizes(), model(5 * GB, per=0), num_ctx=200_000) == Size(5, 5)
    assert of(Sizes(), model(0, per=0)) == Size(None)


def test_a_configured_size_is_of_the_models_own_options() -> None:
    known, m = Sizes(), model(size_gb=3)
    known.measured(m.key({}), 9 * GB)
    assert of(known, m) == of(known, m, num_ctx=512) == Size(3)
    larger = 3 + 22_016 * (200_000 - 4096) / GB
    assert of(Sizes(), m, num_ctx=200_000) == Size(pytest.approx(larger, abs=1e-3), 3)
    known.measured(m.key({"num_ctx": 200_000}), 4 * GB)
    assert of(known, m, num_ctx=200_000) == Size(4)
    own, large = m.key({}), m.key({"num_ctx": 200_000})
    assert known.in_memory(m, own, own, 9 * GB) is None
    assert (known.in_memory(m, large, own, 9 * GB), known.in_memory(m, large, own, 1 * GB)) == (9, 3)


def test_what_was_measured_refuses_for_ten_minutes() -> None:
    clock = Clock()
    known, m = Sizes(clock), model(size=1 * GB)
    known.measured(m.key({"num_ctx": 200_000}), 9 * GB)
    assert of(known, m, num_ctx=200_000) == Size(9)
    clock.now = 600
    assert of(known, m, num_ctx=200_000) == Size(9, 1)
    assert not known.measured(m.key({"num_ctx": 200_000}), 9 * GB)
    assert of(known, m, num_ctx=200_000) == Size(9)


def test_no_more_is_remembered_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MOST_MEASURED", 10)
    known, m = Sizes(), model(per=0)
    for context in range(1000, 1100):
        known.measured(m.key({"num_ctx": context}), context * MB)
        known.measured(m.key({"num_ctx": 1000}), 1000 * MB)
    assert len(known._measured) == 10
    assert of(known, m, num_ctx=1000) == Size(1)
