"""What is wrong with a recording by itself, in sentences with the remedy. Against a robot or a checkpoint: ``data.inspection_fit``.

A problem makes a recording worse for learning or judging; a note is worth knowing and harms nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from flow_policy_ros.data.inspection_found import ImagesFound, Inspection, JointsFound, LayoutFound, StampsFound, TopicFound
from flow_policy_ros.data.inspection_roles import differing, main_layout, roles
from flow_policy_ros.runtime.robot import Robot

CLOCK_MS = 1000.0
"""Stamps that lie farther from the receipt than this belong to another clock, or to the simulator's."""
PAUSE_S, PAUSE_PERIODS = 0.5, 10.0
"""A pause is longer than this, and than so many typical periods."""
CLOCK_S = 3600.0
JUMP, JUMP_SPEED = 10.0, 5.0
"""A joint jumps when it is so many times faster than it reports, and than this, rad/s or m/s."""
EARLY_MS = 5.0
"""Stamps may be later than the receipt by the step of a clock."""
MANY = 8


@dataclass(frozen=True)
class Findings:
    """Sentences in the order of importance."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def findings(inspection: Inspection, robot: Robot | None = None) -> Findings:
    """Everything that shows in the recording alone; the reader's own sentences come first.

    With a robot file, what it has to say about names is left to ``data.inspection_fit``, and its order of joints is no surprise.
    """
    problems = [*inspection.problems]
    if inspection.messages == 0:
        problems.append(
            "the recording has no messages: nothing can be replayed or learnt from it. Record again, and check that the topics are "
            "published."
        )
    problems += _undecodable(inspection)
    if inspection.messages and not inspection.joints:
        problems.append(
            "the recording has no joint values: no JointState, JointTrajectory, controller state or Float64MultiArray could be "
            "read. "
            "Without them nothing can be replayed; record the topics of the robot file with flow_policy record."
        )
    if inspection.silence_s > CLOCK_S:
        problems.append(
            f"between two messages lie {inspection.silence_s / 3600:.1f} h: the recorder's clock was set while it recorded, or "
            "some instants "
            "of receipt are none. Look at the topics' first messages; duration and rates mean little here."
        )
    for joints in inspection.joints:
        problems += _joints(joints)
    if robot is None:
        problems += _unnamed(inspection)
        problems += _naming(inspection)
    watched = {joints.topic for joints in inspection.joints} | {images.topic for images in inspection.images}
    for stamps in inspection.stamps:
        if stamps.topic in watched:
            problems += _stamps(stamps)
    for topic in inspection.topics:
        if topic.name in watched:
            problems += _pauses(topic)
    for images in inspection.images:
        problems += _images(images)
    return Findings(tuple(dict.fromkeys(problems)), tuple(_notes(inspection, robot)))


def some(names: tuple[str, ...] | list[str]) -> str:
    """Names joined by commas, of many only the first."""
    return ", ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")


def label(joints: JointsFound | LayoutFound) -> str:
    """``/joint_states``, or with the part of the message that is meant."""
    return f"{joints.topic} ({joints.part})" if joints.part else joints.topic


def _undecodable(inspection: Inspection) -> Iterator[str]:
    for topic in inspection.topics:
        if topic.refused and not topic.type.endswith("_Event"):
            yield f"{topic.name}: {topic.refused} of {topic.count} messages could not be used, the first because: {topic.why}"
        if topic.listed is not None and topic.listed != topic.count:
            yield f"{topic.name}: {topic.count} messages could be read, {topic.listed} are in the recording's index."


def _joints(joints: JointsFound) -> Iterator[str]:
    where = label(joints)
    for count, what in (
        (joints.uneven, "have not one value per name"),
        (joints.crowded, "name more different lists of joints, or have more values, than can be followed"),
    ):
        if count:
            yield f"{where}: {count} messages {what}. They are of no use; correct their publisher."
    broken = sum(layout.not_finite for layout in joints.layouts)
    if broken:
        yield f"{where}: {broken} messages hold NaN or Inf. A robot refuses such joint states; correct their publisher."
    if len({frozenset(layout.names) for layout in joints.layouts}) > 1:
        lists = "; ".join(f"({some(layout.names) or 'no names'}) {layout.count} times" for layout in joints.layouts[:4])
        yield (
            f"{where}: messages do not all name the same joints: {lists}. Several publishers share the topic; only messages with "
            "all "
            "of the robot's joints are used."
        )
    layout = main_layout(joints)
    if layout is None:
        return
    yield from _jumps(where, layout)
    still = [joint.name or f"column {k}" for k, joint in enumerate(layout.joints) if joint.still]
    if len(still) == len(layout.joints):
        yield (
            f"{where}: no joint moves, every dimension is constant ({some(still)}). Nothing can be learnt from such a recording, "
            "and a "
            "policy's error in it says nothing; record while the robot moves."
        )
    elif still:
        yield (
            f"{where}: dead joints, which hold still in the whole recording: {some(still)}. What a policy does with them cannot be "
            "judged."
        )


def _jumps(where: str, layout: LayoutFound) -> Iterator[str]:
    jumping = [
        f"{joint.name or f'column {k}'} ({joint.velocity:.3g} per second, reported {joint.reported_velocity:.3g})"
        for k, joint in enumerate(layout.joints)
        if joint.reported_velocity and joint.velocity > max(JUMP * joint.reported_velocity, JUMP_SPEED)
    ]
    if jumping:
        yield (
            f"{where}: positions jump, far faster than the velocities that are reported: {some(jumping)}. A sensor's glitch, or "
            "messages "
            "were lost; a robot takes such a jump for motion."
        )


def _unnamed(inspection: Inspection) -> Iterator[str]:
    commands = roles(inspection).commands
    for joints in inspection.joints:
        key = "robot.recorded.command_order" if joints in commands else "robot.joint_state_order"
        for layout in joints.layouts:
            if not layout.named:
                yield (
                    f"{label(joints)}: {layout.count} messages have {len(layout.joints)} values and no joint names. Say in the "
                    "robot "
                    f"file which they are: {key}."
                )


def _naming(inspection: Inspection) -> Iterator[str]:
    pair = differing(inspection)
    if pair is None:
        return
    state, command = pair
    if state.named and command.named:
        yield (
            f"states and commands call the joints differently: {label(state)} has {some(state.names)}, {label(command)} has "
            f"{some(command.names)}. Say in the robot file what they mean: robot.joint_state_names and "
            "robot.recorded.command_names."
        )


def _stamps(stamps: StampsFound) -> Iterator[str]:
    where = stamps.topic
    if stamps.zero:
        yield (
            f"{where}: {stamps.zero} of {stamps.count} header stamps are zero, so that the age of these messages cannot be known. "
            "Correct "
            "the publisher; for what is recorded already use --stamps receive."
        )
    typical = stamps.delay_p50_ms
    if typical is not None and abs(typical) > CLOCK_MS:
        yield (
            f"{where}: header stamps lie {abs(typical) / 1e3:.3f} s {'before' if typical > 0 else 'after'} the receipt: another "
            "clock, or "
            "simulated time. Synchronise the clocks; for what is recorded already use --stamps receive."
        )
    elif stamps.early and -(stamps.delay_min_ms or 0.0) > EARLY_MS:
        yield (
            f"{where}: {stamps.early} of {stamps.count} header stamps are later than the receipt, by up to "
            f"{-(stamps.delay_min_ms or 0.0):.3f} ms. The clocks of publisher and recorder differ; synchronise them."
        )
    if stamps.back:
        yield (
            f"{where}: {stamps.back} of {stamps.count} header stamps are older than one before them. The clock was set back, "
            "messages "
            "overtake each other, or several publishers share the topic."
        )


def _pauses(topic: TopicFound) -> Iterator[str]:
    gap, typical = topic.max_gap_s, topic.typical_hz
    if gap is not None and typical is not None and gap > PAUSE_S and gap > PAUSE_PERIODS / typical:
        yield (
            f"{topic.name}: nothing for {gap:.3f} s from {topic.max_gap_at_s or 0.0:.3f} s on, although it comes at {typical:.1f} "
            "Hz. Of such "
            "a stretch nothing is learnt, and a policy that needs the topic stops there."
        )


def _images(images: ImagesFound) -> Iterator[str]:
    where = images.topic
    if images.unreadable:
        yield (
            f"{where}: {images.unreadable} of {images.looked} images looked at could not be decoded, the first because: "
            f"{images.why}"
        )
    if images.plain and images.plain == images.looked:
        yield f"{where}: every image looked at is of one colour. Check that the camera's lens is free and that it is exposed."
    if images.count > 2 and images.repeated > images.count // 2:
        yield (
            f"{where}: {images.repeated} of {images.count} images are the same as the one before, to the last bit. The camera, or "
            "its "
            "driver, was stuck; of such a stretch nothing is learnt."
        )
    if len(images.sizes) > 1 or len(images.encodings) > 1:
        sizes = ", ".join(f"{width} × {height}" for width, height in images.sizes)
        yield f"{where}: images are not alike: sizes {sizes}, encodings {', '.join(images.encodings)}. A detector expects one size."


def _notes(inspection: Inspection, robot: Robot | None) -> Iterator[str]:
    for topic in inspection.topics:
        if len(set(topic.qos)) > 1:
            yield (
                f"{topic.name}: its publishers offered different qualities of service ({'; '.join(dict.fromkeys(topic.qos))}). A "
                "subscription "
                "that asks for the best of them does not hear the others."
            )
    json = [topic.name for topic in inspection.topics if topic.encoding == "json"]
    if json:
        yield f"messages of {some(json)} are JSON, not what ROS sends (CDR); they are read by their fields' names."
    old = [topic.name for topic in inspection.topics if topic.encoding == "ros1"]
    if old:
        yield "the recording is of ROS 1; its messages are read as those of ROS 2 with the same names."
    events = [topic.name for topic in inspection.topics if topic.type.endswith("_Event")]
    if events:
        yield f"service events are on {some(events)}; they say what services were asked, and are left alone."
    silent = [topic.name for topic in inspection.topics if topic.count == 0]
    if silent:
        yield f"no message on {some(silent)}."
    for joints in inspection.joints:
        layout = main_layout(joints)
        if layout is not None and _disordered(layout.names) and not (robot and _ordered_as(robot, layout.names)):
            yield (
                f"{label(joints)} has its joints in the order {some(layout.names)}. Whoever takes them by position gets the wrong "
                "ones; "
                "here they are matched by name."
            )
    for stamps in inspection.stamps:
        if stamps.early and 0.0 < -(stamps.delay_min_ms or 0.0) <= EARLY_MS:
            yield (
                f"{stamps.topic}: {stamps.early} of {stamps.count} header stamps are later than the receipt, by up to "
                f"{-(stamps.delay_min_ms or 0.0):.3f} ms."
            )
    found = roles(inspection)
    if not found.commands and found.states:
        yield (
            "no topic looks like commands: what the robot was told is not in the recording, or on a topic that a robot file has to "
            "name."
        )


def _disordered(names: tuple[str, ...]) -> bool:
    """Whether names that differ in their last number alone come neither in its order nor, as along many fingers, against it."""
    numbers: dict[str, list[int]] = {}
    for name in names:
        found = re.match(r"(.*?)(\d+)(\D*)$", name)
        if found is None:
            continue
        numbers.setdefault(found[1] + "#" + found[3], []).append(int(found[2]))
    return any(entries not in (sorted(entries), sorted(entries, reverse=True)) for entries in numbers.values())


def _ordered_as(robot: Robot, names: tuple[str, ...]) -> bool:
    """Whether the robot's joints come in the robot file's order, by their own names or by those that it gives them."""
    namings = [robot.naming, *([robot.recorded.naming] if robot.recorded else [])]
    meant = [names, *([naming.names.get(name, name) for name in names] for naming in namings)]
    return any(tuple(joint for joint in joints if joint in robot.joints) == robot.joints for joints in meant)
