"""The episodes of one run of the recorder: begun, ended, labelled, discarded, one bag folder each. Knows no ROS."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from flow_policy_ros.nodes.recorder_episode import GB, DiskGuard, Episode, EpisodeReport, Source
from flow_policy_ros.runtime.parameters import ParameterError, RecorderParameters


class Session:
    """At most one ``episode`` runs; ``reports`` are of those that ended and were kept. ``ValueError`` is a refusal, in words."""

    def __init__(self, parameters: RecorderParameters, robot: str) -> None:
        """Makes the folder ``recorder.out``. Raises ``ParameterError`` when that cannot be."""
        self.episode: Episode | None = None
        self.reports: list[EpisodeReport] = []
        self._parameters = parameters
        self._robot = robot
        self._last: Episode | None = None  # that ended, and may still be labelled or discarded
        if not parameters.out:
            raise ParameterError("the parameter recorder.out is not set; give the folder for the recordings.")
        require_name(parameters)
        self.folder = Path(parameters.out)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ParameterError(
                f"the parameter recorder.out is {self.folder}, which cannot be made a folder ({error.strerror}); give another."
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise ParameterError(f"the parameter recorder.out is {self.folder}, where nothing can be written; give another folder.")
        self._number = self._newest()

    def update(self, parameters: RecorderParameters) -> None:
        """Other parameters (not another folder), from the next episode on."""
        renamed, self._parameters = parameters.name != self._parameters.name, parameters
        if renamed:
            self._number = self._newest()

    @property
    def last(self) -> EpisodeReport | None:
        """Of the newest episode that was kept."""
        return self.reports[-1] if self.reports else None

    @property
    def written(self) -> int:
        """Bytes of all bags of this run."""
        return sum(report.size for report in self.reports) + (self.episode.size if self.episode else 0)

    def begin(self) -> Episode:
        """A new episode. Refused while one runs, and without room on the disk."""
        if self.episode is not None:
            raise ValueError(f"{self.episode.path.name} is being recorded already; stop or discard it first.")
        before = self.written
        guard = DiskGuard(self._parameters.min_free_gb * GB, self._parameters.max_gb * GB)
        problem = guard.problem(self.folder, before)
        if problem is not None:
            raise ValueError(problem)
        self._number = max(self._number, self._newest()) + 1
        self.episode = Episode(
            self.folder / f"{self._parameters.name}_{self._number:04d}",
            self._parameters.compression,
            {"robot": self._robot, "success": ""},
            lambda size: guard.problem(self.folder, before + size),
            round(self._parameters.queue_mb * 1e6),
        )
        self._last = None
        return self.episode

    def put(self, source: Source, received: int, data: bytes, published: int | None, sequence: int) -> None:
        """A message for the episode, if one runs."""
        if self.episode is not None:
            self.episode.put(source, received, data, published, sequence)

    def end(self, lost: Mapping[str, int | None]) -> EpisodeReport:
        """End the episode and keep it."""
        episode = self._running("stop")
        report = episode.stop(lost)
        self.episode, self._last = None, episode
        self.reports.append(report)
        return report

    def discard(self) -> Path:
        """End the episode that runs, or take the one that ended last, and delete it: once, and no other."""
        if self.episode is not None:
            episode = self.episode
            self.episode = None
            episode.stop({})
        elif self._last is not None:
            episode = self._last
            self.reports.pop()
        else:
            raise ValueError("there is nothing to discard: no episode is being recorded, and the last one is not there any more.")
        self._last = None
        episode.remove()
        return episode.path

    def label(self, success: bool) -> Path:
        """Whether the episode that runs, or the one that ended last, was a success."""
        episode = self.episode or self._last
        if episode is None:
            raise ValueError("there is no episode to label: none is being recorded, and none was since the last was discarded.")
        episode.label("success", str(success).lower())
        return episode.path

    def _running(self, what: str) -> Episode:
        if self.episode is None:
            raise ValueError(f"there is nothing to {what}: no episode is being recorded.")
        return self.episode

    def _newest(self) -> int:
        pattern = re.compile(re.escape(self._parameters.name) + r"_(\d+)")
        numbers = [int(match[1]) for path in self.folder.iterdir() if (match := pattern.fullmatch(path.name))]
        return max(numbers, default=0)


def require_name(parameters: RecorderParameters) -> None:
    """Raises ``ParameterError`` for a name that no folder can begin with."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", parameters.name):
        raise ParameterError(
            f"the parameter recorder.name is '{parameters.name}', expected the beginning of a folder's name: letters, digits, "
            "'.', '_' and '-'."
        )
