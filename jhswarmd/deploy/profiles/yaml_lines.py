"""YAML files whose errors are all reported with their line.

Only plain data is read. A duplicate key is an error; YAML's own loader would silently use the last
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class YamlError(Exception):
    """A file cannot be parsed; each of ``faults`` names file and line."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class Document:
    """The content of a file, and the position of each part."""

    path: Path
    data: Any
    _root: yaml.Node | None

    def where(self, place: Sequence[int | str]) -> str:
        """Return file, line and key of ``place``: keys and positions from the top down.

        A missing key is reported where it should be.
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
        duplicates = _duplicates(root)
        if duplicates:
            raise YamlError(
                [
                    f"{path}:{node.start_mark.line + 1}: duplicate key {node.value}"
                    for node in duplicates
                ]
            )
        data = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise YamlError([f"{path}{line}: is not valid YAML: {exc.problem}"]) from exc
    except RecursionError as exc:
        raise YamlError([f"{path}: is nested too deeply, or contains itself"]) from exc
    except (yaml.YAMLError, ValueError) as exc:
        raise YamlError([f"{path}: is not valid YAML: {str(exc).splitlines()[0]}"]) from exc
    return Document(path, data, root)


def _below(node: yaml.Node | None, step: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        # The key's position: an unknown key must be found, and its value may be on another line.
        return next(
            (
                value if isinstance(value, yaml.CollectionNode) else key
                for key, value in node.value
                if key.value == str(step)
            ),
            None,
        )
    return None


def _duplicates(node: yaml.Node | None) -> list[yaml.ScalarNode]:
    if isinstance(node, yaml.SequenceNode):
        return [each for item in node.value for each in _duplicates(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    found, seen = [], set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                found.append(key)
            seen.add(key.value)
        found += _duplicates(value)
    return found
