"""Tunables of the nodes that only look on: recorder, flight recorder, markers, dashboard, view. Part of ``runtime.parameters``."""

from __future__ import annotations

from dataclasses import dataclass

from flow_policy_ros.runtime.parameter_field import parameter


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder node, prefix ``recorder.``"""

    out: str = parameter("", "Folder for the recordings, a folder for each episode in it.")
    name: str = parameter(
        "episode", "Beginning of an episode's folder name; a number follows. A change counts from the next episode on.", live=True
    )
    topics: str = parameter(
        "", "Topics to record beside the robot file's, with blanks between them; * stands for any part of a name."
    )
    everything: bool = parameter(False, "Record every topic.")
    compression: str = parameter(
        "zstd", "Of the chunks in the file, from the next episode on.", choices=("zstd", "lz4", "none"), live=True
    )
    autostart: bool = parameter(False, "Begin the first episode at once, and end the node with it when the disk is full.")
    report: str = parameter("", "JSON file with what was recorded and lost, written when the node ends; empty for none.")
    min_free_gb: float = parameter(
        2.0,
        "An episode ends, and none begins, when less than this is free on the disk. A change counts from the next episode on.",
        unit="GB",
        bounds=(0.0, 1e6),
        live=True,
    )
    max_gb: float = parameter(
        0.0,
        "All episodes of one run together are no larger than about this; 0 for no limit. A change counts from the next episode on.",
        unit="GB",
        bounds=(0.0, 1e6),
        live=True,
    )
    queue_mb: float = parameter(
        256.0, "What may wait in memory for a slow disk; messages beyond are dropped, counted and reported.", unit="MB",
        bounds=(1.0, 65536.0),
    )  # fmt: skip


@dataclass(frozen=True)
class FlightParameters:
    """Parameters of the flight recorder, prefix ``flight.``"""

    out: str = parameter("", "Folder for the bags.")
    seconds: float = parameter(
        60.0, "How much before a fault is kept in memory, and goes into its bag.", unit="s", bounds=(1.0, 600.0), live=True
    )
    after_s: float = parameter(5.0, "How much after a fault goes into its bag.", unit="s", bounds=(0.0, 60.0), live=True)
    memory_mb: float = parameter(
        256.0,
        "Memory for messages, a quarter of it for all that is not pictures. When it is full the oldest go, and a bag holds less "
        "than flight.seconds.",
        unit="MB",
        bounds=(1.0, 65536.0),
        live=True,
    )
    keep: int = parameter(10, "How many bags are kept: for a new one the oldest goes.", bounds=(1, 10000), live=True)
    topics: str = parameter(
        "", "Topics to keep beside the robot file's, with blanks between them; * stands for any part of a name."
    )
    pictures: bool = parameter(True, "Keep the cameras' pictures too; without them a bag shows no camera, and is small.")
    compression: str = parameter("zstd", "Of the chunks in the file.", choices=("zstd", "lz4", "none"))
    min_free_gb: float = parameter(
        2.0, "No bag is begun, and one ends, when less than this is free on the disk.", unit="GB", bounds=(0.0, 1e6), live=True
    )


@dataclass(frozen=True)
class MarkerParameters:
    """Parameters of the marker node, prefix ``markers.``"""

    urdf: str = parameter("", "URDF of the robot; empty for the robot file's.")
    links: str = parameter(
        "", "Links whose ways are drawn, with blanks between them; empty for those at the ends of the chains that the robot moves."
    )
    frame: str = parameter("", "Frame of the pictures, where the URDF's root is called otherwise; empty for the root's own name.")
    rate_hz: float = parameter(10.0, "How often pictures are drawn, at most.", unit="Hz", bounds=(0.5, 30.0), live=True)
    points: int = parameter(40, "Points of a line, at most; of longer motions some are left out.", bounds=(2, 500), live=True)
    width_m: float = parameter(0.003, "Width of the lines.", unit="m", bounds=(0.0001, 0.1), live=True)
    lifetime_s: float = parameter(
        1.0, "A picture vanishes after this time when no new one replaces it; 0 for never.", unit="s", bounds=(0.0, 60.0), live=True
    )


@dataclass(frozen=True)
class DashboardParameters:
    """Parameters of the dashboard, prefix ``dashboard.``"""

    rate_hz: float = parameter(4.0, "How often the page is drawn.", unit="Hz", bounds=(0.2, 15.0))
    once: bool = parameter(False, "Print one page, as soon as every part has spoken, and end.")
    wait_s: float = parameter(5.0, "With dashboard.once: how long to wait for what is silent.", unit="s", bounds=(0.1, 600.0))
    report: str = parameter("", "With dashboard.once: JSON file with the figures of the page; empty for none.")


@dataclass(frozen=True)
class ViewParameters:
    """Parameters of the view, prefix ``view.``"""

    port: int = parameter(8765, "Of the page, on 127.0.0.1; 0 for a free one.", bounds=(0, 65535))
    rate_hz: float = parameter(15.0, "How often the page is renewed.", unit="Hz", bounds=(0.5, 15.0))
    image: str = parameter("", "Topic of the picture; empty for the robot file's first camera, else the first that there is.")
    rerun: bool = parameter(False, "Show it in the Rerun viewer instead, which is started; needs the package rerun-sdk.")
    rerun_out: str = parameter("", "File (.rrd) for the Rerun viewer that is written instead; empty for none.")
    report: str = parameter("", "JSON file that gets the page's address; empty for none.")
