"""Why a parameter keeps the value of the node's start. Which ones do is said in ``parameters``, where they are defined."""

from __future__ import annotations

FEATURES = "policies are trained on features made in one way, and the network that makes them is loaded at start."
FILES = "it names what the node reads or writes from its start on."
LAYOUT = "the node is built for it."
SWITCH = "what keeps the robot from moving must not be switched off from elsewhere."
SYSTEM = "it is asked of the operating system before the first tick."

REASONS: dict[str, str] = {
    "perception": FEATURES,
    "perception.allow_pickle": "the detector is loaded at start, and loading such a file executes its code.",
    "perception.threads": "the tensor library's threads are shared out at start.",
    "policy.checkpoint": "the robot is checked against it, and the topics of its features are listened to, at start.",
    "policy.backend": "the network is loaded or compiled at start.",
    "policy.threads": "the tensor library's threads are shared out at start.",
    "policy.profile": "the stages are wrapped at start.",
    "command": LAYOUT,
    "command.rate_hz": "limits hold between consecutive set-points of one period, and plans, jerk filter and real-time budget are "
    "laid out for it.",
    "command.autostart": "it says how the node begins; call the service command/enable.",
    "command.deadman": SWITCH,
    "command.deadman_button": SWITCH,
    "command.dry_run": "no change of a parameter may set a robot in motion that stood still by intent.",
    "command.collision_margin": "the robot's shape is read, and pairs of links are chosen for the margin, at start.",
    "command.realtime_priority": SYSTEM,
    "command.lock_memory": SYSTEM,
    "command.wake_ahead_s": "ticks would come at other instants in the middle of a motion.",
    "command.statistics_s": "what was measured so far would be of another time.",
    "sim": "the simulated robot is built for it.",
    "player": FILES,
    "lockstep": "all nodes of a run have to have the same from the first tick on.",
    "recorder": FILES,
    "flight": FILES,
    "markers": FILES,
    "dashboard": LAYOUT,
}
"""By full name, or by block for all others of it."""


def why_at_start(name: str) -> str:
    """A sentence for a parameter such as ``policy.threads``; one of a block that is not listed is read at start."""
    return REASONS.get(name) or REASONS.get(name.partition(".")[0]) or "it is read when the node starts."
