"""YAML that knows its lines: so that an error in a file can name the one to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """YAML that leaves 2013-01-05 the text that it is, and takes no key twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML's, which would let the last of two equal keys win in silence."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is written twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def line_of(node: yaml.Node | None, where: Sequence[Any]) -> tuple[int, int]:
    """The line that *where* leads to, and how many of its parts the file has."""
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
