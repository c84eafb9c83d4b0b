"""YAML files of which every fault can be named with its line.

Only plain data is read. A key that is there twice is a fault, where YAML's reader would take the
last one without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class YamlError(Exception):
    """A file cannot be read; ``faults`` are lines that name file and line."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class Document:
    """The content of a file, and where in it everything is."""

    path: Path
    data: Any
    _root: yaml.Node | None

    def where(self, place: Sequence[int | str]) -> str:
        """Return file, line and key of ``place``: keys and positions from the top down.

        What is not there (a key that is missing) is where it should be.
        """
        node, key = self._root, ""
        for step in place:
            below = _below(node, step)
            key = str(step) if isinstance(step, str) else key
            if below is None:
                break
            node = below
        line = node.start_mark.line + 1 if node is not None else 1
        return f"{self.path}:{line}{f': {key}' if key else ''}"


def read(path: Path) -> Document:
    """Read a file. Raises YamlError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise YamlError([f"{path}: cannot be read: {exc}"]) from exc
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        doubles = _doubles(root)
        if doubles:
            raise YamlError(
                [
                    f"{path}:{node.start_mark.line + 1}: {node.value} is there twice"
                    for node in doubles
                ]
            )
        data = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise YamlError([f"{path}{line}: is no YAML: {exc.problem}"]) from exc
    except RecursionError as exc:
        raise YamlError([f"{path}: nests too deep, or holds itself"]) from exc
    except (yaml.YAMLError, ValueError) as exc:
        raise YamlError([f"{path}: is no YAML: {str(exc).splitlines()[0]}"]) from exc
    return Document(path, data, root)


def _below(node: yaml.Node | None, step: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        # The key's place: an unknown key is to be found, and its value may be on another line.
        return next(
            (
                value if isinstance(value, yaml.CollectionNode) else key
                for key, value in node.value
                if key.value == str(step)
            ),
            None,
        )
    return None


def _doubles(node: yaml.Node | None) -> list[yaml.ScalarNode]:
    if isinstance(node, yaml.SequenceNode):
        return [each for item in node.value for each in _doubles(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    found, seen = [], set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                found.append(key)
            seen.add(key.value)
        found += _doubles(value)
    return found
