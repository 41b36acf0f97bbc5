"""The steps of a bring-up: how ``lead_node`` is called while it does one of them, and the topics and services that it then uses.

Data alone, beside the table of ``interfaces``: a bring-up is made of these names, the SROS 2 profiles too.
"""

from __future__ import annotations

from flow_policy_ros.ros.interfaces import LOCKSTEP, Interface

LEAD = "lead_node"
"""The program."""
CONFIGURE, ACTIVATE, BEGIN = "configure_command", "activate_command", "begin"
"""Its name as a node, by what it does."""
COMMAND = "command_node"
CHUNKS = "policy/chunk"
"""What is waited for before the command node is activated; in lockstep ``READY``, for there chunks come only with ticks, and these
once a simulation or a recording has been begun."""
READY = "policy/reset"
SIM_RESET, SIM_STATUS, PLAYER_START = "sim/reset", "sim/status", "player/start"
BEFORE_RESET, AFTER_RESET = (READY, "command/reset"), ("command/reset",)
"""Services around one that puts the simulated robot elsewhere; in real time the command node would call that a fault."""

_TRIGGER = "std_srvs/srv/Trigger"
_LEADS = (
    Interface("subscribes", "/rosout", "rcl_interfaces/msg/Log", "RECORD", "Why the command node refuses."),
    Interface("subscribes", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "READER", "What is being waited for."),
    Interface("requests", f"{COMMAND}/get_state", "lifecycle_msgs/srv/GetState", "", "Where the command node is."),
    Interface("requests", f"{COMMAND}/change_state", "lifecycle_msgs/srv/ChangeState", "", "Its next state."),
)
STEPS: dict[str, tuple[Interface, ...]] = {
    CONFIGURE: (
        *_LEADS,
        Interface("subscribes", "command/executed", "sensor_msgs/msg/JointState", "READER", "Whether there is another one."),
    ),
    ACTIVATE: (
        *_LEADS,
        Interface("subscribes", CHUNKS, "trajectory_msgs/msg/JointTrajectory", "READER", "Whether the policy gives chunks."),
        Interface("requests", READY, _TRIGGER, "", "Whether the policy is up; it is not called.", LOCKSTEP),
    ),
    BEGIN: (
        *_LEADS[:2],
        Interface("subscribes", SIM_STATUS, "diagnostic_msgs/msg/DiagnosticStatus", "LATCHED", "Whether the episode is over."),
        *(
            Interface("requests", name, _TRIGGER, "", "Called, so that an episode or a recording begins.")
            for name in dict.fromkeys((*BEFORE_RESET, SIM_RESET, *AFTER_RESET, PLAYER_START))
        ),
    ),
}
"""What each uses beside what every node has."""
