"""What is asked of a bring-up: one frozen class for each kind, from which both launch arguments and command-line options are made.

The text below a field is its help, wherever it is shown. What becomes of the options is in ``bringup``. Nothing of ROS is imported.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Literal

from flow_policy_ros.runtime.parameters import ParameterError


@dataclass(frozen=True)
class Common:
    """What every bring-up takes."""

    namespace: str = ""
    """Name space of all nodes, such as left."""
    use_sim_time: bool = False
    """Take time from /clock."""
    parameters: tuple[str, ...] = ()
    """Parameters of single nodes, as NODE:NAME:=VALUE, such as policy_node:policy.steps:=5 (of two robots also
    left/policy_node:…). They go before everything else."""
    params_files: tuple[str, ...] = ()
    """Parameter files (YAML, as ros2 param dump writes them); a later one goes before an earlier one, and what such a file says
    before the other options."""
    enclaves: str = ""
    """Root of the SROS 2 enclaves, such as /flow_policy: each node is started in its own, as 'flow_policy sros2' names them."""


@dataclass(frozen=True)
class PolicyOptions(Common):
    """Perception, policy and command node for one robot; the robot itself (a driver) is started elsewhere."""

    robot: str = "adroit_door"
    """Robot file: a path, or the name of one that ships."""
    observation: Literal["camera", "state"] = "camera"
    """camera: features of its images; state: no perception node, for policies that need none or look themselves."""
    checkpoint: str = ""
    """Checkpoint: a folder, or the name of one that ships; empty: as in the robot file, else <robot>_<observation>."""
    detector: str = ""
    """Detector: a folder, or the name of one that ships; empty: as in the robot file, else <robot>_detector."""
    extractor: Literal["", "detections", "object_slots", "region_features", "yolo_tokens", "backbone", "vlm"] = ""
    """What is made of images, as perception.extractor; empty: as in the robot file, else detections."""
    model: str = ""
    """Of the extractors backbone and vlm: the folder of the model, or its hub name; empty: as in the robot file."""
    instruction: str = ""
    """What is to be done, in words, for the policy and a vlm that reads; the topic instruction replaces it."""
    lockstep: bool = False
    """Act on the ticks of a simulation or a player that waits, instead of on timers."""
    managed: bool = True
    """The command node is led: configured before the policy starts, activated when the policy's chunks come (in lockstep: when
    the policy is up). false: it configures and activates itself."""
    lead: bool = True
    """Who leads it is this bring-up. With false it waits for a lifecycle manager of your own."""
    dry_run: bool = False
    """Everything runs, and nothing is sent to the controller (command.dry_run)."""
    flights: str = ""
    """Folder for the bags of a flight recorder, which is started too; empty: without one."""
    markers: str = ""
    """URDF of the robot for the marker node, which is started too; empty: without one."""


@dataclass(frozen=True)
class SimOptions(PolicyOptions):
    """The simulated robot and the policy's nodes. Episodes follow each other, until Ctrl-C."""

    seed: int = 0
    """Seed of the first episode."""
    policy: bool = True
    """Start the policy's nodes too; false: the robot alone."""
    start: bool = True
    """Begin an episode as soon as everything is up, and the next one when it is over; one alone in lockstep, and without the
    policy's nodes. false: the service sim/reset begins one."""


@dataclass(frozen=True)
class ReplayOptions(PolicyOptions):
    """A recording in the place of the robot, tick by tick in lockstep, and the policy's nodes."""

    bag: str = ""
    """Recording to play: a bag's folder, or a .mcap, .db3 or .bag file."""
    features: str = ""
    """Streams of recorded features to play besides, as 'objects'; blanks between them."""
    stamps: Literal["header", "receive"] = "header"
    """Where joint states and images get their instant from: their header, or the instant of receipt."""
    start: bool = True
    """Play as soon as everything is up; false: the service player/start does."""


@dataclass(frozen=True)
class RecordOptions(Common):
    """The recorder, beside whatever is running. Services record/start, record/stop, record/success, record/discard."""

    robot: str = "adroit_door"
    """Robot file, or the name of one that ships; its topics are recorded."""
    out: str = ""
    """Folder for the recordings, one in it for each episode; it has to be given."""
    name: str = "episode"
    """Beginning of an episode's folder name; a number follows."""
    topics: tuple[str, ...] = ()
    """Further topics; * stands for any part of a name."""
    start: bool = False
    """Begin the first episode at once."""


@dataclass(frozen=True)
class TwoOptions:
    """Two robots in name spaces, each with perception, policy and command node of its own."""

    left_robot: str = "adroit_door"
    """Robot file of the first robot: a path, or the name of one that ships."""
    right_robot: str = "adroit_door"
    """Robot file of the second robot."""
    left_checkpoint: str = ""
    """Checkpoint of the first robot: a folder, or the name of one that ships; empty: as in policy."""
    right_checkpoint: str = ""
    """Checkpoint of the second robot."""
    left_detector: str = ""
    """Detector of the first robot: a folder, or the name of one that ships; empty: as in policy."""
    right_detector: str = ""
    """Detector of the second robot."""
    left_namespace: str = "left"
    """Name space of the first robot."""
    right_namespace: str = "right"
    """Name space of the second robot."""
    observation: Literal["camera", "state"] = "camera"
    """camera: features of its images; state: no perception node. Of both robots."""
    extractor: Literal["", "detections", "object_slots", "region_features", "yolo_tokens", "backbone", "vlm"] = ""
    """What is made of images, as perception.extractor; empty: as in the robot files, else detections."""
    model: str = ""
    """Of the extractors backbone and vlm: the folder of the model, or its hub name; empty: as in the robot files."""
    instruction: str = ""
    """What is to be done, in words, for both; the topics left/instruction and right/instruction replace it."""
    use_sim_time: bool = False
    """Take time from /clock."""
    managed: bool = True
    """The command nodes are led, each as in policy. false: they configure and activate themselves."""
    lead: bool = True
    """Who leads them is this bring-up. With false they wait for a lifecycle manager of your own."""
    dry_run: bool = False
    """Everything runs, and nothing is sent to the controllers (command.dry_run)."""
    flights: str = ""
    """Folder for the bags of a flight recorder of each robot, in a folder of its name space; empty: without one."""
    left_markers: str = ""
    """URDF of the first robot for a marker node, which is started too; empty: without one."""
    right_markers: str = ""
    """URDF of the second robot for a marker node."""
    parameters: tuple[str, ...] = ()
    """Parameters of single nodes, as left/policy_node:policy.steps:=5; without a name space, of both robots."""
    params_files: tuple[str, ...] = ()
    """Parameter files (YAML, as ros2 param dump writes them)."""
    enclaves: str = ""
    """Root of the SROS 2 enclaves, such as /flow_policy: each node is started in its own, as 'flow_policy sros2' names them."""


def help_texts(options: type) -> dict[str, str]:
    """The text below each field of a class of options, by the field's name."""
    texts: dict[str, str] = {}
    for cls in reversed(options.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def refuse_unknown(options: type, names: Iterable[str]) -> None:
    """Raises ``ParameterError`` for the first of ``names`` that is no field of ``options``, with the nearest one: what is misspelt
    would be left at its default, and a dry run that was asked for would move the robot."""
    known = [field.name for field in fields(options)]
    for name in names:
        if name not in known:
            near = _near(name, known)
            meant = f"did you mean '{near}'? " if near else ""
            raise ParameterError(f"there is no argument '{name}' here; {meant}Nothing was started. There are {', '.join(known)}.")


def spelt_otherwise(options: type, name: str) -> bool:
    """Whether ``name`` is a field of ``options`` but for case, dashes and underscores: dryrun, use-sim-time."""
    known = [field.name for field in fields(options)]
    return name not in known and _plain(name) in map(_plain, known)


def _near(name: str, known: list[str]) -> str:
    plain = {_plain(one): one for one in known}
    return next((plain[one] for one in get_close_matches(_plain(name), plain, 1)), "")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
