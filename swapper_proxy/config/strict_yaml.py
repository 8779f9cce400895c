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
        self._merged: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check each mapping as it was written: it comes by here before it is made, and whenever it is merged."""
        if id(node) not in self._merged:
            self._merged.add(id(node))
            self._check_keys(node)
            super().flatten_mapping(node)

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


def _wrong(node: yaml.Node, text: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
