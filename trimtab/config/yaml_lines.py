"""Parse YAML with line numbers, so that an error can name the line to change; a file that would take all time or memory
is an error too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 30_000  # counted as often as aliases repeat them; PyYAML reads so many in a second
MAX_DEPTH = 50
MAX_DIGITS = 400  # more than any number of a computer has


class Loader(yaml.SafeLoader):
    """Loads YAML 1.1 as PyYAML's SafeLoader does, except that dates stay text and a repeated key is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    values_read = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node. Raises ComposerError beyond MAX_VALUES of them, before the rest of the file is read."""
        self.values_read += 1
        if self.values_read > MAX_VALUES:
            problem = f"more than {MAX_VALUES:,} values"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping. Raises ConstructorError for a repeated key, of which PyYAML keeps the last silently."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is written twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        """Construct an integer. Raises ConstructorError for one that takes more than MAX_DIGITS characters."""
        if len(node.value) > MAX_DIGITS:
            problem = f"a number of {len(node.value):,} characters: at most {MAX_DIGITS}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_yaml_int(node)


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


def parse(text: str) -> tuple[yaml.Node | None, Any]:
    """The node and the data of the one document in *text*; None and None when there is none.

    Raises yaml.YAMLError, with a mark where the trouble has a place: also for text that is too long, is nested too
    deeply, contains itself, or grows too large by its aliases.
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"{len(text):,} characters: at most {MAX_CHARACTERS:,}")
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _count(node, {}, 0)
        return node, loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except ValueError as error:  # of a scalar that looks like a number and is none
        raise yaml.YAMLError(str(error)) from None


def _count(node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """How many values *node* stands for. *known* has the count of each node seen, None for an open one."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise yaml.composer.ComposerError(None, None, "it contains itself", node.start_mark)
        return count
    if depth > MAX_DEPTH:
        raise yaml.composer.ComposerError(None, None, "nested too deeply", node.start_mark)
    known[id(node)] = None
    count = 1
    if isinstance(node, yaml.CollectionNode):
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        count += sum(_count(part, known, depth + 1) for part in parts)
    if count > MAX_VALUES:
        problem = f"more than {MAX_VALUES:,} values, counting what aliases repeat"
        raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
    known[id(node)] = count
    return count


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
