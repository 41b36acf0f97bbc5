"""What each node says of itself on ``/diagnostics``: every key and its meaning. Data alone; a test holds it against the nodes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A key on ``/diagnostics``; ``<…>`` stands for any text, ``<a,b>`` for either. Others than ``always`` may be absent."""

    key: str
    text: str
    always: bool = False


_PERCENTILES = "<p50,p99,max>"

REPORTED: dict[str, tuple[Value, ...]] = {
    "command_node": (
        Value("state", "State of the safety stage.", True),
        Value("state_since", "Stamp of the tick that changed it, ns.", True),
        Value("lifecycle", "`active`, or the life-cycle state that it is in.", True),
        Value("emergency_stop", "Whether it is engaged; its fault stays when it is released, until a reset.", True),
        Value("dry_run", "`True` where nothing is sent to the controller (`command.dry_run`).", True),
        Value("faults", "Latched faults, with a blank between them; the message says what and what to do.", True),
        Value("enabled", "Whether chunks may be followed.", True),
        Value("chunk_age_ms", "Since the stamp of the newest chunk."),
        Value("plan_age_ms", "Since a chunk began to be followed."),
        Value("limit_scale.<lowest,highest>", "Factor on the robot file's velocity limits that is in force, of all joints.", True),
        Value("ticks", "Control ticks.", True),
        Value("ticks_active", "Of them with a chunk being followed.", True),
        Value("ticks_limited", "Of those with an intervention in at least one joint.", True),
        Value("joint_ticks_limited", "Joints changed by a limit, of all ticks.", True),
        Value("interventions.<kind>.<joint>", "Ticks in which that limit acted on that joint."),
        Value("chunks", "Chunks followed.", True),
        Value("chunks_slowed", "Of them slowed along their path.", True),
        Value("slowed.<velocity,acceleration>.<joint>", "Chunks slowed because of that joint."),
        Value("clipped.<joint>", "Chunks with points outside that joint's range."),
        Value("rejections.<kind>", "Refused inputs."),
        Value("last_rejection", "Why the last one was refused."),
        Value("fault_count.<fault>", "How often that fault was latched."),
        Value(f"period_error_ms.{_PERCENTILES}", "Of the intervals between ticks, in the window `command.statistics_s`."),
        Value("missed_deadlines", "Ticks that did not come within their period.", True),
        Value(f"stage_ms.{_PERCENTILES}", "Time of the safety stage in a tick, in the same window."),
        Value("publishers.<topic>", "How many publish that topic; two sources of chunks or commands are a warning.", True),
        Value("realtime", "What the operating system granted."),
    ),
    "policy_node": (
        Value("chunks", "Chunks published.", True),
        Value(f"inference_ms.{_PERCENTILES}", "Time of sampling."),
        Value(f"chunk_age_ms.{_PERCENTILES}", "From the joint state's stamp until the chunk is published."),
        Value("mode", "`policy.mode`.", True),
        Value("instruction", "The one in force; empty before the first.", True),
        Value("images", "Images received, of cameras that the policy looks at itself."),
        Value("dropped", "Of them not looked at, because a newer one came."),
        Value("lost_by_injection", "Images not used because of `lockstep.inject`."),
        Value(f"prefix_ms.{_PERCENTILES}", "Time from a received image to what the policy's vision-language model makes of it."),
        Value(
            "attention",
            "`drawn`, `nobody looks`, or why there is no `policy/attention`, or no new image on it.",
            True,
        ),
        Value(f"profile_ms.<stage>.{_PERCENTILES}", "With `policy.profile`: own time of that stage of a chunk."),
        Value(f"attention_ms.{_PERCENTILES}", "Time of computing what the policy looks at, beside its sampling."),
        Value("delay_ms", "From an observation until the robot obeys its chunk, as reckoned with; empty at first.", True),
        Value("clamped.<delay,execute>", "Chunks for which real-time chunking could not keep to these steps."),
        Value("rejections.<kind>", "Refused inputs."),
    ),
    "perception_node": (
        Value("images", "Images received.", True),
        Value("dropped", "Of them not looked at, because a newer one came.", True),
        Value("lost_by_injection", "Features not published because of `lockstep.inject`."),
        Value(f"perception_ms.{_PERCENTILES}", "Time from a received image to its features."),
        Value(f"features_age_ms.{_PERCENTILES}", "From the image's stamp until its features are published."),
        Value("rejections.<kind>", "Refused images."),
        Value("instruction", "The one in force, of models that read; with the first camera's."),
    ),
    "sim_node": (
        Value("state", "`idle`, `running` or `done`.", True),
        Value("step", "Control step of the episode.", True),
        Value(f"period_error_ms.{_PERCENTILES}", "Of the intervals between steps, in real time."),
        Value("missed_deadlines", "Steps that did not come within their period.", True),
        Value("rejections.<kind>", "Refused commands."),
    ),
    "player_node": (
        Value("state", "`idle`, `playing` or `done`.", True),
        Value("ticks", "Control ticks played.", True),
        Value("rejections.<kind>", "Pictures that cannot be read."),
    ),
    "recorder_node": (
        Value("state", "`idle` or `recording`.", True),
        Value("episode", "Folder of the episode that is being recorded, or was last.", True),
        Value("topics", "Topics that are listened to.", True),
        Value("received", "Messages received since the node began, also between episodes.", True),
        Value("messages", "Messages of the episode in the bag.", True),
        Value("seconds", "How long the episode has lasted.", True),
        Value("size_mb", "Size of the episode's bag.", True),
        Value("waiting_mb", "What waits for the disk.", True),
        Value("free_gb", "What is free on the disk.", True),
        Value("lost", "Messages of the episode that were sent and did not arrive; empty where the middleware does not tell.", True),
        Value("lost.<topic>", "Of them by topic."),
        Value("overflow.<topic>", "Messages of the episode that the disk was too slow for."),
    ),
    "flight_recorder_node": (
        Value("state", "`watching`, or `saving` while a bag is being written.", True),
        Value("topics", "Topics that are listened to.", True),
        Value("messages", "Messages in memory.", True),
        Value("memory_mb", "What they take of `flight.memory_mb`.", True),
        Value("seconds", "How far back they reach, without pictures and features.", True),
        Value("seconds_pictures", "How far back pictures and features reach.", True),
        Value("saved", "Bags saved since the node began.", True),
        Value("last", "Folder of the last of them.", True),
        Value("kept", "Bags in the folder.", True),
        Value("rejections.<kind>", "Reports that cannot be read."),
        Value("lost.<topic>", "Messages that were sent and did not arrive, since the node began."),
    ),
    "marker_node": (
        Value("links", "Links whose ways are drawn.", True),
        Value("watched", "Subscribers of `policy/markers`; without any nothing is drawn.", True),
        Value("chunks", "Chunks received.", True),
        Value("plans", "Plans received.", True),
        Value("published", "Messages on `policy/markers`.", True),
        Value(f"markers_ms.{_PERCENTILES}", "Time of drawing one."),
        Value("rejections.<kind>", "Refused inputs."),
    ),
    "dashboard_node": (),
    "view_node": (),
}
"""By node."""
