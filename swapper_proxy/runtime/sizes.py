"""How much memory a key takes: configured, measured, or foreseen from its context."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from swapper_proxy.core.types import Key
from swapper_proxy.runtime.model import GB, Model

# Clients can make up options without end.
MOST_MEASURED = 1000
# A size that was measured longer ago refuses nobody: Ollama may be set up otherwise by now.
SURE_FOR_S = 600.0
# What Ollama gives a model without `num_ctx`; newer ones may give more, then too much is foreseen for a larger one.
DEFAULT_CONTEXT = 4096
# No model has a longer context; clients may ask for any.
MOST_CONTEXT = 1 << 30


class Size(NamedTuple):
    """GB that a key is likely to take, None if unknown, and takes at least; None: the first is sure."""

    gb: float | None
    least_gb: float | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    size_bytes: int
    at: float


class Sizes:
    """Sizes by key: another context of the same weights is another size."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._measured: dict[Key, _Measured] = {}  # the latest last

    def measured(self, key: Key, size_bytes: int) -> bool:
        """Ollama says that it takes so many bytes.  Return True if that is new."""
        before = self._measured.pop(key, None)
        self._measured[key] = _Measured(size_bytes, self._clock())
        if len(self._measured) > MOST_MEASURED:
            del self._measured[next(iter(self._measured))]
        return before is None or before.size_bytes != size_bytes

    def forget(self, key: Key) -> None:
        """It is to be measured again."""
        self._measured.pop(key, None)

    def of(self, model: Model, key: Key, own: Key, slots: int) -> Size:
        """The size of this key of the model; `own` is the one with the options that the model has by itself.

        1. The configured size is the operator's word for the model with its own options; a larger context adds to it.
        2. What was measured for this very key.  3. What is foreseen from other contexts of the same weights, or from
        their size on disk.
        """
        word_gb = model.configured.size_gb if model.configured else None
        if word_gb is not None and _context(model, key) <= _context(model, own):
            return Size(word_gb)
        floor_gb = model.size_gb or 0.0
        if known := self._measured.get(key):
            gb = max(word_gb or 0.0, _gb(known.size_bytes))
            return Size(gb) if self._clock() < known.at + SURE_FOR_S else Size(gb, min(gb, floor_gb))
        more = self._foreseen(model, key, own, slots)
        return Size(model.size_gb) if more is None else Size(max(floor_gb, more), floor_gb)

    def in_memory(self, model: Model, key: Key, own: Key, size_bytes: int) -> float | None:
        """The GB that a loaded key counts for if Ollama says that it takes so many bytes; None: as its profile says."""
        word_gb = model.configured.size_gb if model.configured else None
        if size_bytes <= 0 or (word_gb is not None and _context(model, key) <= _context(model, own)):
            return None
        return max(word_gb or 0.0, _gb(size_bytes))

    def _foreseen(self, model: Model, key: Key, own: Key, slots: int) -> float | None:
        """A base, and what the difference of the contexts adds; None if there is nothing to go by."""
        context = _context(model, key)
        known = {_context(model, k): m.size_bytes for k, m in self._measured.items() if k.runner == key.runner}
        per_context = (model.shown.context_bytes if model.shown else 0) * slots
        if len(known) == 1 and not per_context:
            known[0] = model.size
        if len(known) > 1:
            least, most = min(known), max(known)
            per_context = max(0, known[most] - known[least]) // (most - least)
        if model.configured and model.configured.size_gb is not None:
            at, base_gb = _context(model, own), model.configured.size_gb
        elif known:
            at = min(known, key=lambda other: abs(other - context))
            base_gb = _gb(known[at])
        elif dict(key.options).get("num_ctx") is None:
            return None
        else:
            at, base_gb = 0, model.size_gb or 0.0
        return round(base_gb + per_context * (context - at) / GB, 3)


def _context(model: Model, key: Key) -> int:
    """The context that Ollama loads a key with: as asked for, but not longer than the model was trained for."""
    longest = (model.shown.longest_context if model.shown else 0) or MOST_CONTEXT
    return min(max(0, dict(key.options).get("num_ctx", DEFAULT_CONTEXT)), longest, MOST_CONTEXT)


def _gb(size_bytes: int) -> float:
    return round(size_bytes / GB, 3)
