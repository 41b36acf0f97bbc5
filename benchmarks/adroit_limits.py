"""Measure what Adroit's actuators can do and write its robot files.

For every actuator: the largest joint speed, acceleration and jerk (means over one 10 ms control step, by backward differences
from rest) after a command step across the whole command range, in both directions, the rest of the hand at zero, until the
joint meets its stop. A group's limit is the median of its joints, rounded up: no set-point has to be faster than the actuators
can follow. They are at their full acceleration within one control step (jerk · 10 ms is 91 to 109% of it), so the jerk limit
is no less than that: then the experts still do what they did (door, hammer, relocate: 40 of 40 with it and without).
The pen task gets what its published expert commands at the 99.9th percentile instead (wrist 38 rad/s and 4,700 rad/s²,
fingers 61 and 7,200, both capped to one round figure; jerk of its commands within those 980,000 and 880,000 rad/s³), because
the expert turns the pen by flicking: over 40 seeds it turns 17 at the wrist's step response, 37 at these limits, 37 without any.

    python benchmarks/adroit_limits.py --out config/robots
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from flow_policy_ros.sim.robot import AdroitRobot, _make_environment
from flow_policy_ros.sim.tasks import TASKS

GROUP_OF_PREFIX = {"ART": "arm_slide", "ARR": "arm_rotation", "WRJ": "wrist", "FFJ": "first_finger", "MFJ": "middle_finger",
                   "RFJ": "ring_finger", "LFJ": "little_finger", "THJ": "thumb"}
LIMIT_CLASS = {"arm_slide": "slide", "arm_rotation": "rotation", "wrist": "wrist"}
CONTROL_STEP_S = 0.01
PEN = (50.0, 5000.0, 1e6)  # from full acceleration to full deceleration within one control step
PEN_SOURCE = " (pen: about p99.9 of the published expert's commands, which turn 37 of 40 pens so shaped and 37 of 40 unshaped)"


def simulated(task: str) -> AdroitRobot:
    """The task's robot with its actuators' joints in actuator order."""
    model = _make_environment(TASKS[task]).model
    joints = tuple(model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu))
    return AdroitRobot(task, SimpleNamespace(joints=joints, cameras=(), path="(none)"))


def step_response(robot: AdroitRobot, joint: int) -> tuple[float, float, float]:
    """(speed, acceleration, jerk) maxima of one joint after steps across its command range, rad or m, s."""
    import mujoco

    model, data, lower, upper = robot.model, robot.data, *robot.command_range()
    name = robot.robot.joints[joint]
    maxima = np.zeros(3)
    for start, goal in ((0, upper), (1, lower)):
        mujoco.mj_resetData(model, data)
        data.qpos[model.joint(name).qposadr[0]] = model.joint(name).range[start]
        target = np.clip(np.zeros(len(lower)), lower, upper)
        target[joint] = goal[joint]
        data.ctrl[:] = target[robot._command_index] / robot._rest_per_control
        trace = []
        for _ in range(60):
            mujoco.mj_step(model, data, 5)
            position = data.qpos[model.joint(name).qposadr[0]]
            if trace and not model.joint(name).range[0] <= position <= model.joint(name).range[1]:
                break  # what follows is the stop's doing, not the actuator's
            trace.append(data.qvel[model.joint(name).dofadr[0]])
        speed = np.array([0.0, *trace])
        acceleration = np.diff(speed) / CONTROL_STEP_S
        jerk = np.diff([0.0, *acceleration]) / CONTROL_STEP_S
        maxima = np.maximum(maxima, [np.abs(series).max() for series in (speed, acceleration, jerk)])
    return float(maxima[0]), float(maxima[1]), float(maxima[2])


def round_up(value: float) -> float:
    """Two significant digits, upwards."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit) * unit, 6)


def robot_file(task: str) -> str:
    """The YAML text of one task's robot file."""
    robot = simulated(task)
    joints = robot.robot.joints
    group = {j: GROUP_OF_PREFIX[j[:3]] for j in joints}
    measured: dict[str, list[tuple[float, float, float]]] = {}
    for i, joint in enumerate(joints):
        measured.setdefault(LIMIT_CLASS.get(group[joint], "finger"), []).append(step_response(robot, i))
    limit = {kind: np.median(np.array(maxima), axis=0) for kind, maxima in measured.items()}
    lower, upper = robot.command_range()
    source = (
        "command range: ctrlrange * gain / -bias of each actuator of the MuJoCo model; velocity, acceleration and jerk: median "
        "step response of the joint's group, jerk no less than full acceleration within 10 ms, measured by "
        "benchmarks/adroit_limits.py"
        + (PEN_SOURCE if task == "pen" else "")
    )
    lines = [
        f"# Adroit hand, {task} task ({len(joints)} joints). Written by benchmarks/adroit_limits.py; units rad, m, s.",
        "/**:", "  ros__parameters:", "    robot:", f"      name: adroit_{task}", f"      limits_source: >-\n        {source}",
        "      joint_state_topic: joint_states", "      command_topic: joint_command",
        "      command_interface: joint_trajectory", f"      joints: [{', '.join(joints)}]", "      groups:",
    ]
    for name in dict.fromkeys(group.values()):
        lines.append(f"        {name}: [{', '.join(j for j in joints if group[j] == name)}]")
    lines += [
        "      cameras:", "        front:", "          topic: camera/image_raw", "          width: 256", "          height: 256",
        "          rate_hz: 12.5",
        "      # position: range of commands, which goes beyond the joint's stops so that the servo can press",
        "      limits:",
    ]
    for i, joint in enumerate(joints):
        kind = LIMIT_CLASS.get(group[joint], "finger")
        speed, acceleration, jerk = (round_up(x) for x in limit[kind])
        jerk = max(jerk, round(acceleration / CONTROL_STEP_S, 6))
        if task == "pen":
            speed, acceleration, jerk = PEN
        position = f"[{lower[i]:.4f}, {upper[i]:.4f}]"
        lines.append(
            f"        {joint}: {{position: {position}, velocity: {speed}, acceleration: {acceleration}, jerk: {jerk:.1f}}}"
        )
    lines += [
        "    policy:", "      rate_hz: 25.0", "    command:", "      rate_hz: 100.0",
        "      # A simulated servo, driven against its stops from the first tick, in episodes of 2 s. A robot that can break",
        "      # keeps the defaults of these two, which bound the first command and let the robot begin slowly.",
        "      first_command_max: 10.0", "      soft_start_s: 0.0", *SPLICE.get(task, ()),
        "    sim:", f"      task: {task}", "",
    ]
    return "\n".join(lines)


# Of 40 pens a policy turned 30 when each new chunk took over at once, 23 when it was joined within 20 ms.
SPLICE = {"pen": ("      # Turning a pen is lost in the time that joining chunks smoothly takes.", "      splice_s: 0.0")}


def main() -> None:
    """Write one robot file per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("config/robots"), help="folder of the robot files")
    out = parser.parse_args().out
    for task in TASKS:
        (out / f"adroit_{task}.yaml").write_text(robot_file(task))
        print(out / f"adroit_{task}.yaml")


if __name__ == "__main__":
    main()
