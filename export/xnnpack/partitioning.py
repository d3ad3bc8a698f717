"""Partitioning in memory that grows with a graph and not with its square.

To see whether two partitions can be one, ExecuTorch and torch.fx keep for every node the set of all that depends on it,
and the other way round: gigabytes for a denoiser of 28 blocks. What they ask of these sets a search answers as fast.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from executorch.exir.backend.canonical_partitioners import group_partitioner
from torch.fx import GraphModule, Node
from torch.fx.passes.infra import partitioner


class Dependencies:
    """Dependents of a graph's nodes, in place of torch.fx's class of this interface."""

    def __init__(self, _: GraphModule):
        pass

    def downstreams_of(self, node: Node) -> Iterator[Node]:
        """Each node that takes its value, itself or by way of others, once."""
        found, left = set(), list(node.users)
        while left:
            user = left.pop()
            if user not in found:
                found.add(user)
                left += user.users
                yield user


@contextlib.contextmanager
def searched_dependencies() -> Iterator[None]:
    """Let partitioners search for dependencies, while inside."""
    modules: tuple[Any, ...] = (group_partitioner, partitioner)
    kept = [module._DependencyViewer for module in modules]
    try:
        for module in modules:
            module._DependencyViewer = Dependencies
        yield
    finally:
        for module, viewer in zip(modules, kept, strict=True):
            module._DependencyViewer = viewer
