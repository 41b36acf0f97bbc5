"""What all tests share: their own DDS domain on this machine only, one thread for the tensor libraries, test data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports rclpy, numpy or torch. Two test runs on one machine must not hear each other, and child
# processes (nodes, the command line) inherit both.
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
if os.environ.get("ROS_DISTRO") == "humble":  # its name for the same
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The source tree."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Recordings and expert weights that do not ship with the package; the test is skipped where they are absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the test data folder ../shared, which does not ship with the package")
    return folder
