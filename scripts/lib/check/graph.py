# SPDX-License-Identifier: GPL-2.0
"""Circles in a directed graph, given as a map from each node to its successors."""

from collections import deque


def knots(graph):
    """Returns the sets of nodes that all reach each other, of two nodes or more.

    Tarjan's algorithm, without recursion.
    """
    index, low, stack, on_stack, found = {}, {}, [], set(), []
    for start in sorted(graph):
        if start in index:
            continue
        work = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        on_stack.add(start)
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in index:
                    index[successor] = low[successor] = len(index)
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(sorted(graph.get(successor, ())))))
                    break
                if successor in on_stack:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    knot = set()
                    while node not in knot:
                        knot.add(stack.pop())
                    on_stack -= knot
                    if len(knot) > 1:
                        found.append(knot)
    return found


def circle(graph, knot):
    """Returns a shortest circle inside a knot, its first node repeated at the end."""
    best = None
    for start in sorted(knot):
        before, queue = {start: None}, deque([start])
        while queue:
            node = queue.popleft()
            if start in graph[node]:
                path = [start]
                while node is not None:
                    path.append(node)
                    node = before[node]
                path.reverse()
                if best is None or len(path) < len(best):
                    best = path
                break
            for successor in sorted(graph[node] & knot):
                if successor not in before:
                    before[successor] = node
                    queue.append(successor)
    return best
