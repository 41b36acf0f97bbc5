"""``flow_policy command``: what a person at a robot tells its command node, and asks of it. Doing it is ``ros``'s."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow_policy_ros.ros.emergency import Stop

PROGRAM = "flow_policy command"
WAIT_S = 5.0
UNCONFIRMED = "NOT CONFIRMED. Use the robot's own emergency stop."
ACTIONS = {
    "estop": "the emergency stop, a fault at once, said until it is confirmed; without --namespace to all, for --wait seconds",
    "release": "take it back; the fault stays until reset",
    "hold": "stop, and hold until enable",
    "disable": "the same",
    "enable": "follow the chunks that come from then on; refused with a fault",
    "reset": "drop faults and start where the robot is; one that moves is stopped first, and reset is to be repeated",
    "status": "what the command node says of itself",
}


def parser() -> argparse.ArgumentParser:
    """Of the options; with what every Python has, for a stop is not to wait for more to be loaded."""
    rows = "\n".join(f"  {name:<9}{text}" for name, text in ACTIONS.items())
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Stops a robot, lets it go on, or says how it stands, through its command node. Domain and discovery are the "
        f"environment's.\n\n{rows}",
    )
    made.add_argument("action", choices=ACTIONS, metavar="ACTION", help="what to do: one of these")
    made.add_argument("--namespace", metavar="NAME", help="name space of the robot's nodes, such as left; default none")
    waiting = f"that the node may take to be found and to answer; {WAIT_S:g}"
    made.add_argument("--wait", type=float, default=WAIT_S, metavar="SECONDS", help=waiting)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the answer to this file as well")
    return made


def main(argv: list[str]) -> int:
    """Returns 0; 1 when it was refused, not confirmed or not answered, and for status when there is a fault; bad input raises
    ``ValueError``."""
    arguments = parser().parse_args(argv)
    space = None if arguments.namespace is None else f"/{arguments.namespace.strip('/')}"
    if not 0.0 < arguments.wait <= 3600.0:
        raise ValueError(f"--wait is {arguments.wait:g}, expected seconds above 0.")
    from flow_policy_ros.cli.params_shared import require_ros

    require_ros()
    if arguments.action in ("estop", "release"):  # a file that cannot be written is no reason not to stop
        code, content = emergency(arguments.action == "estop", space, arguments.wait)
    else:
        from flow_policy_ros.cli.outputs import require_file

        require_file("--json", arguments.json)
        code, content = ask(arguments.action, space or "/", arguments.wait)
    if arguments.json is not None:
        import json

        arguments.json.write_text(json.dumps({"action": arguments.action, "exit_code": code, **content}, indent=1) + "\n")
    return code


def emergency(engaged: bool, space: str | None, wait_s: float) -> tuple[int, dict[str, object]]:
    """Say it, print what came of it; the exit code, and the same as plain data."""
    import sys

    from flow_policy_ros.ros.emergency import engage, release

    def tell(stop: Stop) -> None:
        print(line(engaged, stop), flush=True)

    stops = engage(space, wait_s, tell) if engaged else release(space or "/", wait_s, tell)
    for stop in stops:
        if not stop.confirmed:
            print(line(engaged, stop), file=sys.stderr)
    if not stops:
        where = "in any name space" if engaged and space is None else f"in the name space '{space or '/'}'"
        print(
            f"said for {wait_s:g} s, but no command node was found {where}: another ROS_DOMAIN_ID, middleware or discovery range, "
            f"or none runs.{f' {UNCONFIRMED}' if engaged else ''}",
            file=sys.stderr,
        )
    done = bool(stops) and all(stop.confirmed for stop in stops)
    return int(not done), {"robots": [asdict(stop) for stop in stops]}


def line(engaged: bool, stop: Stop) -> str:
    """One robot's, in words."""
    what = "emergency stop" if engaged else "emergency stop released"
    if not stop.confirmed:
        text = f"{what}: said for {stop.seconds:.1f} s, {stop.listened} listened, {stop.node} has not confirmed it."
        return f"{text} {UNCONFIRMED}" if engaged else f"{text} Look at its output."
    then = "it holds until 'release', then 'reset'" if engaged else "the fault stays until 'reset'"
    return f"{what}: {stop.node} confirmed after {stop.seconds:.2f} s; {then}.\n{stop.message}"


def ask(action: str, space: str, wait_s: float) -> tuple[int, dict[str, object]]:
    """Give an order or ask for the status, print the answer; the exit code, and the same as plain data."""
    import sys

    from flow_policy_ros.ros.caller import Late, visitor
    from flow_policy_ros.ros.command_client import CommandClient
    from flow_policy_ros.ros.emergency import NAME

    with visitor(NAME, space) as caller:
        client = CommandClient(caller, space, wait_s, lambda text: print(text, file=sys.stderr))
        try:
            if action == "status":
                said = client.status()
                print(f"{client.node} {said.values.get('state', '').upper()} ({said.level}): {said.message}")
                return int(said.level == "error"), {"node": client.node, **asdict(said)}
            answer = client.order(action)
        except Late as late:
            print(f"{action}: {late}", file=sys.stderr)
            return 1, {"node": client.node, "accepted": False, "message": str(late)}
    found = f"found after {answer.found_s:.2f} s, answered after {answer.seconds:.2f} s"
    if not answer.accepted:
        print(f"{action}: refused by {answer.node} ({found}): {answer.message}", file=sys.stderr)
        return 1, asdict(answer)
    print(f"{action}: {answer.node} accepted ({found}): {answer.message}")
    return 0, asdict(answer)
