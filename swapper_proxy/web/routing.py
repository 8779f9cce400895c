"""Which model a request gets that does not name it: `metadata.use_llm`, and virtual models by rules of the config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import msgspec

from swapper_proxy.config import Route
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.names import canonical
from swapper_proxy.web.body import MOST_BYTES, Ambiguous, Fields, Name, WrongType, has_many_elements
from swapper_proxy.web.endpoints import Endpoint
from swapper_proxy.web.form import Form

# Within messages, items and content parts.
_NESTED = ("content", "text", "output")
_IMAGES = frozenset(("image", "image_url", "input_image"))
# messages > message > content > tool_result > content > part: what is deeper is nothing that Ollama reads
_DEPTH = 6
_MOST = 20_000  # messages, parts and texts that are looked at, so that no body holds the others up (0.1 s)
_MOST_COMMAS = 1_000_000
_LIST = list[msgspec.Raw]
_OBJECT = dict[str, msgspec.Raw]
_QUOTE = ord('"')
_TEXT = msgspec.json.Decoder(str)
_NAME = msgspec.json.Decoder(Name)
_ENTRIES = msgspec.json.Decoder(_LIST)
_ANY_OF = msgspec.json.Decoder(str | _LIST | _OBJECT)
_UNREADABLE = (UnicodeDecodeError, RecursionError)  # what msgspec raises beside its own errors


@dataclass(frozen=True, slots=True)
class Traits:
    """What the rules may ask of a request; `characters` is its text, images not counted."""

    has_images: bool = False
    has_tools: bool = False
    is_embedding: bool = False
    characters: int = 0

    def __str__(self) -> str:
        return ", ".join(_condition(name, value) for name, value in asdict(self).items())


@dataclass(frozen=True, slots=True)
class Choice:
    """The model that a rule chose, the number of the rule from 1, and why: a line for people."""

    model: str
    rule: int
    why: str


class Direction(msgspec.Struct, frozen=True):
    """How a request comes to its model: `asked` is the name it gives, in `use_llm` or else in its model field."""

    asked: str
    use_llm: bool = False
    traits: Traits | None = None  # read only where a route asks for them
    choice: Choice | None = None

    @property
    def model(self) -> str:
        """The name of the model that it gets; empty if it names none."""
        return self.choice.model if self.choice else self.asked

    @property
    def why(self) -> str:
        """In one line, for people."""
        named = f"{'metadata.use_llm' if self.use_llm else 'model'} is {self.asked}"
        return f"{named}; {self.choice.why}" if self.choice else named

    @property
    def routed(self) -> bool:
        """Whether anything but the model field had a say."""
        return self.use_llm or self.choice is not None


class Router:
    """Says where requests go, by the `routes` of the config; `at_hand` tells whether a model is in memory, by name."""

    def __init__(self, routes: Mapping[str, Sequence[Route]], at_hand: Callable[[str], bool]) -> None:
        self._routes = {canonical(name): (name, rules) for name, rules in routes.items()}
        self._at_hand = at_hand

    def direction(self, endpoint: Endpoint, fields: Fields | Form) -> Direction:
        """1. What `use_llm` names goes before the model field.  2. If that is a route, its rules choose.

        Raises ProxyError (400).
        """
        wish = use_llm(fields)
        asked = wish or _field(fields, "model", Name) or ""
        found = self._routes.get(canonical(asked)) if self._routes else None
        if found is None:
            return Direction(asked, bool(wish))
        route, rules = found
        traits = read(endpoint, fields)
        choice = choose(route, rules, traits, self._at_hand)
        if choice is None:
            raise ProxyError(400, "no_route", f"no rule of {route} takes this request ({traits})")
        return Direction(asked, bool(wish), traits, choice)


def use_llm(fields: Fields | Form) -> str:
    """The model named in `metadata.use_llm`, empty if none is.  Raises ProxyError (400) if it is no string."""
    wish = (_field(fields, "metadata", _OBJECT) or {}).get("use_llm")
    if wish is None or bytes(wish) == b"null":
        return ""
    named = _decoded(wish, _NAME)
    if named is None:
        raise ProxyError(400, "invalid_use_llm", "metadata.use_llm must be the name of a model")
    return str(named)


# Reading the traits


def read(endpoint: Endpoint, fields: Fields | Form) -> Traits:
    """The traits of a request.  What has another type than it should counts as nothing: Ollama will refuse it."""
    images = _LIST if endpoint.native else str | _LIST
    content = _Content(has_images=bool(endpoint.images and _field(fields, endpoint.images, images)))
    for name in endpoint.text:
        content.add(_field(fields, name, msgspec.Raw))
    return Traits(
        has_images=content.has_images,
        has_tools="tools" in endpoint.takes and bool(_field(fields, "tools", _LIST)),
        is_embedding=endpoint.embeds,
        characters=content.characters,
    )


@dataclass(slots=True)
class _Content:
    """Adds up texts and images, wherever they are: strings, lists, messages, parts.

    A text of more than MOST_BYTES is as long as its bytes: decoded it would take the memory once more.  So is what may
    have too many elements to be taken apart.
    """

    has_images: bool = False
    characters: int = 0
    left: int = _MOST

    def add(self, raw: msgspec.Raw | None, depth: int = _DEPTH) -> None:
        self.left -= 1
        if raw is not None and len(raw) > MOST_BYTES and memoryview(raw)[0] == _QUOTE:
            self.characters += len(raw) - 2
            return
        if raw is not None and has_many_elements(raw, _MOST_COMMAS):
            self.characters += len(raw)
            return
        value = _decoded(raw, _ANY_OF)
        if isinstance(value, str):
            self.characters += len(value)
        elif isinstance(value, list) and depth:
            for item in takewhile(lambda _: self.left > 0, value):
                self.add(item, depth - 1)
        elif isinstance(value, dict) and depth:
            self._add_members({name.lower(): member for name, member in value.items()}, depth - 1)

    def _add_members(self, members: Mapping[str, msgspec.Raw], depth: int) -> None:
        if _decoded(members.get("type"), _TEXT) in _IMAGES or _decoded(members.get("images"), _ENTRIES):
            self.has_images = True
        for name in _NESTED:
            if name in members:
                self.add(members[name], depth)


def _field(fields: Fields | Form, name: str, kind: Any) -> Any:
    """None where it is absent or not of this kind."""
    try:
        return fields.get(name, kind, None)
    except (WrongType, Ambiguous):
        return None


def _decoded(raw: msgspec.Raw | None, decoder: msgspec.json.Decoder[Any]) -> Any:
    """None where it is not what the decoder takes."""
    try:
        return None if raw is None else decoder.decode(raw)
    except (msgspec.MsgspecError, *_UNREADABLE):
        return None


# Choosing


def choose(route: str, rules: Sequence[Route], traits: Traits, is_resident: Callable[[str], bool]) -> Choice | None:
    """The first rule whose conditions all hold; of its models the first that is resident, else the first."""
    for number, rule in enumerate(rules, 1):
        if all(_holds(name, value, traits) for name, value in rule.conditions.items()):
            resident = next(filter(is_resident, rule.models), None)
            held = ", ".join(_condition(name, value) for name, value in rule.conditions.items()) or "any request"
            why = f"rule {number} of {route}: {held}{_preference(rule, resident)}"
            return Choice(resident or rule.models[0], number, why)
    return None


def _holds(name: str, value: bool | int, traits: Traits) -> bool:
    return traits.characters > value if name == "longer_than" else getattr(traits, name) is value


def _preference(rule: Route, resident: str | None) -> str:
    if len(rule.models) == 1:
        return ""
    return f"; {resident} is in memory" if resident else f"; {rule.models[0]} is named first, none is in memory"


_WORDS = {
    "has_images": ("no images", "has images"),
    "has_tools": ("no tools", "has tools"),
    "is_embedding": ("no embedding", "is an embedding"),
}


def _condition(name: str, value: bool | int) -> str:
    if name in _WORDS:
        return _WORDS[name][bool(value)]
    text = f"{value} character{'' if value == 1 else 's'}"
    return f"longer than {text}" if name == "longer_than" else text
