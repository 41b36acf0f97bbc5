"""A ROS domain of one's own: a free domain id, discovery that does not leave this machine, quick repair of what is lost.

Only for processes that a program starts for itself. Nodes on a robot take what the user's environment says.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOMAINS = range(1, 102)  # beyond 101 the ports of DDS lie among those that Linux hands out


def own_domain(dds_profile: Path | None = None) -> dict[str, str]:
    """Environment variables of a private domain. What the user has set stays.

    ``dds_profile`` is a profile file for Fast DDS; other middleware does not read it.
    """
    wanted = {
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    if os.environ.get("ROS_DISTRO") == "humble":  # knows this older name only
        wanted["ROS_LOCALHOST_ONLY"] = "1"
    if dds_profile is not None:
        wanted["FASTDDS_DEFAULT_PROFILES_FILE"] = str(dds_profile)
    return {name: os.environ.get(name) or value for name, value in wanted.items()}


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
