"""Parse YAML with line numbers, so that an error can name the line to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """Loads YAML 1.1 as PyYAML's SafeLoader does, except that dates stay text and a repeated key is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping. Raises ConstructorError for a repeated key, of which PyYAML keeps the last silently."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is written twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def line_of(node: yaml.Node | None, where: Sequence[Any]) -> tuple[int, int]:
    """The line, from 1, of the key path *where* below *node*, and how many keys of the path exist.

    >>> line_of(Loader("{a: 1, b: {c: 2}}").get_single_node(), ["b", "missing"])
    (1, 1)
    """
    line = node.start_mark.line + 1 if node else 1
    for depth, part in enumerate(where):
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                return line, depth
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line, depth
    return line, len(where)
