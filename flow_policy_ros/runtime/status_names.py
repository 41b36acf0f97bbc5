"""Names of statuses on ``/diagnostics``, where every robot of a graph reports: each begins with the name space of who reports.

What a status says is up to each node; the topic is ``ros.diagnostics``'.
"""

from __future__ import annotations


def full_name(name: str, namespace: str) -> str:
    """``left/command`` for ``command`` of a node in ``/left``; without a name space the name alone."""
    space = namespace.strip("/")
    return f"{space}/{name}" if space else name


def own_name(name: str, namespace: str) -> str:
    """``command`` for ``left/command``, to who listens in ``/left``; ``/command`` for that of who has no name space, and
    ``right/command`` for that of a third."""
    head = full_name("", namespace)
    if name.startswith(head):
        return name.removeprefix(head)
    return name if "/" in name else f"/{name}"


def of_another(name: str, hardware: str, namespace: str) -> bool:
    """Whether a status and the hardware that it names are in one name space, and that is another one."""
    space = hardware.rpartition("/")[0]
    return bool(space) and name.startswith(f"{space}/") and space != namespace.strip("/")
