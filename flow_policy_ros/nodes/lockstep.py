"""What the nodes share in lockstep: how long one waits for another, the words they exchange, the injected delay.

Waiting is in wall time, since the one waited for may be dead. What is waited for is each node's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flow_policy_ros.runtime.inject import Disturbed, Injection, InjectionError
from flow_policy_ros.runtime.latency import NO_LATENCY, Delays, LatencyProfile
from flow_policy_ros.runtime.parameters import LockstepParameters, ParameterError

CHUNK = "chunk"
"""``frame_id`` in ``lockstep/policy``: a chunk was published for this tick."""
STALE = "stale"
"""``frame_id`` in ``lockstep/policy``: a chunk was due for this tick, but an input was too old."""
COMMAND = "command"
"""Word in the ``frame_id`` of ``lockstep/command``: a command was published for this tick, and ``command/executed``."""
PLAN = "plan"
"""Word in the ``frame_id`` of ``lockstep/command``: a plan was published at this tick."""
IMAGE_OF, INSTRUCTION = "image.", " instruction="
"""In ``lockstep/tick``: what the word of one camera begins with, and what stands before the instruction."""
BETWEEN = "\x1e"
"""Between several instructions of one tick: a control character, which no instruction that can be read holds."""
POLICY_SHARE, COMMAND_SHARE, ROBOT_SHARE = 0.8, 0.9, 1.0
"""Of ``lockstep.timeout_s``: each gives up a little before the one that waits for it does."""


@dataclass(frozen=True)
class TickWord:
    """What the robot, or a recording in its place, waits at: ``lockstep/tick``.

    ``stamp`` of the tick; ``joint_state`` and ``image`` stamps of the newest ones, ``streams`` of the newest features that are
    not computed from images, ``images`` of the newest image of each camera, where there are several (ns; 0: there was none yet).
    A simulation's joint state has the tick's own stamp. ``instruction`` is the one in force, empty for none: messages on its topic
    carry no stamp by which they could be waited for. Of several that came in one tick it holds all, with ``BETWEEN`` between them:
    whether one can be read only the policy knows, which tries them in order (``orders``).
    """

    stamp: int
    joint_state: int
    image: int = 0
    streams: Mapping[str, int] = field(default_factory=dict)
    instruction: str = ""
    images: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """The ``frame_id``: words ``name=stamp``, which ``parse`` reads; the instruction is the last and may hold blanks."""
        cameras = {f"{IMAGE_OF}{camera}": stamp for camera, stamp in self.images.items()}
        words = {"joint_state": self.joint_state, "image": self.image, **cameras, **self.streams}
        said = " ".join(f"{name}={stamp}" for name, stamp in words.items())
        return f"{said}{INSTRUCTION}{self.instruction}" if self.instruction else said

    @staticmethod
    def parse(stamp: int, text: str) -> TickWord:
        """The word of the tick of ``stamp``. Raises ``ValueError`` for another text."""
        stamped, _, instruction = text.partition(INSTRUCTION)
        words = dict(word.partition("=")[::2] for word in stamped.split())
        stamps = {name: int(number) for name, number in words.items()}
        images = {name: stamps.pop(name) for name in list(stamps) if name.startswith(IMAGE_OF)}
        return TickWord(
            stamp,
            stamps.pop("joint_state", stamp),
            stamps.pop("image", 0),
            stamps,
            instruction,
            {name.removeprefix(IMAGE_OF): image for name, image in images.items()},
        )

    @property
    def orders(self) -> list[str]:
        """The instructions, in the order in which they came."""
        return self.instruction.split(BETWEEN) if self.instruction else []

    def image_of(self, camera: str) -> int:
        """Stamp of the newest image of ``camera``; of the only one, where the word does not tell cameras apart."""
        return self.images.get(camera, self.image)


def command_word(command: bool, plan: bool) -> str:
    """``frame_id`` of ``lockstep/command``: what was published at a tick, words with a blank between them."""
    return " ".join(word for word, there in ((COMMAND, command), (PLAN, plan)) if there)


class Patience:
    """Waits for one other process. ``lost`` is true from the moment the time was up until ``heard``."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lost = False
        self._timeout_s = timeout_s
        self._clock = clock
        self._since = clock()

    def begin(self) -> None:
        """A new wait begins."""
        self._since = self._clock()

    def heard(self) -> None:
        """The other one lives."""
        self.lost = False

    def over(self) -> bool:
        """Whether to go on without: it is lost, or gets lost now because the time is up."""
        if self._clock() - self._since >= self._timeout_s:
            self.lost = True
        return self.lost


def delays(parameters: LockstepParameters) -> Delays:
    """The delays and losses that the parameters name; in real time delays are the real ones, and only ``inject`` is added.

    Raises ``ParameterError``.
    """
    try:
        injection = Injection.parse(parameters.inject)
    except InjectionError as error:
        raise ParameterError(f"parameter lockstep.inject: {error}") from error
    return Disturbed(latency_profile(parameters) if parameters.enabled else NO_LATENCY, injection)


def latency_profile(parameters: LockstepParameters) -> LatencyProfile:
    """The profile that the parameters name. Raises ``ParameterError``."""
    if not parameters.latency:
        return NO_LATENCY
    try:
        return LatencyProfile.load(parameters.latency)
    except ValueError as error:
        raise ParameterError(f"parameter lockstep.latency: {error}") from error
