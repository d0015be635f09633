"""YAML documents: what a file says, key by key, with the line of each, so that a mistake is told by its place.

Scalars are the texts that were written; what they mean is judged by whoever reads the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from innkeeper.core.errors import SetupError

Node = yaml.Node


def document(path: Path, called: str) -> Node | None:
    """What a file holds; `called` is what it is, as in "the price file". Raises: SetupError that names it."""
    try:
        with path.open(encoding="utf-8") as stream:
            return yaml.compose(stream, Loader=yaml.SafeLoader)
    except OSError as error:
        raise SetupError(f"The {called} {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SetupError(f"The {called} {path} is not text in UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SetupError(f"{path}:{line}: this is not valid YAML: {error.problem}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise SetupError(f"The {called} {path} is not valid YAML: {str(error).splitlines()[0]}.") from None


def entries(path: Path, node: Node | None, such_as: str, line: int = 1) -> list[tuple[str, int, Node]]:
    """The keys of a mapping, each with its line and its value. Nothing at all is an empty mapping.

    Raises: SetupError.
    """
    if node is None or (isinstance(node, yaml.ScalarNode) and plain(node) is None):
        return []
    if not isinstance(node, yaml.MappingNode):
        raise SetupError(f"{path}:{line}: here belong keys, such as {such_as}.")
    found: dict[str, tuple[str, int, Node]] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in found:
            raise SetupError(f"{path}:{line}: {name} is here twice; it stands in line {found[name][1]}, too.")
        found[name] = (name, line, value)
    return list(found.values())


def plain(node: Node) -> Any:
    """The text of a scalar, the texts of a list or of a mapping; nothing of what else there is."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == "tag:yaml.org,2002:null" else node.value
    if isinstance(node, yaml.SequenceNode):
        return [plain(one) for one in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(plain(key)): plain(value) for key, value in node.value}
    return {}
