"""What is started for a robot, in which order, and with which parameters: one description, as plain data.

The launch files (``launching``) and ``flow_policy bringup`` (``supervisor``) only carry it out, by the rules of ``course``. Files
are looked for here, so that nothing is started when one is missing. Nothing of ROS is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flow_policy_ros import resources
from flow_policy_ros.ros.bringup_options import Common, PolicyOptions, RecordOptions, ReplayOptions, SimOptions, TwoOptions
from flow_policy_ros.ros.enclaves import enclave_of
from flow_policy_ros.ros.parameter_sources import CLOCK, Given, Value, from_file, given_for, refuse_strangers
from flow_policy_ros.ros.steps import (
    ACTIVATE,
    AFTER_RESET,
    BEFORE_RESET,
    BEGIN,
    CHUNKS,
    COMMAND,
    CONFIGURE,
    LEAD,
    PLAYER_START,
    READY,
    SIM_RESET,
)
from flow_policy_ros.runtime.parameters import ParameterError
from flow_policy_ros.runtime.robot import Robot, load_robot

OF_A_MODEL = ("backbone", "vlm")
"""Extractors whose weights are no detector's."""
NAMESPACE = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*")
DRY_RUN = "command.dry_run"
POLICY, PERCEPTION, SIM, PLAYER, RECORDER, FLIGHT, MARKERS = (
    "policy_node", "perception_node", "sim_node", "player_node", "recorder_node", "flight_recorder_node", "marker_node",
)  # fmt: skip
PATIENCE_S, STOP_PATIENCE_S = 4.0, 12.0
"""How long a node may take to end after it was asked to; the command node, which first brings the robot to a stand
(``nodes.runner.FINISH_S``), longer. A second signal would cut that short."""

LINGER_S = 6.0
"""The flight recorder takes the command node for dead after 3 s of silence, and then has to begin its bag."""


@dataclass(frozen=True)
class NodeDescription:
    """A process to start: ``module`` of ``flow_policy_ros.nodes`` (also the installed program), as node ``name`` in ``namespace``
    ("" or "/left").

    ``after`` are paths of others: of a ``task``, which ends by itself, it must have ended well; any other must have been started.
    ``respawn``: started again when it dies. ``onlooker``: when that is of no avail, the others go on. ``managed``: waits for a
    lifecycle manager. ``arguments`` are not ROS's. ``linger_s``: asked to end so much later than the others when one of them died.
    ``enclave`` is SROS 2's, "" for none.
    """

    module: str
    name: str
    namespace: str = ""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    remaps: Mapping[str, str] = field(default_factory=dict)
    respawn: bool = False
    managed: bool = False
    after: tuple[str, ...] = ()
    task: bool = False
    arguments: tuple[str, ...] = ()
    patience_s: float = PATIENCE_S
    linger_s: float = 0.0
    onlooker: bool = False
    enclave: str = ""

    @property
    def path(self) -> str:
        """The node's full name."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Bringup:
    """All that is started for ``text``, none named twice. Raises ``ValueError`` for names that do not fit together."""

    text: str
    nodes: tuple[NodeDescription, ...]

    def __post_init__(self) -> None:
        paths = [node.path for node in self.nodes]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"nodes of one name would disturb each other: {', '.join(twice)}; give them other name spaces.")
        for k, node in enumerate(self.nodes):
            strangers = [path for path in node.after if path not in paths[:k]]
            if strangers:
                raise ValueError(f"{node.path} is to come after {', '.join(strangers)}, which is not before it.")

    @property
    def enclaves(self) -> list[str]:
        """Those that the nodes are to run in."""
        return [node.enclave for node in self.nodes if node.enclave]


def policy_bringup(options: PolicyOptions) -> Bringup:
    """Perception, policy and command node of one robot. Raises ``ValueError`` for what cannot be started."""
    robot = load_robot(resources.robot_file(options.robot))
    nodes = _policy_nodes(options, robot, options.lockstep)
    return Bringup(f"policy for {robot.name}", _with_given(nodes, options))


def sim_bringup(options: SimOptions) -> Bringup:
    """The simulated robot with the nodes of ``policy_bringup``, or without. In lockstep time is the simulation's."""
    options = replace(options, use_sim_time=options.use_sim_time or options.lockstep)
    robot = load_robot(resources.robot_file(options.robot))
    nodes = _policy_nodes(options, robot, options.lockstep) if options.policy else _onlookers(options, robot, ())
    sim: dict[str, Value] = {
        **_common(options, robot, options.lockstep), "sim.realtime": not options.lockstep, "sim.seed": options.seed,
    }  # fmt: skip
    if options.instruction:
        sim["sim.instruction"] = options.instruction
    nodes.append(NodeDescription(SIM, SIM, namespace_of(options.namespace), sim, after=_configured(nodes)))
    if options.start:
        if not options.policy:
            calls: tuple[str, ...] = (SIM_RESET,)
        elif options.lockstep:
            calls = (*BEFORE_RESET, SIM_RESET)
        else:  # the robot goes on when its episode is over, in a scene that no policy was made for: another one follows
            calls = (*BEFORE_RESET, SIM_RESET, *AFTER_RESET, "--episodes")
        nodes.append(_begin(options.namespace, calls, nodes))
    return Bringup(f"simulated {robot.name}", _with_given(nodes, options))


def replay_bringup(options: ReplayOptions) -> Bringup:
    """A recording in the place of the robot, with the nodes of ``policy_bringup``; always in lockstep."""
    if not options.bag:
        raise ParameterError("no recording is given; give one with the option 'bag'.")
    bag = Path(options.bag).expanduser()
    if not bag.exists():
        raise ParameterError(f"the recording {bag} does not exist; give a bag's folder, or a .mcap, .db3 or .bag file.")
    robot = load_robot(resources.robot_file(options.robot))
    nodes = _policy_nodes(options, robot, True)
    player: dict[str, Value] = {
        **_common(options, robot, True), "player.bag": str(bag.resolve()), "player.features": options.features,
        "player.stamps": options.stamps,
    }  # fmt: skip
    nodes.append(NodeDescription(PLAYER, PLAYER, namespace_of(options.namespace), player, after=_configured(nodes)))
    if options.start:
        nodes.append(_begin(options.namespace, (PLAYER_START,), nodes))
    return Bringup(f"{bag.name} played to {robot.name}", _with_given(nodes, options))


def record_bringup(options: RecordOptions) -> Bringup:
    """The recorder alone. It is not started again: an episode would be cut in two without a word."""
    if not options.out:
        raise ParameterError("no folder for the recordings is given; give one with the option 'out'.")
    robot = load_robot(resources.robot_file(options.robot))
    recorder: dict[str, Value] = {
        "robot_file": robot.path, CLOCK: options.use_sim_time, "recorder.out": str(Path(options.out).expanduser().resolve()),
        "recorder.name": options.name, "recorder.topics": " ".join(options.topics), "recorder.autostart": options.start,
    }  # fmt: skip
    node = NodeDescription(RECORDER, RECORDER, namespace_of(options.namespace), recorder, patience_s=STOP_PATIENCE_S)
    return Bringup(f"recorder for {robot.name}", _with_given([node], options))


def two_robots(options: TwoOptions) -> Bringup:
    """``policy_bringup`` twice, in two name spaces; what the nodes of each say of themselves is on its own ``diagnostics``.

    Raises ``ValueError`` when the robots would share a controller, or joint states in which one is taken for the other.
    """
    nodes: list[NodeDescription] = []
    robots: list[tuple[str, Robot]] = []
    for side in ("left", "right"):
        own = {name: getattr(options, f"{side}_{name}") for name in ("robot", "checkpoint", "detector", "namespace", "markers")}
        shared = ("observation", "extractor", "model", "instruction", "use_sim_time", "managed", "lead", "dry_run")
        one = PolicyOptions(**own, **{name: getattr(options, name) for name in shared})
        space = namespace_of(one.namespace)
        one = replace(one, flights=f"{options.flights}{space}" if options.flights else "")
        if not space:
            raise ParameterError(f"the {side} robot has no name space; give one with the option '{side}_namespace'.")
        robot = load_robot(resources.robot_file(one.robot))
        robots.append((space, robot))
        apart = {"/diagnostics": f"{space}/diagnostics"}
        nodes += [replace(node, remaps={**node.remaps, **apart}) for node in _policy_nodes(one, robot, False)]
    _refuse_shared(*robots)
    text = " and ".join(f"{robot.name} in {space}" for space, robot in robots)
    return Bringup(text, _with_given(nodes, options))


def namespace_of(text: str) -> str:
    """``left`` and ``/left`` as ``/left``, nothing and ``/`` as nothing. Raises ``ParameterError``."""
    if text in ("", "/"):
        return ""
    if not NAMESPACE.fullmatch(text):
        raise ParameterError(f"the name space '{text}' is none; expected letters, digits and _ in parts joined by /, such as left.")
    return f"/{text.lstrip('/')}"


def _common(options: Common, robot: Robot, lockstep: bool) -> dict[str, Value]:
    return {"robot_file": robot.path, "lockstep.enabled": lockstep, CLOCK: options.use_sim_time}


def _policy_nodes(options: PolicyOptions, robot: Robot, lockstep: bool) -> list[NodeDescription]:
    """In the order of their start. The command node is configured first: what it refuses is known before a policy is loaded."""
    space, common = namespace_of(options.namespace), _common(options, robot, lockstep)
    led = options.managed and options.lead
    command = NodeDescription(
        COMMAND, COMMAND, space, {**common, "managed": options.managed} | ({DRY_RUN: True} if options.dry_run else {}),
        managed=options.managed, patience_s=STOP_PATIENCE_S,
    )  # fmt: skip
    nodes = [command]
    if led:
        nodes.append(_lead(CONFIGURE, space, ("configure", COMMAND), (command.path,)))
    after = (f"{space}/{CONFIGURE}",) if led else ()
    nodes += _onlookers(options, robot, after)
    if options.observation == "camera":
        seeing = {**common, **_perception(options, robot)}
        nodes.append(NodeDescription(PERCEPTION, PERCEPTION, space, seeing, respawn=True, after=after))
    deciding = {**common, **_policy(options, robot)}
    policy = NodeDescription(POLICY, POLICY, space, deciding, respawn=True, after=after)
    nodes.append(policy)
    if led:
        # Ticks of a simulation or a recording come only once it has been begun, and with them chunks.
        awaited = ("--service", READY) if lockstep else ("--topic", CHUNKS)
        nodes.append(_lead(ACTIVATE, space, ("activate", COMMAND, *awaited), (policy.path,)))
    return nodes


def _onlookers(options: PolicyOptions, robot: Robot, after: tuple[str, ...]) -> list[NodeDescription]:
    """They neither command nor are waited for. The flight recorder is there before the first command."""
    space = namespace_of(options.namespace)
    common: dict[str, Value] = {"robot_file": robot.path, CLOCK: options.use_sim_time}
    seen = []
    if options.flights:
        out = str(Path(options.flights).expanduser().resolve())
        flight = {**common, "flight.out": out}
        seen.append(NodeDescription(FLIGHT, FLIGHT, space, flight, patience_s=STOP_PATIENCE_S, linger_s=LINGER_S))
    if options.markers:
        urdf = Path(options.markers).expanduser()
        if not urdf.is_file():
            raise ParameterError(f"the URDF {urdf} does not exist; the marker node draws with it. Give its path, or no markers.")
        seen.append(NodeDescription(MARKERS, MARKERS, space, {**common, "markers.urdf": str(urdf.resolve())}))
    return [replace(node, respawn=True, onlooker=True, after=after) for node in seen]


def _lead(name: str, space: str, arguments: tuple[str, ...], after: tuple[str, ...]) -> NodeDescription:
    return NodeDescription(LEAD, name, space, after=after, task=True, arguments=arguments)


def _begin(namespace: str, calls: tuple[str, ...], nodes: Sequence[NodeDescription]) -> NodeDescription:
    """The task that makes ``calls``, after everything else."""
    return _lead(BEGIN, namespace_of(namespace), ("call", *calls), tuple(node.path for node in nodes))


def _configured(nodes: Sequence[NodeDescription]) -> tuple[str, ...]:
    """What a robot that is ours to start waits for, so that it is not left behind when the command node is refused."""
    return tuple(node.path for node in nodes if node.name == CONFIGURE)


def _policy(options: PolicyOptions, robot: Robot) -> dict[str, Value]:
    name = options.checkpoint or str(robot.parameters.get("policy.checkpoint", "")) or f"{robot.name}_{options.observation}"
    folder = resources.checkpoint(name)
    if not (folder / "config.json").is_file():
        raise ParameterError(
            f"{folder} is no checkpoint: it has no config.json. Give the folder that 'flow_policy train' wrote, or one that ships: "
            f"{', '.join(resources.names('checkpoints'))}."
        )
    chosen: dict[str, Value] = {"policy.checkpoint": str(folder)}
    return chosen | ({"policy.instruction": options.instruction} if options.instruction else {})


def _detector(name: str) -> Path:
    try:
        return resources.checkpoint(name)
    except resources.ResourceError as error:
        raise resources.ResourceError(
            f"no detector '{name}' for the perception node: give --detector, or --observation state without cameras. {error}"
        ) from error


def _perception(options: PolicyOptions, robot: Robot) -> dict[str, Value]:
    """What is not given is left to the robot file."""
    extractor = options.extractor or str(robot.parameters.get("perception.extractor", "detections"))
    chosen: dict[str, Value] = {"perception.extractor": extractor}
    if extractor not in OF_A_MODEL:
        if options.detector or "perception.detector" not in robot.parameters:
            chosen["perception.detector"] = str(_detector(options.detector or f"{robot.name}_detector"))
        return chosen
    if options.model:
        chosen["perception.model"] = options.model
    if options.instruction and extractor == "vlm":
        chosen["perception.instruction"] = options.instruction
    return chosen


def _with_given(nodes: Sequence[NodeDescription], options: Common | TwoOptions) -> tuple[NodeDescription, ...]:
    """The nodes with what files and single parameters say of them (the latter go before the former), in their enclaves."""
    singles = [Given.parse(text) for text in options.parameters]
    refuse_strangers(singles, [node.path for node in nodes if not node.task])
    changed = []
    for node in nodes:
        parameters: dict[str, Any] = dict(node.parameters)
        if not node.task:
            for file in options.params_files:
                parameters |= from_file(node.module, node.path, Path(file).expanduser())
            parameters |= given_for(node.module, node.path, singles)
        if node.parameters.get(DRY_RUN) and not parameters[DRY_RUN]:
            raise ParameterError(
                f"a dry run is asked for, but a parameter or a parameter file has {DRY_RUN} as false for {node.path}: the robot "
                "would move. Take it out there, or leave the dry run."
            )
        enclave = enclave_of(options.enclaves, node.namespace, node.name) if options.enclaves else ""
        changed.append(replace(node, parameters=parameters, enclave=enclave))
    return tuple(changed)


def _refuse_shared(left: tuple[str, Robot], right: tuple[str, Robot]) -> None:
    def resolved(topic: str, space: str) -> str:
        return topic if topic.startswith("/") else f"{space}/{topic}"

    (one, first), (two, second) = left, right
    command = resolved(first.command_topic, one)
    if command == resolved(second.command_topic, two):
        raise ParameterError(
            f"both robots would be commanded on {command}; make robot.command_topic in {first.path} and {second.path} relative "
            "(without the first /), so that it lies in the robot's name space, or give two topics."
        )
    states = resolved(first.joint_state_topic, one)
    same = sorted({*first.joints} & {*second.joints})
    if states == resolved(second.joint_state_topic, two) and same:
        raise ParameterError(
            f"both robots read {states} and have joints of one name there ({', '.join(same)}): each would take the other's "
            f"positions for its own. Make robot.joint_state_topic relative in {first.path} and {second.path}."
        )
