"""A bring-up carried out by ``launch``: what ``ros2 launch`` is given is made of the same options and the same description.

What follows from the start and the end of a process is decided by ``course``; only features of Humble's launch are used.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, RegisterEventHandler, TimerAction
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from flow_policy_ros.ros.bringup import Bringup, NodeDescription
from flow_policy_ros.ros.bringup_options import help_texts, refuse_unknown, spelt_otherwise
from flow_policy_ros.ros.course import Course, End, Lost, Respawn
from flow_policy_ros.ros.enclaves import refuse_unsecured
from flow_policy_ros.ros.parameter_sources import Value
from flow_policy_ros.ros.processes import never_suspended

PACKAGE = "flow_policy_ros"
OF_LAUNCH = ("launch-prefix", "launch-prefix-filter", "sigterm_timeout", "sigkill_timeout")
"""Arguments that every launch file takes."""


class BringupEnded(RuntimeError):
    """Why all is ended. Raised in a handler, which is how ``ros2 launch`` is brought to say so and to end with exit code 1."""


def launch_description(options: type, describe: Callable[[Any], Bringup]) -> LaunchDescription:
    """What a launch file returns: an argument for each of ``options``, and what ``describe`` makes of them."""

    def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        refuse_unknown(options, strangers(options, context, sys.argv))
        bringup = describe(options_from(options, context))
        refuse_unsecured(bringup.enclaves, os.environ)
        never_suspended()  # Ctrl-Z reaches launch, which reads what the nodes print, and the nodes, which inherit this
        return Carried(bringup).next()

    return LaunchDescription([*arguments(options), OpaqueFunction(function=nodes)])


def strangers(options: type, context: LaunchContext, command: Sequence[str]) -> list[str]:
    """Names that were given, in the ``command`` or by a launch file around this one, and can only be mistakes.

    launch itself passes over what nobody declares. A file around this one has arguments of its own, which look the same from in
    here; so what is merely unknown counts as a mistake only where the command names this package: it then runs this very file.
    """
    words = [word.partition(":=")[0] for word in context.argv] if PACKAGE in command else []
    given = [name for name in dict.fromkeys([*words, *context.launch_configurations]) if name not in OF_LAUNCH]
    known = [field.name for field in dataclasses.fields(options)]
    return [name for name in given if name not in known and (name in words or spelt_otherwise(options, name))]


def arguments(options: type) -> list[DeclareLaunchArgument]:
    """A launch argument for each field."""
    texts, hints = help_texts(options), get_type_hints(options)
    return [
        DeclareLaunchArgument(
            field.name,
            default_value=_text(field.default),
            description=texts[field.name] + (" Several, with blanks between them (in quotes)." if _several(field) else ""),
            choices=_choices(hints[field.name]),
        )
        for field in dataclasses.fields(options)
    ]


def options_from(options: type, context: LaunchContext) -> Any:
    """The options as the launch arguments have them."""
    hints = get_type_hints(options)
    values: dict[str, object] = {}
    for field in dataclasses.fields(options):
        text = LaunchConfiguration(field.name).perform(context)
        kind = hints[field.name]
        if _several(field):
            values[field.name] = tuple(shlex.split(text))
        elif kind is bool:
            values[field.name] = text == "true"
        else:
            values[field.name] = int(text) if kind is int else text
    return options(**values)


class Carried:
    """A bring-up under way."""

    def __init__(self, bringup: Bringup) -> None:
        self._course = Course(bringup)

    def next(self) -> list[LaunchDescriptionEntity]:
        """What may be started now."""
        entities = []
        while due := self._course.due():
            for node in due:
                entities += self._start(node)
        return entities

    def _start(self, node: NodeDescription) -> list[LaunchDescriptionEntity]:
        action = action_of(node)

        def ended(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
            return None if context.is_shutdown else self._ended(node, event.returncode)

        self._course.started(node.path, time.monotonic())
        return [RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ended)), action]

    def _ended(self, node: NodeDescription, code: int) -> list[LaunchDescriptionEntity]:
        follows = self._course.ended(node.path, code, time.monotonic())
        if isinstance(follows, End):
            raise BringupEnded(follows.reason)
        if isinstance(follows, Lost):
            return [LogInfo(msg=follows.reason)]
        if isinstance(follows, Respawn):
            said = f"{node.path} ended with {code}; it is started again in {follows.pause_s:.0f} s"
            again = OpaqueFunction(function=lambda context: self._start(node))
            return [LogInfo(msg=said), TimerAction(period=follows.pause_s, actions=[again])]
        return self.next()


def action_of(node: NodeDescription) -> Node:
    """The node as an action of launch."""
    return Node(
        package=PACKAGE,
        executable=node.module,
        name=node.name,
        namespace=node.namespace,
        parameters=[{name: _exactly(value) for name, value in node.parameters.items()}],
        remappings=list(node.remaps.items()),
        arguments=list(node.arguments),
        ros_arguments=["--enclave", node.enclave] if node.enclave else None,
        sigterm_timeout=str(node.patience_s),
        output="screen",
    )


def _exactly(value: Value) -> ParameterValue:
    """Else launch reads a text that looks like a number as one."""
    return ParameterValue(value, value_type=type(value))


def _choices(kind: Any) -> list[str] | None:
    if kind is bool:
        return ["true", "false"]
    return list(get_args(kind)) if get_origin(kind) is Literal else None


def _several(field: dataclasses.Field[Any]) -> bool:
    return isinstance(field.default, tuple)


def _text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return shlex.join(default) if isinstance(default, tuple) else str(default)
