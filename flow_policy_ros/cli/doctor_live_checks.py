"""Judging what was seen of a running robot: each problem with what it costs and what to change. Knows no ROS, listens to nobody.

What was seen comes from ``ros.live_look``, what ought to be from the robot file. A remedy begins with what
the problem costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from flow_policy_ros.cli.doctor import Check
from flow_policy_ros.ros.live_facts import Heard, LiveFacts, TopicFacts
from flow_policy_ros.runtime.parameters import CommandParameters, PolicyParameters, from_flat
from flow_policy_ros.runtime.robot import Robot

SLOW, SLOW_NOTE = 0.5, 0.9
"""Of the rate that was to be: below the first it is a problem, below the second a note."""
FUTURE_MS, FUTURE_SIMULATED_MS = 5.0, 100.0
"""A simulated clock goes in steps, and may arrive after what was measured."""
OFFSET_MS = 10.0
REPEATED = 0.1
"""Of messages, with the stamp of the one before."""
COMPRESSED = "/compressed"
LISTENERS = ("recorder_node", "flight_recorder_node", "view_node", "dashboard_node", "marker_node", "rosbag2_recorder")
"""Who listens to commands without obeying them."""
CHUNK, EXECUTED = "policy/chunk", "command/executed"
COMMANDS = "commands"


@dataclass(frozen=True)
class Expected:
    """What a topic is to be: messages of ``what`` at ``rate_hz`` (0: any), no older than ``max_age_s`` (None: any). ``sensor`` says
    that it is measured, else one publisher alone may decide on it. Without ``needed`` nobody has to publish it."""

    topic: str
    what: str
    rate_hz: float = 0.0
    max_age_s: float | None = None
    needed: bool = False
    sensor: bool = True


def expected(robot: Robot, namespace: str = "") -> list[Expected]:
    """Of a robot file; names within ``namespace`` become absolute."""
    command = from_flat(CommandParameters, "command", robot.parameters)
    policy = from_flat(PolicyParameters, "policy", robot.parameters)
    age = min(command.joint_state_max_age_s, policy.joint_state_max_age_s)
    rows = [Expected(robot.joint_state_topic, "joint states", command.rate_hz, age, needed=True)]
    for camera in robot.cameras:
        limit = policy.features_max_age_s if camera.max_age_s is None else camera.max_age_s
        rows.append(Expected(camera.topic, f"camera {camera.name}", camera.rate_hz, limit, needed=True))
        if camera.depth is not None:
            rows.append(Expected(camera.depth.topic, f"depth of {camera.name}", camera.rate_hz, limit))
    rows += [
        Expected(CHUNK, "chunks", policy.rate_hz, sensor=False),
        Expected(EXECUTED, "set-points", command.rate_hz, sensor=False),
        Expected(robot.command_topic, COMMANDS, sensor=False),
    ]
    return [Expected(**{**vars(row), "topic": absolute(row.topic, namespace)}) for row in rows]


def absolute(topic: str, namespace: str) -> str:
    """``topic`` as the graph calls it."""
    space = namespace.strip("/")
    return topic if topic.startswith("/") else f"/{space}/{topic}" if space else f"/{topic}"


def examine(facts: LiveFacts, rows: list[Expected]) -> list[Check]:
    """Everything that can be said; ``rows`` is empty without a robot file."""
    present = [(row, found) for row in rows if (found := published(facts, row.topic)) is not None]
    streams = [t for t in facts.topics.values() if t.heard and any(h.stamp is not None for h in t.heard)]
    sensors = {found.name for row, found in present if row.sensor} | {t.name for t in streams if "features" in t.name.split("/")}
    if not rows:
        sensors = {t.name for t in streams if t.name.rsplit("/", 1)[-1] not in ("executed", "plan", "chunk")}
    ages = {found.name: row.max_age_s for row, found in present if row.max_age_s is not None}
    checks = [
        *missing(facts, rows),
        *unread(facts),
        *(check for row, found in present for check in rates(row, found)),
        *(check for topic in streams for check in stamps(topic, topic.name in sensors, ages.get(topic.name), facts.simulated)),
        clocks(facts),
        *qualities(facts.topics.values()),
        *(check for row, found in present for check in crowd(row, found)),
        *obeyed(facts, rows),
        *doubles(facts),
        *reported(facts, rows),
    ]
    return checks


def published(facts: LiveFacts, topic: str) -> TopicFacts | None:
    """The topic, or its compressed form, if somebody publishes it."""
    for name in (topic, f"{topic}{COMPRESSED}"):
        if name in facts.topics and facts.topics[name].publishers:
            return facts.topics[name]
    return None


def problem(name: str, found: str, remedy: str) -> Check:
    """What has to be changed."""
    return Check(name, False, True, found, remedy)


def note(name: str, found: str, remedy: str) -> Check:
    """What one may want to change."""
    return Check(name, False, False, found, remedy)


def good(name: str, found: str) -> Check:
    """What is all right."""
    return Check(name, True, False, found)


def missing(facts: LiveFacts, rows: list[Expected]) -> list[Check]:
    """Topics that a robot needs and that nobody publishes, or on which nothing comes."""
    found = []
    for row in rows:
        topic = published(facts, row.topic)
        if row.needed and topic is None:
            remedy = (
                f"nothing moves without it. Start the driver of the {row.what}, or correct the topic in the robot file or "
                "--namespace."
            )
            found.append(problem(row.topic, f"nobody publishes {row.what}", remedy))
        elif topic is not None and topic.name in facts.unknown:
            remedy = "it could not be judged. Install the package of that type, and source it."
            found.append(note(topic.name, f"the type {facts.unknown[topic.name]} is not known here", remedy))
        elif topic is not None and row.needed and not topic.heard:
            remedy = (
                "the robot stands still without it. See the log of that node; between machines, see the DDS settings below, and "
                "firewalls."
            )
            found.append(problem(topic.name, f"published by {_who(topic)}, and no message in {facts.seconds:g} s", remedy))
    return found


def unread(facts: LiveFacts) -> list[Check]:
    """Topics on which somebody sends what is no message of their type."""
    remedy = "they were passed over, as nodes do. Find who sends them: a bridge, or packages of another version."
    return [note(name, f"{count} messages could not be read", remedy) for name, count in facts.unread.items()]


def rates(row: Expected, topic: TopicFacts) -> list[Check]:
    """Against what the robot file says, and the largest gap against the greatest age."""
    if not topic.heard:
        return []
    rate = topic.rate_hz
    found = []
    text = f"{'one message' if rate is None else f'{rate:.1f} Hz'}, largest gap {1e3 * topic.largest_gap_s:.0f} ms"
    if row.rate_hz and rate is not None and rate < SLOW_NOTE * row.rate_hz:
        remedy = (
            f"{row.what} come at {rate:.1f} Hz where the robot file says {row.rate_hz:g}: what is made of them is older than in "
            "training. Look for an overloaded machine or network, or correct the rate in the robot file."
        )
        say = problem if rate < SLOW * row.rate_hz else note
        found.append(say(f"{topic.name} rate", f"{text}; {row.rate_hz:g} Hz in the robot file", remedy))
    if row.max_age_s is not None and topic.largest_gap_s > row.max_age_s:
        remedy = (
            f"a gap of {topic.largest_gap_s:.2f} s is longer than {row.what} may be old ({row.max_age_s:g} s): the robot stops in "
            "it. Look for what holds the publisher up, or for a lossy network."
        )
        found.append(problem(f"{topic.name} gaps", text, remedy))
    return found or [good(f"{topic.name} rate", text)]


def stamps(topic: TopicFacts, sensor: bool, max_age_s: float | None, simulated: bool) -> list[Check]:
    """Header stamps: missing, frozen, out of order, in the future, too old."""
    given = [h.stamp for h in topic.heard if h.stamp is not None]
    name, count, who = f"{topic.name} stamps", len(given), _who(topic)
    if not any(given):
        remedy = (
            f"{who} stamps nothing: the robot takes all of it for too old, and stands still. Let the driver fill header.stamp with "
            "the instant of the measurement."
        )
        return [problem(name, f"all {count} are zero", remedy)] if sensor else []
    pairs = [pair for gid in {h.publisher for h in topic.heard} for pair in _successive(topic, gid)]
    frozen, back = sum(a == b for a, b in pairs), sum(b < a for a, b in pairs)
    found = []
    if sensor and frozen > REPEATED * len(pairs):
        remedy = (
            f"{who} publishes again what it measured before: the robot sees a world that stands still. Look whether the sensor "
            "hangs, and let the driver publish new measurements only."
        )
        found.append(problem(name, f"{frozen} of {count} repeat the one before", remedy))
    if back:
        remedy = (
            f"messages of {who} come out of order, or a clock was set back: those that are older are not used. Stamp with one "
            "clock; look for two threads that publish."
        )
        found.append(problem(name, f"{back} of {count} go back", remedy))
    ages = topic.ages_ms()
    p50, p99 = (float(np.percentile(ages, q)) for q in (50, 99))
    text = f"age p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    if sensor and p50 < -(FUTURE_SIMULATED_MS if simulated else FUTURE_MS):
        remedy = (
            f"{who} stamps with another clock than this machine's: what is old looks fresh, and no age limit protects the robot. "
            "Synchronise the clocks (chrony, PTP), or let the driver stamp with the system's."
        )
        found.append(problem(name, f"{-p50:.1f} ms in the future", remedy))
    if sensor and max_age_s is not None and p99 > 1e3 * max_age_s:
        remedy = (
            f"what {who} says is too old when it comes: the robot stops. Look for queues, compression, exposure, and the clocks "
            "below; or raise the greatest age in the robot file, for a policy that was trained with such delays."
        )
        found.append(problem(name, f"{text}; at most {1e3 * max_age_s:.0f} ms allowed", remedy))
    return found or [good(name, text)]


def clocks(facts: LiveFacts) -> Check:
    """How far publishers' clocks are from this machine's, by the least time that a message seems to have been on its way."""
    least: dict[str, float] = {}
    for topic in facts.topics.values():
        for heard in topic.heard:
            who = _sender(topic, heard)
            if heard.sent is not None and who:
                least[who] = min(least.get(who, np.inf), (heard.arrived - heard.sent) / 1e6)
    if not least:
        return good("clocks", "not told by this middleware, or nothing was heard")
    worst = max(least, key=lambda node: abs(least[node]))
    text = "least time on the way: " + ", ".join(f"{node} {ms:.1f} ms" for node, ms in sorted(least.items()))
    if all(-1.0 <= ms <= OFFSET_MS for ms in least.values()):
        return good("clocks", text)
    side = "ahead of" if least[worst] < 0 else "behind"
    remedy = (
        f"the clock of {worst} is {side} this machine's by about {abs(least[worst]):.0f} ms, or every one of its messages is that "
        "late: ages are wrong by as much. Synchronise the machines: chrony with one of them as the server, or PTP."
    )
    return problem("clocks", text, remedy)


def _sender(topic: TopicFacts, heard: Heard) -> str:
    """Node that sent a message; "" where that is not known. Before Kilted no message says it: then the only one that publishes."""
    nodes = {end.node for end in topic.publishers if not heard.publisher or end.gid.startswith(heard.publisher)}
    return nodes.pop() if len(nodes) == 1 else ""


def qualities(topics: Iterable[TopicFacts]) -> list[Check]:
    """Publishers and subscribers that never hear of each other."""
    found = []
    for topic in topics:
        for miss in topic.mismatches:
            remedy = (
                f"no message of {miss.publisher} reaches {miss.subscriber}, and neither says so. Let the publisher be reliable (and"
                " transient local, where late readers are to be told), or the subscriber ask for best effort."
            )
            text = f"{miss.subscriber} hears nothing of {miss.publisher}: {miss.reason}"
            found.append(problem(f"{topic.name} QoS", text, remedy))
        if len(topic.types) > 1:
            remedy = "who means one type hears nothing of the other. Rename one of the topics."
            found.append(problem(f"{topic.name} type", f"several: {', '.join(topic.types)}", remedy))
    return found or [good("QoS", "every subscriber can hear every publisher")]


def crowd(row: Expected, topic: TopicFacts) -> list[Check]:
    """More than one publisher."""
    if len(topic.publishers) < 2:
        return []
    text = f"{len(topic.publishers)} publish {row.what}: {_who(topic)}"
    if row.sensor:
        remedy = "messages of each have to be complete, and newer than those of the other. Stop one, or merge them into one topic."
        return [note(f"{topic.name} publishers", text, remedy)]
    remedy = "two sources fight over the robot, message by message. Stop all but one."
    return [problem(f"{topic.name} publishers", text, remedy)]


def obeyed(facts: LiveFacts, rows: list[Expected]) -> list[Check]:
    """Whether anybody obeys the commands that are sent."""
    found = []
    for row in rows:
        topic = facts.topics.get(row.topic)
        if row.what != COMMANDS or topic is None or not topic.publishers:
            continue
        obeys = [end.node for end in topic.subscribers if end.node.rsplit("/", 1)[-1] not in LISTENERS]
        remedy = "the robot does not move, and a tracking fault follows. Start its controller, or correct robot.command_topic."
        heard = good(row.topic, f"obeyed by {', '.join(obeys)}")
        found.append(heard if obeys else problem(row.topic, "nobody obeys the commands", remedy))
    return found


def doubles(facts: LiveFacts) -> list[Check]:
    """Nodes of one name."""
    remedy = "services and parameters reach one of them by chance, and each publishes. End all but one."
    return [problem(name, f"{count} nodes of this name", remedy) for name, count in Counter(facts.nodes).items() if count > 1]


def reported(facts: LiveFacts, rows: list[Expected]) -> list[Check]:
    """What nodes say of themselves, and how well the command node keeps its period."""
    periods_ms = {row.topic: 1e3 / row.rate_hz for row in rows if row.topic.endswith(EXECUTED)}
    found = []
    for said in facts.said:
        name = f"says {said.name}"
        say = problem if said.level >= 2 else note
        remedy = "the robot stands still, or does other than it is to. What it says names the remedy; docs/reference.md has faults."
        found.append(say(name, said.message, remedy) if said.level else good(name, said.message))
        robot, _, node = said.name.rpartition("/")
        if node != "command":
            continue
        late = int(said.last.get("missed_deadlines", 0)) - int(said.first.get("missed_deadlines", 0))
        error = float(said.last.get("period_error_ms.p99", 0.0))
        text = f"p99 error {error:.2f} ms, {late} deadlines missed meanwhile; {said.last.get('realtime', 'lockstep')}"
        remedy = (
            "set-points come late, and the motion jerks. Give the command node real-time priority (below) and a core of its own, "
            "and the policy fewer threads."
        )
        late_often = late > 0 or error > 0.5 * periods_ms.get(absolute(EXECUTED, robot), math.inf)
        name = f"control period{f' of {robot}' if robot else ''}"
        found.append(problem(name, text, remedy) if late_often else good(name, text))
    return found


def _successive(topic: TopicFacts, publisher: bytes) -> list[tuple[int, int]]:
    """Stamps of one publisher's message and its next."""
    return list(pairwise(h.stamp for h in topic.heard if h.publisher == publisher and h.stamp is not None))


def _who(topic: TopicFacts) -> str:
    return ", ".join(sorted(end.node for end in topic.publishers)) or "nobody"
