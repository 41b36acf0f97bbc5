"""A ROS domain of one's own: a free domain id, and discovery that does not leave this machine.

Only for processes that a program starts for itself. Nodes on a robot take what the user's environment says.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

DOMAINS = range(1, 102)  # beyond 101 the ports of DDS lie among those that Linux hands out


def own_domain() -> dict[str, str]:
    """Environment variables of a private domain. What the user has set stays."""
    environment = {
        "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID") or str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "LOCALHOST",
    }
    if os.environ.get("ROS_DISTRO") == "humble":  # knows this older name only
        environment["ROS_LOCALHOST_ONLY"] = os.environ.get("ROS_LOCALHOST_ONLY") or "1"
    return environment


def free_domain() -> int:
    """A domain in which nobody on this machine takes part, as far as can be seen; chosen at random."""
    candidates = random.Random(os.getpid()).sample(DOMAINS, len(DOMAINS))
    return next((domain for domain in candidates if _is_free(domain)), candidates[0])


def _is_free(domain: int) -> bool:
    """Whether the port is free that the first participant of a domain takes (DDSI-RTPS, section 9.6.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", 7400 + 250 * domain + 10))
        except OSError:
            return False
    return True


@contextmanager
def environment_variables(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process for a while: what starts up inside reads them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
