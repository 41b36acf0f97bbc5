"""The robot file's keys that say what joint names in messages mean. What is done with them is ``runtime.joint_naming``'s."""

from __future__ import annotations

from typing import Any

from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.robot_yaml import RobotFileError, names, need


def read_naming(
    block: dict[str, Any], prefix: str, joints: tuple[str, ...], mimicking: tuple[str, ...], where: str
) -> JointNaming:
    """The keys ``PREFIX_names`` and ``PREFIX_order`` of ``block``, which lies at ``where`` and has other keys too.

    ``joints`` are the robot's, ``mimicking`` those that follow some of them. Raises ``RobotFileError``.
    """
    order_key, names_key = f"{prefix}_order", f"{prefix}_names"
    order: tuple[str, ...] = ()
    if order_key in block:
        order = names(need(block, order_key, list, where), f"{where}.{order_key}")
        missing = [joint for joint in joints if joint not in order]
        if missing:
            raise RobotFileError(
                f"{where}.{order_key} lacks {missing} of robot.joints. Name every joint of the robot at the place that its value "
                "has in the message; a value that is no joint's gets any other name."
            )
    meanings = need({names_key: {}, **block}, names_key, dict, where)
    if meanings:
        names([*meanings], f"{where}.{names_key}: what is left of the colons")
        meant = names([*meanings.values()], f"{where}.{names_key}: what is right of the colons")
        strangers = [joint for joint in meant if joint not in (*joints, *mimicking)]
        if strangers:
            raise RobotFileError(
                f"{where}.{names_key} gives names to {strangers}, which robot.joints does not have. Write NAME_IN_THE_MESSAGE: "
                f"JOINT, with a joint of {', '.join(joints)}."
            )
    key = f"{where.rpartition(': ')[2]}.{order_key}"
    return JointNaming(meanings, order, prefix.replace("_", " "), key)
