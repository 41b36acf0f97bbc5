"""The lines about limits in a robot file made from a URDF: what is known, with its origin, and TODO for what is not.

What limits mean and how they come together is ``robot_limits``', which is asked here too, so that the comments tell what
the reader of the file will find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flow_policy_ros.runtime.joint_limits import JointLimits, Mimic
from flow_policy_ros.runtime.new_robot_joint_limits import JointLimitsFile
from flow_policy_ros.runtime.robot_limits import Origin, resolve_limits
from flow_policy_ros.runtime.robot_yaml import RobotFileError, text
from flow_policy_ros.runtime.urdf import Urdf

UNKNOWN = 1e9
"""Stands for a limit that nobody gives while the others are put together; it is never written."""
BEGIN_S = 0.25
"""Full speed is reached in this time with the acceleration that a comment proposes to begin with."""
SETTLE_S = 0.05
"""And that acceleration in this."""
ADDED = ("acceleration", "jerk")
"""What no URDF has."""


@dataclass(frozen=True)
class LimitLines:
    """``lines`` of the block ``robot``, and the keys in them that are still to be filled in."""

    lines: tuple[str, ...]
    todo: tuple[str, ...]


@dataclass(frozen=True)
class _Sources:
    """What is known of ``joints`` and of the mimics that follow them. ``told`` is what the joint limits file adds to the URDF, or
    has tighter; ``limits`` are both together. Joints ``apart`` take no acceleration from the fallback: sliding ones beside turning
    ones, which have other units.
    """

    urdf: Urdf
    joints: tuple[str, ...]
    mimics: tuple[Mimic, ...]
    limits: JointLimits
    origin: Origin
    told: dict[str, dict[str, Any]]
    file: str
    apart: tuple[str, ...]

    def lacks(self, joint: str, kind: str) -> bool:
        return getattr(self.urdf.joints[joint], kind, None) is None and kind not in self.told[joint]

    def slides(self, joint: str) -> bool:
        return self.urdf.joints[joint].type == "prismatic"


def limit_lines(urdf: Urdf, joints: tuple[str, ...], embed: bool, where: str, more: JointLimitsFile) -> LimitLines:
    """The keys ``fallback`` and ``limits`` for these joints. With ``embed`` they hold every number and need no URDF.

    Raises ``RobotFileError`` where a mimic cannot stay in its range, or its limits are unknown and would have to be embedded.
    """
    known = _sources(urdf, joints, where, more)
    if embed:
        _refuse_unknown_mimics(known)
    todo: list[str] = []
    lines = [] if embed else [*_found(known)]
    for mimic in known.mimics:
        lines.append(f"# {text(mimic.joint)} is not commanded: it mimics {text(mimic.master)}, {mimic.multiplier:g} times its "
                     f"position{f' plus {mimic.offset:g}' if mimic.offset else ''}")
    lines += _doubts(urdf, joints)
    lines += _fallback(known, todo)
    entries = {joint: _entry(known, joint, embed, todo) for joint in joints}
    if not embed:
        entries |= {mimic.joint: _mimic_entry(known, mimic.joint, todo) for mimic in known.mimics}
    kept = {joint: (keys, note) for joint, (keys, note) in entries.items() if keys}
    if kept:
        lines.append(f"limits:  # {'instead of' if embed else 'over'} the URDF")
        lines += [f"  {text(joint)}: {{{', '.join(keys)}}}{f'  # {note}' if note else ''}" for joint, (keys, note) in kept.items()]
    else:
        lines.append(f"# limits: {{{text(joints[0])}: {{velocity: 0.5}}}}  # what is to be tighter than the URDF has it")
    return LimitLines(tuple(lines), tuple(todo))


def number(value: float) -> str:
    """A float as YAML reads it back, to the last bit."""
    written = repr(float(value))
    return written if "e" not in written or "." in written else written.replace("e", ".0e")


def inward(lower: float, upper: float) -> tuple[float, float]:
    """The range with readable ends, at most 2e-6 narrower and nowhere wider."""
    low, high = round(lower, 6), round(upper, 6)
    low = low if low >= lower else round(low + 1e-6, 6)
    high = high if high <= upper else round(high - 1e-6, 6)
    return (low, high) if lower <= low < high <= upper else (lower, upper)


def _sources(urdf: Urdf, joints: tuple[str, ...], where: str, more: JointLimitsFile) -> _Sources:
    """URDF and joint limits file put together as the reader of robot files will, with ``UNKNOWN`` for what both lack."""
    mimics = [mimic.joint for mimic in urdf.mimics.values() if mimic.master in joints]
    told = {joint: _told(urdf, joint, more) for joint in (*joints, *mimics)}
    entries: dict[str, dict[str, Any]] = {}
    for joint in told:
        unknown = {"position": [-UNKNOWN, UNKNOWN], "velocity": UNKNOWN}
        lacking = {kind: value for kind, value in unknown.items() if getattr(urdf.joints[joint], kind) is None}
        entries[joint] = lacking | told[joint]
    limits, following, origin = resolve_limits({"limits": entries, "fallback": {"acceleration": 1.0}}, joints, urdf, where)
    sliding = tuple(joint for joint in joints if urdf.joints[joint].type == "prismatic")
    apart = sliding if len(sliding) < len(joints) else ()
    return _Sources(urdf, joints, following, limits, origin, told, text(more.name), apart)


def _told(urdf: Urdf, joint: str, more: JointLimitsFile) -> dict[str, Any]:
    """What the joint limits file has for a joint, without what the URDF has as tight or tighter."""
    own = urdf.joints[joint]
    told = dict(more.values.get(joint, {}))
    if own.velocity is not None and told.get("velocity", UNKNOWN) >= own.velocity:
        told.pop("velocity", None)
    if "position" in told:
        lower, upper = own.position or (-UNKNOWN, UNKNOWN)
        low, high = max(told["position"][0], lower), min(told["position"][1], upper)
        if not low < high:
            raise RobotFileError(f"joint '{joint}': {more.name} has the range {list(told['position'])} and {urdf.path} has "
                                 f"{[lower, upper]}, which have nothing in common. Correct one of them.")
        told["position"] = [low, high]
        if (low, high) == (lower, upper):
            del told["position"]
    return told


def _fallback(known: _Sources, todo: list[str]) -> Iterator[str]:
    """The accelerations and jerks that nobody gives, for all joints of one unit."""
    rest = [joint for joint in known.joints if joint not in known.apart]
    for joints, kinds in (
        (rest, [kind for kind in ADDED if any(known.lacks(joint, kind) for joint in rest)]),
        (known.apart, [kind for kind in ADDED if any(known.lacks(joint, kind) for joint in known.apart)]),
    ):
        if not kinds:
            continue
        if joints is rest or not todo:
            yield (f"# TODO: {' and '.join(kinds)}, which {'is' if len(kinds) == 1 else 'are'} in no URDF: from the data sheet, or "
                   "measured, or small to begin with.")
        speeds = [float(known.limits.velocity[known.joints.index(j)]) for j in joints if not known.lacks(j, "velocity")]
        if speeds:
            first = {"acceleration": min(speeds) / BEGIN_S, "jerk": min(speeds) / BEGIN_S / SETTLE_S}
            proposed = ", ".join(f"{kind} {_two_digits(first[kind])}" for kind in kinds)
            yield (f"# To begin with{_which(joints)}: {proposed}, so that {min(speeds):.3g} per second is reached in about "
                   f"{BEGIN_S + SETTLE_S:g} s.")
        if joints is rest:
            units = ", ".join(_unit(known.slides(rest[0]), 2 + ADDED.index(kind)) for kind in kinds)
            blanks = ", ".join(f"{kind}: TODO" for kind in kinds)
            yield f"fallback: {{{blanks}}}  # {units}; for every joint that has none of its own below"
            todo += [f"robot.fallback.{kind}" for kind in kinds]


def _entry(known: _Sources, joint: str, embed: bool, todo: list[str]) -> tuple[list[str], str]:
    """(keys of a joint's entry, comment)."""
    own, row, told = known.urdf.joints[joint], known.joints.index(joint), known.told[joint]
    keys, notes = _lacking(known, joint, todo)
    for kind in ("position", "velocity"):
        if known.lacks(joint, kind) or not (embed or kind in told):
            continue
        keys.append(_written(kind, known.limits, row) if embed else _own(kind, told[kind]))
        by = known.file if kind in told else text(known.origin[joint][kind]).replace("urdf", "")
        notes += [f"{kind}: {by}"] if by else []
    if embed and own.effort is not None:
        keys.append(f"effort: {number(own.effort)}")
    keys += [_written(kind, known.limits, row) if embed else _own(kind, told[kind]) for kind in ADDED if kind in told]
    notes += [f"{' and '.join(kind for kind in ADDED if kind in told)}: {known.file}"] if set(ADDED) & set(told) else []
    for kind in ADDED if joint in known.apart else ():
        if known.lacks(joint, kind):
            keys.append(f"{kind}: TODO")
            notes.append(f"{kind} in {_unit(known.slides(joint), 2 + ADDED.index(kind))}")
            todo.append(f"robot.limits.{joint}.{kind}")
    if embed and "acceleration" not in told:
        notes += [f"{text(mimic.joint)} accelerates {abs(mimic.multiplier):g} times as much" for mimic in known.mimics
                  if mimic.master == joint and abs(mimic.multiplier) > 1.0]
    return keys, "; ".join(notes)


def _mimic_entry(known: _Sources, joint: str, todo: list[str]) -> tuple[list[str], str]:
    """(keys, comment) of a mimic, whose limits narrow its master's."""
    keys, notes = _lacking(known, joint, todo)
    told = known.told[joint]
    keys += [_own(kind, value) for kind, value in told.items()]
    return keys, "; ".join(notes + ([f"{' and '.join(told)}: {known.file}"] if told else []))


def _lacking(known: _Sources, joint: str, todo: list[str]) -> tuple[list[str], list[str]]:
    """TODO for the range and the speed that nobody gives, and the reasons."""
    keys, notes = [], []
    for kind, blank in (("position", "[TODO, TODO]"), ("velocity", "TODO")):
        if known.lacks(joint, kind):
            keys.append(f"{kind}: {blank}")
            notes.append(f"{kind}: {known.urdf.joints[joint].reasons[kind]}")
            todo.append(f"robot.limits.{joint}.{kind}")
    return keys, notes


def _own(kind: str, value: Any) -> str:
    return f"{kind}: [{', '.join(map(number, value))}]" if kind == "position" else f"{kind}: {number(value)}"


def _written(kind: str, limits: JointLimits, row: int) -> str:
    if kind != "position":
        return _own(kind, inward(0.0, float(getattr(limits, kind)[row]))[1])
    if limits.continuous[row]:
        return "continuous: true"
    return _own("position", inward(float(limits.lower[row]), float(limits.upper[row])))


def _refuse_unknown_mimics(known: _Sources) -> None:
    for mimic in known.mimics:
        reasons = [f"{kind}: {known.urdf.joints[mimic.joint].reasons[kind]}" for kind in ("position", "velocity")
                   if known.lacks(mimic.joint, kind)]
        reasons += [f"{kind}: known of the mimic alone" for kind in ADDED
                    if known.lacks(mimic.master, kind) and not known.lacks(mimic.joint, kind)]
        if reasons:
            raise RobotFileError(
                f"--embed-limits: mimic joint '{mimic.joint}' narrows '{mimic.master}' by limits that are not known "
                f"({'; '.join(reasons)}). Add them to {known.urdf.path}, or leave --embed-limits out and give them in the file."
            )


def _found(known: _Sources) -> Iterator[str]:
    """A comment line for each joint, with what its sources and its mimics leave of it."""
    yield "# From the URDF, with soft limits, mimics and the entries below taken into account:"
    limits = known.limits
    for row, joint in enumerate(known.joints):
        effort, sliding = known.urdf.joints[joint].effort, known.slides(joint)
        ends = f"{limits.lower[row]:.4g} to {limits.upper[row]:.4g} {_unit(sliding, 0)}"
        what = [
            "range TODO" if known.lacks(joint, "position") else "no ends" if limits.continuous[row] else ends,
            "speed TODO" if known.lacks(joint, "velocity") else f"{limits.velocity[row]:.4g} {_unit(sliding, 1)}",
            "effort not watched" if effort is None else f"{effort:g} {'N' if sliding else 'N·m'}",
            *(f"narrowed for {text(by)}" for by in _narrowing(known.origin[joint])),
        ]
        yield f"#   {text(joint)}: {', '.join(what)}"


def _narrowing(origin: dict[str, str]) -> list[str]:
    """Which mimics narrow the range or the speed of a joint."""
    return sorted({by for kind, by in origin.items() if kind not in ADDED and by.startswith("mimic ")})


def _doubts(urdf: Urdf, joints: tuple[str, ...]) -> Iterator[str]:
    """Numbers of the URDF that look as if nobody had looked them up."""
    for kind, most in (("velocity", 30.0), ("effort", 1000.0)):
        values = {joint: getattr(urdf.joints[joint], kind) for joint in joints if getattr(urdf.joints[joint], kind) is not None}
        large = [joint for joint, value in values.items() if value > most]
        if large:
            yield f"# CHECK: {kind} above {most:g} in the URDF is seldom a real limit: {text(large)}"
        elif len(values) > 2 and len(set(values.values())) == 1:
            yield f"# CHECK: all joints have {kind} {next(iter(values.values())):g} in the URDF; a data sheet may tell them apart"
        if kind == "effort" and values:
            yield "# CHECK: the joint states have efforts in N·m or N; where they are currents, put 'effort: .inf' into limits"


def _which(joints: Sequence[str]) -> str:
    return "" if len(joints) > 3 else f" for {text(tuple(joints))}"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _unit(sliding: bool, derivative: int) -> str:
    return ("m" if sliding else "rad") + ("", "/s", "/s²", "/s³")[derivative]
