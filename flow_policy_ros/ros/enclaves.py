"""Enclaves of SROS 2: what those of the nodes are called, and whether the environment makes anything of them.

What an enclave may do is ``sros2``'s affair, keys and signatures are ``ros2 security``'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from flow_policy_ros.runtime.parameters import ParameterError

PREFIX = "/flow_policy"
"""What the paths of all enclaves begin with, unless somebody has renamed them."""
ENABLE, STRATEGY, KEYSTORE, OVERRIDE = (
    "ROS_SECURITY_ENABLE", "ROS_SECURITY_STRATEGY", "ROS_SECURITY_KEYSTORE", "ROS_SECURITY_ENCLAVE_OVERRIDE",
)  # fmt: skip


def enclave_of(root: str, namespace: str, node: str) -> str:
    """Path of the enclave that holds one node alone. Raises ``ParameterError`` for a root that is none."""
    if not re.fullmatch(r"(/[A-Za-z_]\w*)+", root):
        raise ParameterError(f"the enclaves' root is '{root}', expected one of the keystore, such as {PREFIX}.")
    return f"{root}{namespace.rstrip('/')}/{node}"


def refuse_unsecured(enclaves: Iterable[str], environment: Mapping[str, str]) -> None:
    """Of nodes that are to run in enclaves: whether they will. Without a variable that is missing ROS starts them unprotected, and
    says nothing. Raises ``ParameterError``; nothing is looked at when there are none.
    """
    wanted = list(dict.fromkeys(enclaves))
    if not wanted:
        return
    for name, value in ((ENABLE, "true"), (STRATEGY, "Enforce")):
        if environment.get(name) != value:
            raise ParameterError(
                f"the nodes are to run in enclaves, but {name} is '{environment.get(name, '')}': they would run unprotected. "
                f"Set it to {value} (see docs/threats.md), or leave the enclaves out."
            )
    if environment.get(OVERRIDE):
        raise ParameterError(f"{OVERRIDE} is set: all nodes would run in {environment[OVERRIDE]}. Unset it.")
    folder = Path(environment.get(KEYSTORE, "")) / "enclaves"
    missing = [path for path in wanted if not (folder / path.lstrip("/")).is_dir()]
    if not environment.get(KEYSTORE) or missing:
        raise ParameterError(
            f"the keystore {KEYSTORE}='{environment.get(KEYSTORE, '')}' has no enclave {', '.join(missing)}; make it of the policy "
            "that 'flow_policy sros2' writes for this robot, name space and parameters."
        )
