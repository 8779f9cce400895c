"""YAML that refuses what is nearly always a mistake: a key given twice, and a key that is no text.

Merge keys (`<<: *name`) are followed: what stands beside them goes before what they bring.
"""

from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


def read(text: str) -> Any:
    """Return what the text holds.  Raises whatever PyYAML does, which at odd values is more than its own errors."""
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._flat: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what merge keys bring in their place: what stands beside them goes first, then the first of a list.

        PyYAML 6.0.4 lets the last of a list win, unlike https://yaml.org/type/merge.html.
        """
        if id(node) in self._flat:
            return
        self._flat.add(id(node))
        self._check_keys(node)
        own = [pair for pair in node.value if pair[0].tag != MERGE]
        known = {key.value for key, _ in own}
        for source in (source for key, value in node.value if key.tag == MERGE for source in _sources(value)):
            self.flatten_mapping(source)
            own += [pair for pair in source.value if pair[0].value not in known]
            known |= {key.value for key, _ in source.value}
        node.value = own

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key_node, _ in node.value:
            key = "<<" if key_node.tag == MERGE else self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _wrong(key_node, f"key {key!r} is no text; put it in quotes")
            if key in seen:
                again = "; several are merged by a list: <<: [*a, *b]" if key_node.tag == MERGE else ""
                raise _wrong(key_node, f"key {key!r} is given twice{again}")
            seen.add(key)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _sources(node: yaml.Node) -> list[yaml.MappingNode]:
    found = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for source in found:
        if not isinstance(source, yaml.MappingNode):
            raise _wrong(source, "after << a mapping is expected, or a list of mappings")
    return list(found)


def _wrong(node: yaml.Node, text: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def explained(error: Exception) -> str:
    """Say what is wrong and where, but not what stands there: it may be a secret."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return "a value is not what its tag says"
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{error.problem or error.context}"
