"""What the actions of ``flow_policy params`` on live nodes share: which node is meant, texts as values, values as texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flow_policy_ros.ros.parameter_client import Change, LiveParameter, ParameterClient

Live = dict[str, dict[str, "LiveParameter"]]
"""Parameters by the node's full name and their own."""


def require_ros() -> None:
    """Raises ``ModuleNotFoundError`` where there is no ROS, whichever module of it would be missed first."""
    from importlib.util import find_spec

    if find_spec("rclpy") is None:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")


def read_all(
    client: ParameterClient, enough: Callable[[Live], bool] = bool, settled_s: float | None = None
) -> tuple[Live, dict[str, str]]:
    """The parameters of all live nodes, and by node why it does not tell them. Others are waited for until these are ``enough``,
    and as ``ParameterClient.nodes`` says.

    Raises ``ParameterClientError`` where there are no nodes."""
    from flow_policy_ros.ros.parameter_client import ParameterClientError

    live: Live = {}
    silent: dict[str, str] = {}

    def fresh(alive: Iterable[str]) -> list[str]:
        return [node for node in alive if node not in live and node not in silent]

    def more() -> bool:
        """Whether somebody came while the others were read; asked where nobody can say who is to come."""
        return settled_s is not None and bool(fresh(client.nodes(settled_s=0.0)))

    while not live or not enough(live) or more():
        found = fresh(client.nodes(lambda alive: bool(fresh(alive)), settled_s))
        for node in found:
            try:
                live[node] = client.parameters(node)
            except ParameterClientError as error:
                silent[node] = str(error)
        if not found:
            break
    if not live:
        raise ParameterClientError(
            f"no node was found whose parameters can be read. {' '.join(silent.values())} Start one, or check ROS_DOMAIN_ID (here "
            "and where it runs) and the network."
        )
    return live, silent


def having(names: Iterable[str]) -> Callable[[Live], bool]:
    """Whether there are nodes with all blocks of ``names``: of a block that is there, a name that is not is not waited for."""
    blocks = {name.partition(".")[0] for name in names}
    return lambda live: blocks <= {name.partition(".")[0] for parameters in live.values() for name in parameters}


def read(client: ParameterClient, node: str, names: Iterable[str] = ()) -> tuple[Live, dict[str, str]]:
    """Of the node that ``node`` names, or as ``read_all`` where it is empty: without ``names`` of whatever there may be."""
    from flow_policy_ros.ros.parameter_client import LATE_S

    wanted = list(names)
    if not node:
        return read_all(client, having(wanted), None if wanted else LATE_S)
    name = client.named(node)
    return {name: client.parameters(name)}, {}


def owner(live: Mapping[str, Mapping[str, object]], names: Sequence[str], node: str) -> str:
    """The one node that has all of ``names``. Raises ``ValueError`` for none and for several. ``node`` is what was asked for."""
    for name in names:
        if not any(name in parameters for parameters in live.values()):
            known = sorted({other for parameters in live.values() for other in parameters if _alike(other, name)})
            there = f"there are {', '.join(known)}" if known else "'flow_policy params list' shows what there is"
            raise ValueError(f"no live node{f' named {node}' if node else ''} has a parameter {name}; {there}.")
    owners = [n for n, parameters in live.items() if all(name in parameters for name in names)]
    if not owners:
        raise ValueError(
            f"{', '.join(names)} do not belong to one node, and only one node's are set together; use one command for each node, "
            "or a file ('flow_policy params load')."
        )
    if len(owners) > 1:
        raise ValueError(f"{', '.join(names)} may be of {' or '.join(owners)}; say which with --node.")
    return owners[0]


def values_of(texts: Sequence[str], live: Mapping[str, LiveParameter]) -> dict[str, Any]:
    """Of ``NAME:=VALUE`` texts; each value in the type of the present one where it can be read so. The node judges it."""
    return {name: as_present(text, live[name].value) for name, text in pairs(texts).items()}


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Names and values of ``NAME:=VALUE`` texts. Raises ``ValueError``."""
    from flow_policy_ros.runtime.setting import setting

    found: dict[str, str] = {}
    for text in texts:
        pair = setting(text)
        if pair is None:
            raise ValueError(f"{text!r} has no value, expected NAME:=VALUE such as policy.steps:=5.")
        name, value = pair
        if name in found:
            raise ValueError(f"{name} is given twice; leave one out.")
        found[name] = value
    return found


def as_present(text: str, present: Any) -> Any:
    """``text`` as YAML, but as text for a text, and as a number for a number that YAML does not take for one (1e-3)."""
    import yaml

    if isinstance(present, str):
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return with_number(value, present)


def with_number(value: Any, present: Any) -> Any:
    """``value``; as a float where the ``present`` value is one, or where it is a number that YAML takes for a text."""
    if isinstance(present, float) and type(value) is int:
        return float(value)
    if isinstance(value, str) and isinstance(present, (int, float)) and not isinstance(present, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def shown(value: Any) -> str:
    """As it is written after ``:=``."""
    if isinstance(value, bool):
        return str(value).lower()
    return "''" if value == "" else f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def tell(outcome: Change) -> int:
    """Print what was changed, or why nothing was; the exit code."""
    if outcome.refusal:
        print(f"refused, nothing was changed: {' '.join(outcome.refusal.split())}", file=sys.stderr)
        return 1
    for node, values in outcome.done.items():
        for name, (before, after) in values.items():
            print(f"{node} {name}: {shown(before)}" + ("" if before == after else f" -> {shown(after)}"))
    return 0


def complain(silent: Iterable[str]) -> int:
    """Print what was missed; the exit code."""
    code = 0
    for sentence in silent:
        print(f"not complete: {sentence}", file=sys.stderr)
        code = 1
    return code


def _alike(known: str, name: str) -> bool:
    from difflib import SequenceMatcher

    return known.rpartition(".")[2] == name.rpartition(".")[2] or SequenceMatcher(None, known, name).ratio() > 0.8
