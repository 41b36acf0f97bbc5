"""The lines about limits in a robot file made from a URDF: what is known, with its origin, and TODO for what is not.

What limits mean and how they come together is ``robot_limits``', which is asked here too, so that the comments tell what
the reader of the file will find.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.new_robot_joint_limits import Claim
from flow_policy_ros.runtime.new_robot_sources import Sources, gather
from flow_policy_ros.runtime.robot_yaml import RobotFileError, plain, text
from flow_policy_ros.runtime.urdf import Urdf

BEGIN_S = 1.0
"""Full speed is reached in this time with the acceleration that a comment proposes to begin with."""
SETTLE_S = 0.05
"""And that acceleration in this."""
ADDED = ("acceleration", "jerk")
"""What no URDF has."""
WIDEST = 4.0 * math.pi
"""Beyond this, in rad to either side, a range of a turning joint looks like degrees."""


@dataclass(frozen=True)
class LimitLines:
    """``lines`` of the block ``robot``, and the keys in them that are still to be filled in."""

    lines: tuple[str, ...]
    todo: tuple[str, ...]


def limit_lines(urdf: Urdf, joints: tuple[str, ...], embed: bool, where: str, claims: Sequence[Claim]) -> LimitLines:
    """The keys ``fallback`` and ``limits`` for these joints. With ``embed`` they hold every number and need no URDF.

    ``claims`` are limits from beside the URDF's joints; the tightest holds. Raises ``RobotFileError`` where a mimic cannot stay in
    its range, or its limits are unknown and would have to be embedded.
    """
    known = gather(urdf, joints, where, claims)
    if embed:
        _refuse_unknown_mimics(known)
    todo: list[str] = []
    lines = [] if embed else [*_found(known)]
    for mimic in known.mimics:
        lines.append(f"# {text(mimic.joint)} is not commanded: it mimics {text(mimic.master)}, {mimic.multiplier:g} times its "
                     f"position{f' plus {mimic.offset:g}' if mimic.offset else ''}")
    lines += _doubts(known)
    lines += _fallback(known, todo)
    entries = {joint: _entry(known, joint, embed, todo) for joint in joints}
    if not embed:
        entries |= {mimic.joint: _mimic_entry(known, mimic.joint, todo) for mimic in known.mimics}
    kept = {joint: (keys, note) for joint, (keys, note) in entries.items() if keys}
    if kept:
        lines.append(f"limits:  # {'instead of' if embed else 'over'} the URDF")
        lines += [f"  {text(joint)}: {{{', '.join(keys)}}}{f'  # {plain(note)}' if note else ''}"
                  for joint, (keys, note) in kept.items()]
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


def _fallback(known: Sources, todo: list[str]) -> Iterator[str]:
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
                   "measured, or small to begin with: the manufacturer's may be lower than what is proposed here.")
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


def _entry(known: Sources, joint: str, embed: bool, todo: list[str]) -> tuple[list[str], str]:
    """(keys of a joint's entry, comment)."""
    row, told = known.joints.index(joint), known.told[joint]
    keys, notes = _lacking(known, joint, todo)
    for kind in ("position", "velocity"):
        if known.lacks(joint, kind) or not (embed or kind in told):
            continue
        keys.append(_written(kind, known.limits, row) if embed else _own(kind, told[kind]))
        by = known.by[joint][kind] if kind in told else text(known.origin[joint][kind]).replace("urdf", "")
        notes += [f"{kind}: {by}"] if by else []
    effort = _effort(known, joint)
    if effort is not None and (embed or "effort" in told):
        keys.append(_own("effort", effort))
    notes += _by(known, joint, ("effort",))
    keys += [_written(kind, known.limits, row) if embed else _own(kind, told[kind]) for kind in ADDED if kind in told]
    notes += _by(known, joint, ADDED)
    for kind in ADDED if joint in known.apart else ():
        if known.lacks(joint, kind):
            keys.append(f"{kind}: TODO")
            notes.append(f"{kind} in {_unit(known.slides(joint), 2 + ADDED.index(kind))}")
            todo.append(f"robot.limits.{joint}.{kind}")
    if embed and "acceleration" not in told:
        notes += [f"{text(mimic.joint)} accelerates {abs(mimic.multiplier):g} times as much" for mimic in known.mimics
                  if mimic.master == joint and abs(mimic.multiplier) > 1.0]
    return keys, "; ".join(notes)


def _mimic_entry(known: Sources, joint: str, todo: list[str]) -> tuple[list[str], str]:
    """(keys, comment) of a mimic, whose limits narrow its master's."""
    keys, notes = _lacking(known, joint, todo)
    told = known.told[joint]
    keys += [_own(kind, value) for kind, value in told.items()]
    return keys, "; ".join(notes + _by(known, joint, tuple(told)))


def _by(known: Sources, joint: str, kinds: Sequence[str]) -> list[str]:
    """Where those of ``kinds`` come from that are not the URDF's own, kinds of one source together."""
    sources: dict[str, list[str]] = {}
    for kind in kinds:
        if kind in known.told[joint]:
            sources.setdefault(known.by[joint][kind], []).append(kind)
    return [f"{' and '.join(names)}: {source}" for source, names in sources.items()]


def _lacking(known: Sources, joint: str, todo: list[str]) -> tuple[list[str], list[str]]:
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


def _refuse_unknown_mimics(known: Sources) -> None:
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


def _found(known: Sources) -> Iterator[str]:
    """A comment line for each joint, with what its sources and its mimics leave of it."""
    yield "# From the URDF, with soft limits, mimics and the entries below taken into account:"
    limits = known.limits
    for row, joint in enumerate(known.joints):
        effort, sliding = _effort(known, joint), known.slides(joint)
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


def _effort(known: Sources, joint: str) -> float | None:
    effort: float | None = known.told[joint].get("effort", known.urdf.joints[joint].effort)
    return effort


def _doubts(known: Sources) -> Iterator[str]:
    """Numbers that look as if nobody had looked them up."""
    urdf, joints = known.urdf, known.joints
    ranges = {joint: told.get("position", urdf.joints[joint].position) for joint, told in known.told.items()}
    degrees = [joint for joint, ends in ranges.items() if ends and urdf.joints[joint].type == "revolute"
               and math.isfinite(ends[0]) and max(-ends[0], ends[1]) > WIDEST]
    if degrees:
        yield f"# CHECK: a range beyond -4π or 4π rad looks like degrees: {text(degrees)}"
    for kind, most in (("velocity", 30.0), ("effort", 1000.0)):
        values = {joint: getattr(urdf.joints[joint], kind) for joint in joints if getattr(urdf.joints[joint], kind) is not None}
        large = [joint for joint, value in values.items() if value > most]
        if large:
            yield f"# CHECK: {kind} above {most:g} in the URDF is seldom a real limit: {text(large)}"
        elif len(values) > 2 and len(set(values.values())) == 1:
            yield f"# CHECK: all joints have {kind} {next(iter(values.values())):g} in the URDF; a data sheet may tell them apart"
        if kind == "effort" and any(_effort(known, joint) is not None for joint in joints):
            yield "# CHECK: the joint states have efforts in N·m or N; where they are currents, put 'effort: .inf' into limits"


def _which(joints: Sequence[str]) -> str:
    return "" if len(joints) > 3 else f" for {text(tuple(joints))}"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _unit(sliding: bool, derivative: int) -> str:
    return ("m" if sliding else "rad") + ("", "/s", "/s²", "/s³")[derivative]
