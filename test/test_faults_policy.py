"""Camera silent, policy stopped, policy killed: the simulated robot, perception, policy and command node as real processes.

The shipped camera policy opens the door; between camera and perception sits a relay of the test, which can fall silent.
Chunks are allowed an age that ends in the middle of their motion, so that there is something to be stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_support import AT_ONCE, BUSY, PERIOD_S, Reaction, record, start_anew, within_limits
from ros_support import Child, Ears, Launcher, motion, values

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.robot import load_robot

ROBOT = "config/robots/adroit_door.yaml"
CAMERA, RELAYED = "camera/image_raw", "camera/relayed"
CHUNK_AGE_S, FEATURES_AGE_S = 0.25, 1.5
SCALE = 0.1  # of velocity, acceleration and jerk limits: the shipped ones are so high that few stops take two ticks
SPEED = 0.2  # m/s and rad/s; what counts as an arm in motion
Property = Callable[[str, object], None]


class Chain:
    """The four processes, the relay, and everything that was published."""

    def __init__(self, launcher: Launcher, ears: Ears, root: Path, folder: Path) -> None:
        self.ears, self._launcher = ears, launcher
        self.robot = load_robot(root / ROBOT)
        arm = self.robot.groups["arm_slide"] + self.robot.groups["arm_rotation"]
        self._arm = [i for i, joint in enumerate(self.robot.joints) if joint in arm]
        self.executed = ears.listen(JointStateMsg, "command/executed")
        self.chunks = ears.listen(JointTrajectory, "policy/chunk")
        self.reports = ears.diagnostics()
        self.image_stamp = 0  # of the newest image that was handed on
        self.silent = False
        self._relay = ears.speak(Image, RELAYED, qos.IMAGE)
        ears.node.create_subscription(Image, CAMERA, self._hand_on, qos.IMAGE)
        sees = folder / "relayed.yaml"
        sees.write_text((root / ROBOT).read_text().replace(CAMERA, RELAYED))
        slow = {"command__joint_state_max_age_s": 5.0, "command__stall_s": 5.0}  # a busy machine must add no fault
        episode = {"sim__task": "door", "sim__seed": 5000, "sim__steps": 100_000, "sim__realtime": True}
        self._checkpoint = {"policy__checkpoint": root / "checkpoints/adroit_door_camera", "policy__steps": 2}
        self.nodes = [
            launcher.node("sim_node", root / ROBOT, **episode),
            launcher.node("command_node", root / ROBOT, command__chunk_max_age_s=CHUNK_AGE_S, command__limit_scale=SCALE, **slow),
            launcher.node("perception_node", sees, perception__detector=root / "checkpoints/adroit_door_detector"),
        ]
        self.policy = self.start_policy()
        self._parts: list[int] = []  # indices of set-points that begin anew

    def start_policy(self) -> Child:
        """Start one."""
        ages = {"policy__joint_state_max_age_s": 5.0, "policy__features_max_age_s": FEATURES_AGE_S}
        return self._launcher.node("policy_node", Path(self.robot.path), **self._checkpoint, **ages)

    def _hand_on(self, image: Image) -> None:
        if not self.silent:
            self.image_stamp = from_time(image.header.stamp)
            self._relay.publish(image)

    def begin(self) -> None:
        """A new episode; returns while the policy moves the arm."""
        self.ears.meet("command/hold", "sim/reset", "command/reset")
        self.ears.meet("command/enable", kind=SetBool)
        self.silent = False
        self.executed.wait_for()  # it starts by itself
        self.ears.trigger("command/hold")
        self.stands()
        reports = len(self.reports.messages)
        self.ears.trigger("sim/reset")
        start_anew(self.ears)
        self.reports.wait_for(lambda s: s.name == "command" and values(s)["state"] == "starting", reports)
        self.moves()
        # The new start may well be where it held: only the command node knows which set-point that was.
        said = [values(s) for s in self.reports.messages[reports:] if s.name == "command"]
        since = max(int(s["state_since"]) for s in said if s["state"] == "starting")
        self._parts.append(int(np.searchsorted(self.stamps, since)))

    @property
    def stamps(self) -> np.ndarray:
        """Of all set-points (N,)."""
        return np.array([from_time(m.header.stamp) for m in self.executed.messages])

    def moves(self) -> None:
        """Wait until the arm moves, under a chunk of now."""
        self.executed.wait_for(
            lambda m: bool(np.abs(np.array(m.velocity)[self._arm]).max() > SPEED), len(self.executed.messages), "no motion"
        )

    def stands(self) -> None:
        """Until the command node says that it holds, and 30 ticks longer."""
        after = len(self.reports.messages)
        self.reports.wait_for(lambda s: s.name == "command" and values(s)["state"] == "holding", after, "it does not hold")
        self.executed.wait_count(len(self.executed.messages) + 30)

    def judge(self, fault: str, instant: int, reports: int, record_property: Property) -> None:
        """After a fault at ``instant``, since which there are ``reports``: the stop, and all the motion so far."""
        self.stands()
        said = [values(s) for s in self.reports.messages[reports:] if s.name == "command"]
        active = max((i for i, s in enumerate(said) if s["state"] == "active"), default=-1)
        states = tuple(dict.fromkeys(s["state"] for s in said[active + 1 :]))
        assert states in (("stopping", "holding"), ("holding",)) and said[-1]["faults"] == ""

        positions = motion(self.executed.messages)
        stamps = self.stamps[: len(positions)]
        first = int(np.argmax(stamps >= int(said[active + 1]["state_since"])))
        speed = np.abs(np.diff(positions, axis=0)) / PERIOD_S  # row k: from set-point k to the next
        assert speed[first - 2].max() > 0.0  # there was a motion to be ended
        limits = self.robot.limits
        average = int(np.ceil(2.0 * limits.acceleration / limits.jerk / PERIOD_S - 1e-9).max())
        assert (np.diff(speed[first + average - 3 :], axis=0) <= 1e-9).all(), "no steady braking"
        rest = first + int(np.argmax(~speed[first - 1 :].any(axis=1)))  # the first that is where the one before was
        assert not speed[rest - 1 :].any()

        expired = from_time(self.chunks.messages[-1].header.stamp) + round(CHUNK_AGE_S * 1e9)
        ticks, total = (int((stamps[: first + 1] > since).sum()) for since in (expired, instant))
        assert total <= (CHUNK_AGE_S + (FEATURES_AGE_S if self.silent else 0.0)) / PERIOD_S + AT_ONCE + BUSY
        counted = f"the age limit of the last chunk, {CHUNK_AGE_S} s"
        reaction = Reaction(fault, counted, ticks, AT_ONCE, total, rest - first, states, (), self.used())
        record(reaction, record_property)

    def used(self) -> dict[str, float]:
        """Fails where any set-point so far breaks a limit; each episode begins at rest."""
        parts = np.split(motion(self.executed.messages), self._parts)
        shares = [within_limits(part, self.robot, SCALE) for part in parts if len(part)]
        return {kind: max(share[kind] for share in shares) for kind in shares[0]}

    def alive(self) -> bool:
        """Everything but the policy."""
        return all(node.alive() and "Traceback" not in node.output for node in self.nodes)


@pytest.fixture(scope="module", name="shared_chain")
def shared_chain_fixture(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Chain]:
    folder = Path(tmp_path_factory.mktemp("chain"))
    launcher, ears = Launcher(folder), Ears()
    try:
        yield Chain(launcher, ears, root, folder)
    finally:
        launcher.end_all()
        ears.close()


@pytest.fixture(name="chain")
def chain_fixture(shared_chain: Chain) -> Chain:
    """In motion."""
    shared_chain.begin()
    return shared_chain


def test_camera_silent(chain: Chain, record_property: Property) -> None:
    reports, chain.silent = len(chain.reports.messages), True
    stale = chain.reports.wait_for(lambda s: s.name == "policy" and "features 'detections'" in s.message, reports)
    assert "stale" in stale.message
    last = chain.image_stamp
    chain.judge("camera silent", last, reports, record_property)
    assert from_time(chain.chunks.messages[-1].header.stamp) <= last + round(FEATURES_AGE_S * 1e9)
    chain.silent = False
    chain.moves()
    assert chain.alive()


def test_policy_stopped(chain: Chain, record_property: Property) -> None:
    """What it had begun comes out late when it goes on, and is not followed then."""
    reports, instant = len(chain.reports.messages), chain.ears.now()
    chain.policy.send(signal.SIGSTOP)
    try:
        chain.judge("policy stopped", instant, reports, record_property)
    finally:
        chain.policy.send(signal.SIGCONT)
    chain.moves()
    chain.used()
    assert chain.alive() and chain.policy.alive()


def test_policy_killed(chain: Chain, record_property: Property) -> None:
    """The others live on, take a new policy, and end in order. The last test: afterwards there is no chain."""
    reports, instant = len(chain.reports.messages), chain.ears.now()
    chain.policy.send(signal.SIGKILL)
    assert chain.policy.wait() == -signal.SIGKILL
    chain.judge("policy killed", instant, reports, record_property)
    measured, pictures = chain.ears.listen(JointStateMsg, "joint_states"), chain.ears.listen(Image, CAMERA)
    measured.wait_count(20)  # the robot still says where it is, and still shows it
    assert set(measured.messages[-1].name) == set(chain.robot.joints)
    picture = pictures.wait_for()
    assert (picture.width, picture.height, picture.encoding) == (256, 256, "rgb8")
    chain.policy = chain.start_policy()
    chain.moves()
    chain.used()
    assert chain.alive()
    for node in (*chain.nodes, chain.policy):
        node.send(signal.SIGTERM)
    assert [node.wait() for node in (*chain.nodes, chain.policy)] == [0, 0, 0, 0]
    assert "Traceback" not in "".join(node.output for node in (*chain.nodes, chain.policy))
