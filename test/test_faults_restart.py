"""The command node is killed and started again while the robot holds: it goes on from where the robot is, and slowly."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fault_support import Reaction, record, rig_of, stay, within_limits
from ros_support import JOINTS

pytest.importorskip("rclpy")

SAG = np.array([-0.02, 0.01])
"""rad that the robot has given way by, while nobody commanded it."""
WAY = np.array([0.2, -0.1])
MOVED = 0.015
SOFT_S, SOFT = 1.0, 0.2


def test_restarted_while_holding(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with rig_of(tmp_path, command__soft_start_s=SOFT_S, command__soft_start_scale=SOFT) as rig:
        rig.moves()
        rig.ears.trigger("command/hold")
        rig.stands()
        held = rig.positions[-1]
        rig.node.send(signal.SIGKILL)
        assert rig.node.wait() == -signal.SIGKILL
        time.sleep(0.3)  # until what it sent last has arrived
        before, reports = len(rig.executed.messages), len(rig.reports.messages)
        used = rig.used()
        measured = rig.positions[-1] + SAG
        assert (measured == held + SAG).all()
        rig.body.position = dict(zip(JOINTS, measured.tolist(), strict=True))

        # A policy that knows nothing of it goes on.
        with rig.ears.insisting(lambda: rig.chunks.publish(stay(rig.ears.now(), held + WAY))):
            rig.start()
            rig.executed.wait_for(lambda m: bool((np.abs(m.position - measured) > MOVED).all()), before, "not followed")
        after = rig.positions[before:]
        assert (after[0] == measured).all(), "the first set-point is not the measured position"
        ticks = int(np.argmax((after != measured).any(axis=1)))
        assert ticks > 0
        # Afterwards, too, from rest: no jump, and until the limits have risen no more than the soft start allows.
        used = {kind: max(share, used[kind]) for kind, share in within_limits(after, rig.robot).items()}
        stamps = rig.stamps[before : before + len(after)]
        soft = stamps < stamps[ticks] + round(SOFT_S * 0.08 * 1e9)  # a step of the rise is a tenth
        assert within_limits(after[soft], rig.robot, SOFT)["acceleration"] > 0.1
        states = rig.states(reports)
        assert states[:2] == ("inactive", "starting") or states[0] == "starting"
        assert rig.status()["faults"] == ""
        record(
            Reaction(
                "node restarted while holding", "the first set-point at the measured position", 1, 1, 1, 0, states[:4], (), used
            ),
            record_property,
        )
