"""Which topics are looked at, for what, and of which type; alike for live robots and recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flow_policy_ros.data.bag_messages import ARRAY, COMPRESSED, IMAGE, JOINT_STATE, STRING, TRAJECTORY
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.viewing.detections import BOXES
from flow_policy_ros.viewing.intake import Role
from flow_policy_ros.viewing.snapshot import Scene

STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
FEATURES, DRAWN = "features/", "perception/overlay"

FIXED: dict[str, tuple[Role, str]] = {
    "command/executed": ("executed", JOINT_STATE),
    "command/plan": ("plan", TRAJECTORY),
    "policy/chunk": ("chunk", TRAJECTORY),
    "policy/chunk_info": ("chunk_info", STATUS),
    "sim/status": ("status", STATUS),
    "instruction": ("instruction", STRING),
    "/diagnostics": ("diagnostics", DIAGNOSTICS),
}
"""Topics that are the same for every robot: role and type."""


@dataclass(frozen=True)
class Selection:
    """What is looked at in one robot's name space. ``image`` is the topic of the picture; "" for that of ``camera`` where there is
    one, else the first camera's, else what perception drew."""

    namespace: str = ""
    joint_states: str = "joint_states"
    image: str = ""
    camera: str = ""

    def found(self, topics: Mapping[str, str]) -> dict[str, Role]:
        """Of ``topics`` (absolute name → type) those that are looked at, with their roles."""
        roles: dict[str, Role] = {}
        for name, (role, kind) in FIXED.items():
            if topics.get(self.absolute(name)) == kind:
                roles[self.absolute(name)] = role
        if topics.get(self.absolute(self.joint_states)) in (JOINT_STATE, ARRAY):
            roles[self.absolute(self.joint_states)] = "joint_state"
        head = self.absolute(FEATURES)
        for topic, kind in topics.items():
            stream = topic.removeprefix(head)
            if topic.startswith(head) and stream.startswith(BOXES):
                roles |= {topic: "features"} if kind == IMAGE else {topic: "info"} if kind == STRING else {}
            elif topic.startswith(head) and kind == IMAGE:
                roles[topic] = "features"
        picture = self.picture(topics)
        return roles | ({picture: "image"} if picture else {})

    def picture(self, topics: Mapping[str, str]) -> str:
        """The topic of the picture, as it was named or ``/compressed``; "" for none."""
        pictures = [name for name, kind in topics.items() if kind in (IMAGE, COMPRESSED)]

        def forms(name: str) -> list[str]:
            wanted = self.absolute(name)
            plain = wanted.removesuffix("/compressed")
            return [form for form in (wanted, f"{plain}/compressed", plain) if form in pictures]

        if self.image:
            found = forms(self.image)
        else:
            made = tuple(self.absolute(name) for name in (FEATURES, "perception/", "policy/"))
            ours = [name for name in pictures if name.startswith(self.absolute("")) and not name.startswith(made)]
            cameras = sorted(name for name in ours if "depth" not in name)
            found = (forms(self.camera) if self.camera else []) + cameras + forms(DRAWN)
        return found[0] if found else ""

    def absolute(self, name: str) -> str:
        """A topic's name with the name space."""
        space = f"/{self.namespace.strip('/')}" if self.namespace.strip("/") else ""
        return name if name.startswith("/") else f"{space}/{name.removeprefix('~/')}"


def selection(robot: Robot | None, namespace: str, image: str) -> Selection:
    """Of a robot file's topics, or of the usual ones without a robot file."""
    camera = robot.cameras[0].topic if robot is not None and robot.cameras else ""
    return Selection(namespace, "joint_states" if robot is None else robot.joint_state_topic, image, camera)


def scene(robot: Robot | None, title: str, live: bool, source: str = "", seconds: float = 0.0) -> Scene:
    """Joints, groups and limits of the robot file; without one the joints are those that messages name."""
    if robot is None:
        return Scene(title, live, source=source, seconds=seconds)
    limits = {
        joint: (float(low), float(high))
        for joint, low, high in zip(robot.joints, robot.limits.lower, robot.limits.upper, strict=True)
        if joint not in robot.endless
    }
    return Scene(title, live, robot.joints, robot.groups, limits, source, seconds)
