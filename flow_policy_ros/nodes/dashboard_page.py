"""The dashboard's page, drawn with rich: from a ``View`` to lines of a terminal. Knows no ROS."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flow_policy_ros.nodes.dashboard_view import Rate, Report, View

COLOURS = {"active": "green", "starting": "cyan", "holding": "yellow", "stopping": "yellow", "fault": "red", "silent": "red"}
LEVEL_COLOURS = {"ok": "green", "warning": "yellow"}
BAR = 21
"""Characters of a joint's range."""
SHORT = {"position": "p", "velocity": "v", "acceleration": "a", "jerk": "j"}
WIDE = 80
"""Characters, from which on bars are drawn."""
KEYS = "q quits"
FRAME = 6
"""Lines of the table beside its rows, frame, head and caption, and the keys below it."""


def page(view: View, size: ConsoleDimensions | None = None) -> RenderableType:
    """The page. ``size`` of the terminal: joints for which there is no room are left out, those that follow best."""
    above: list[RenderableType] = [headline(view)]
    above += [Text(line, style="bold red") for line in view.wrong()]
    above += [Text(line, style="yellow") for line in view.problems]
    above += [delays(view), nodes(view)]
    room, wide = None, size is None or size.width >= WIDE
    if size is not None:
        console = Console(width=size.width)
        used = sum(len(console.render_lines(part)) for part in above)
        room = max(3, size.height - used - FRAME)
    keys = [Text(KEYS, style="dim")] if size is not None else []
    return Group(*above, joints(view, room, wide), *keys)


def headline(view: View) -> Text:
    """Robot, state, since when, what the command node says."""
    state, report = view.state(), view.command
    line = Text.assemble((view.robot.name, "bold"), "  ", (state.upper(), f"bold {COLOURS.get(state, 'white')}"))
    if report is not None and not report.silent:
        since = report.number("state_since")
        if since > 0:
            line.append(f" for {max(0.0, (report.stamp - since) / 1e9):.0f} s")
        if report.values.get("enabled") == "False":
            line.append("  not enabled", style="yellow")
        if not view.faults():
            line.append(f"  {report.message}", style="" if report.level == "ok" else "yellow")
    return line


def delays(view: View) -> Table:
    """Rates, ages, periods, interventions."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for rate in view.rates:
        table.add_row(rate.topic, _rate(rate))
    table.add_row("chunk age", _ms(view.chunk_age_ms) + " from its observation to the newest set-point")
    command, policy = view.command, view.reports.get("policy")
    if policy is not None:
        table.add_row("inference", _old(policy, _percentiles(policy, "inference_ms")))
    if command is not None:
        late = f"missed deadlines {command.values.get('missed_deadlines', '-')}"
        table.add_row("period error", _old(command, f"{_percentiles(command, 'period_error_ms')}   {late}"))
        table.add_row("safety stage", _old(command, _percentiles(command, "stage_ms")))
        table.add_row("limits", _old(command, _limits(command)))
        refused = ", ".join(f"{kind} {count}" for kind, count in command.under("rejections").items())
        if refused:
            table.add_row("refused", Text(f"{refused}; last: {command.values.get('last_rejection', '-')}", style="yellow"))
    return table


def nodes(view: View) -> Table:
    """What each node says of itself."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, report in sorted(view.reports.items()):
        colour = "red" if report.silent else LEVEL_COLOURS.get(report.level, "red")
        level = f"silent {report.age_s:.0f} s" if report.silent else report.level
        table.add_row(escape(name), Text(level, style=colour), Text(report.message, style="dim" if report.silent else ""))
    return table


def joints(view: View, room: int | None = None, wide: bool = True) -> Table:
    """Measured positions beside set-points; ``room`` is how many rows there may be, ``wide`` whether there is room for bars.
    The error is set-point minus measured position."""
    error = view.setpoint - view.measured
    size = np.abs(error)
    order = list(range(len(view.robot.joints)))
    left_out = 0
    if room is not None and len(order) > room:
        worst = sorted(order, key=lambda j: -size[j] if math.isfinite(size[j]) else -math.inf)[:room]
        left_out = len(order) - len(worst)
        order = [j for j in order if j in worst]
    more = f"{left_out} more joints, which follow better" if left_out else ""
    legend = "● measured  | set-point  error = | − ●" if wide else ""
    table = Table(pad_edge=False, caption="   ".join(filter(None, (legend, more))) or None)
    table.add_column("joint", no_wrap=True)
    for name in ("measured", "set-point", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("range", no_wrap=True)
    table.add_column("limits acted", no_wrap=True)
    acted, limits = view.interventions(), view.robot.limits
    for j in order:
        joint = view.robot.joints[j]
        far = size[j] > limits.tracking[j]
        table.add_row(
            escape(joint),
            _position(view.measured[j]),
            _position(view.setpoint[j]),
            Text(_position(error[j]), style="bold red" if far else ""),
            *([bar(limits.lower[j], limits.upper[j], view.measured[j], view.setpoint[j])] if wide else []),
            " ".join(f"{SHORT[kind]}{count}" for kind, count in acted.get(joint, {}).items() if kind in SHORT),
        )
    return table


def bar(lower: float, upper: float, measured: float, setpoint: float) -> str:
    """A joint's range with both positions in it; ``<`` and ``>`` where one lies outside. Empty without a range."""
    if not math.isfinite(upper - lower):
        return "endless"
    cells = ["·"] * BAR
    for value, mark in ((setpoint, "|"), (measured, "●")):
        if math.isfinite(value):
            place = round((value - lower) / (upper - lower) * (BAR - 1))
            cells[min(max(place, 0), BAR - 1)] = "<" if place < 0 else ">" if place >= BAR else mark
    return "".join(cells)


def _rate(rate: Rate) -> Text:
    if not rate.count:
        return Text("nothing yet", style="yellow")
    late = rate.age_s > max(1.0, 5.0 / rate.hz if rate.hz else 0.0)
    text = f"{rate.hz:7.1f} Hz   last {rate.age_s:.1f} s ago" if late else f"{rate.hz:7.1f} Hz"
    return Text(text, style="yellow" if late else "")


def _limits(report: Report) -> str:
    active, limited = report.number("ticks_active"), report.number("ticks_limited")
    share = f" ({limited / active:.1%})" if active else ""
    low, high = report.number("limit_scale.lowest"), report.number("limit_scale.highest")
    scale = f"scale {low:g}" if low == high else f"scale {low:g} to {high:g}"
    chunks = f"{report.values.get('chunks_slowed', '-')} of {report.values.get('chunks', '-')} chunks slowed"
    if math.isnan(active + limited + low + high):
        return "-"
    return f"{scale}   acted in {limited:.0f} of {active:.0f} ticks{share}   {chunks}"


def _percentiles(report: Report, name: str) -> str:
    """The median and the worst."""
    values = [report.number(f"{name}.{key}") for key in ("p50", "p99", "max")]
    if any(map(math.isnan, values)):
        return "-"
    return f"p50 {_ms(values[0])}   p99 {_ms(values[1])}   max {_ms(values[2])}"


def _old(report: Report, text: str) -> Text:
    return Text(text, style="dim" if report.silent else "")


def _ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} ms" if abs(value) < 10.0 else f"{value:.0f} ms"


def _position(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3f}"
