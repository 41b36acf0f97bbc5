"""What of this machine's settings decides how well nodes hear each other and keep their period. Reads files and environment."""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

from flow_policy_ros import resources
from flow_policy_ros.cli.doctor import Check, priority, usable_cores

MB = 2**20
RECEIVE_BYTES = 8 * MB
SHM_BYTES = 64 * MB
SEGMENT_BYTES = MB // 2
"""Of shared memory, through which a process sends with Fast DDS unless a profile says otherwise."""
RTPRIO = 40
"""What ``command.realtime_priority`` asks for unless it is told otherwise."""
DISCOVERY = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER")
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "CYCLONEDDS_URI")


def examine(middleware: str, root: Path = Path("/")) -> list[Check]:
    """All checks; ``middleware`` is the one in use, ``root`` where ``proc``, ``sys`` and ``dev`` lie."""
    dds = [domain(middleware), profiles(), shared_memory(middleware, root), receive_buffers(root)]
    return [*dds, governor(root), load(), rights()]


def domain(middleware: str) -> Check:
    """Which middleware, and who can take part."""
    number = os.environ.get("ROS_DOMAIN_ID") or "0"
    said = [f"{name}={os.environ[name]}" for name in DISCOVERY if os.environ.get(name)]
    here = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST" or os.environ.get("ROS_LOCALHOST_ONLY") == "1"
    found = ", ".join([middleware or "middleware unknown", f"domain {number}", *said])
    remedy = (
        "everybody in this network who has not chosen a domain takes part, and may command the robot. Choose one: export "
        "ROS_DOMAIN_ID=<1 to 101> for every process of the robot, or, for nodes on this machine alone, "
        "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST (Humble: ROS_LOCALHOST_ONLY=1)."
    )
    return Check("DDS domain", here or number != "0", False, found, remedy)


def profiles() -> Check:
    """Profile files that the environment names."""
    named = {name: os.environ[name] for name in PROFILES if os.environ.get(name)}
    absent = [f"{name}={value}" for name, value in named.items()
              if "<" not in value and not Path(value.removeprefix("file://")).is_file()]  # fmt: skip
    found = ", ".join(f"{name}={value}" for name, value in named.items()) or "none: the middleware's defaults"
    remedy = f"{', '.join(absent)}: there is no such file, and the middleware goes on with its defaults. Correct the path."
    return Check("DDS profile", not absent, True, f"no file: {', '.join(absent)}" if absent else found, remedy)


def shared_memory(middleware: str, root: Path) -> Check:
    """Room in /dev/shm, by which processes of one machine pass pictures."""
    place = root / "dev" / "shm"
    remedy = (
        "pictures go through the network stack instead, and large ones are lost when it is busy. Mount it with room: "
        "sudo mount -o remount,size=1G /dev/shm (container: --shm-size=1g, and --ipc=host to reach other containers)."
    )
    if not place.is_dir():
        return Check("shared memory", False, False, f"{place} is missing", remedy)
    free, segments = shutil.disk_usage(place).free, len(list(place.glob("fastrtps_*")))
    found = f"{free / MB:.0f} MB free in /dev/shm" + (f", {segments} files of Fast DDS" if "fastrtps" in middleware else "")
    return Check("shared memory", free >= SHM_BYTES, False, found, remedy)


def pictures(middleware: str, largest: Mapping[str, int]) -> list[Check]:
    """The ``largest`` message (bytes) of each topic against the shared memory that Fast DDS sends it through."""
    topic = max(largest, key=largest.__getitem__, default=None)
    if topic is None or "fastrtps" not in middleware:
        return []
    size, room = largest[topic], max(_segments(), default=SEGMENT_BYTES)
    found = f"up to {size / MB:.1f} MB on {topic}; shared memory of a process {room / MB:.1f} MB, as this terminal has it"
    profile = resources.share() / "config" / "fastdds_pictures.xml"
    remedy = (
        "a picture that does not fit is nearly always lost to readers with best effort, and comes late or not at all to others. "
        f"Start the driver of the camera with FASTDDS_DEFAULT_PROFILES_FILE={profile} "
        "(Humble, Jazzy: FASTRTPS_DEFAULT_PROFILES_FILE), or publish compressed pictures and name their topic in the robot file."
    )
    return [Check("large messages", size <= room, False, found, remedy)]


def _segments() -> list[int]:
    """Sizes that the profile files of Fast DDS in use give to shared memory, bytes."""
    files = [Path(os.environ[name]) for name in PROFILES if name.startswith("FAST") and os.environ.get(name)]
    texts = [file.read_text(errors="replace") for file in files if file.is_file()]
    return [int(size) for text in texts for size in re.findall(r"<segment_size>\s*(\d+)", text)]


def receive_buffers(root: Path) -> Check:
    """How much of a burst the kernel keeps for a socket: what pictures from another machine need."""
    file = root / "proc" / "sys" / "net" / "core" / "rmem_max"
    try:
        size = int(file.read_text())
    except (OSError, ValueError):
        return Check("receive buffers", True, False, "not visible here")
    remedy = (
        "pictures that come from another machine arrive in bursts of datagrams, and one that is lost costs the picture. Fast DDS "
        "asks for more than the kernel's default where its profile says so (config/fastdds_pictures.xml), and gets at most this. "
        f"sudo sysctl -w net.core.rmem_max=2147483647, and the same line in /etc/sysctl.d/ to keep it; at least {RECEIVE_BYTES}."
    )
    return Check("receive buffers", size >= RECEIVE_BYTES, False, f"net.core.rmem_max {size / MB:.1f} MB", remedy)


def governor(root: Path) -> Check:
    """Whether the cores wait at a low frequency for work to come."""
    files = sorted((root / "sys" / "devices" / "system" / "cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found: dict[str, int] = {}
    for file in files:
        name = file.read_text().strip()
        found[name] = found.get(name, 0) + 1
    if not found:
        return Check("CPU governor", True, False, "not visible here (virtual machine or container)")
    remedy = (
        "a core that has slowed down wakes late and computes slowly at first, again at every tick. "
        "sudo cpupower frequency-set -g performance, or echo performance | sudo tee "
        "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor."
    )
    text = ", ".join(f"{name} on {count} cores" for name, count in found.items())
    return Check("CPU governor", set(found) == {"performance"}, False, text, remedy)


def load() -> Check:
    """How many processes want to run, for each core."""
    count = usable_cores()
    wanted = os.getloadavg()[0]
    remedy = (
        "processes wait for each other, and chunks come late. Stop what is not the robot's (top says what), give the policy fewer "
        "threads (policy.threads), or bind it to cores of its own (taskset, systemd's CPUAffinity=)."
    )
    return Check("load", wanted <= count, False, f"{wanted:.1f} on {count} cores in the last minute", remedy)


def rights() -> Check:
    """Real-time priority and locked memory, of whoever starts processes as this one was started."""
    may = priority()
    limits = {"rtprio": getattr(resource, "RLIMIT_RTPRIO", None), "memlock": resource.RLIMIT_MEMLOCK}
    hard = {name: resource.getrlimit(number)[1] for name, number in limits.items() if number is not None}
    text = ", ".join(f"{name} {_limit(name, value)}" for name, value in hard.items())
    low = may.ok and os.geteuid() != 0 and 0 <= hard.get("rtprio", 0) < RTPRIO
    remedy = (
        "the command node shares its core with whatever else runs, and ticks come late under load. "
        f"{may.remedy or 'Raise rtprio to 98 in /etc/security/limits.d/'}; for systemd LimitRTPRIO=98 and LimitMEMLOCK=infinity."
    )
    return Check("real-time priority", may.ok and not low, False, f"{may.found}; limits: {text}", remedy)


def _limit(name: str, value: int) -> str:
    if value == resource.RLIM_INFINITY:
        return "unlimited"
    return f"{value // 1024} kB" if name == "memlock" else str(value)
