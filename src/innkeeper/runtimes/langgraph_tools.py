"""Tools of a graph: those of its tool nodes. Importing this module imports `langgraph`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import copy
from typing import Any

from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel

from innkeeper.core.errors import SetupError
from innkeeper.runtimes.tools import approval_rule

Graph = Pregel[Any, Any, Any, Any]


def tools_of(graph: Graph) -> tuple[str, ...]:
    """Their names."""
    return tuple(dict.fromkeys(name for _, node in _tool_nodes(graph) for name in node.tools_by_name))


def narrowed(graph: Graph, allowed: Collection[str] | None) -> Graph:
    """The graph with those of its tools alone; its model, which its author told of them all, is told of the others that
    there are none.
    """
    if allowed is None:
        return graph
    nodes = dict(graph.nodes)
    for name, tools in _tool_nodes(graph):
        fewer = copy(tools)
        fewer._tools_by_name = {key: tool for key, tool in tools.tools_by_name.items() if key in allowed}
        fewer.func, fewer.afunc = fewer._func, fewer._afunc  # else it calls what it is a copy of
        nodes[name] = nodes[name].copy({"bound": fewer})
    return graph.copy({"nodes": nodes})


def check_rules(graph: Graph, name: str) -> None:
    """Raises: SetupError if a tool is marked as one that requires approval, which a graph would not ask for."""
    inner = [one for _, one in graph.get_subgraphs(recurse=True) if isinstance(one, Pregel)]
    for one in (graph, *inner):
        for _, node in _tool_nodes(one):
            for tool in node.tools_by_name.values():
                functions = (getattr(tool, "func", None), getattr(tool, "coroutine", None))
                if any(approval_rule(function) is not False for function in functions if function is not None):
                    raise SetupError(
                        f"The tool {tool.name!r} of the graph {name!r} is marked requires_approval. A graph asks in its"
                        " own way: call interrupt() in the tool, or use LangChain's HumanInTheLoopMiddleware.",
                        param="agent",
                    )


def _tool_nodes(graph: Graph) -> Iterator[tuple[str, ToolNode]]:
    for name, node in graph.nodes.items():
        if isinstance(node.bound, ToolNode):
            yield name, node.bound
