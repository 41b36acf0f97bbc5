"""What all tests share: their own DDS domain on this machine only, one thread for the tensor libraries, test data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import without_torch
from stalls import Heart, SecondTries

from flow_policy_ros.ros.domain import free_domain

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports rclpy, numpy or torch. Two test runs on one machine must not hear each other, and child
# processes (nodes, the command line) inherit all of it.
os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain()))
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes of one run, which inherited the domain of the first
    worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.environ["ROS_DOMAIN_ID"] = str(1 + (int(os.environ["ROS_DOMAIN_ID"]) + worker) % 101)
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
if os.environ.get("ROS_DISTRO") == "humble":  # its name for the same
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A loaded machine loses messages; what a test waits for is then sent again after 20 ms instead of 3 s.
os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))


def pytest_configure(config: pytest.Config) -> None:
    """Measure how the machine keeps time, from the first test on; a missing torch is no error."""
    config.pluginmanager.register(SecondTries(Heart()), "second tries")
    config.pluginmanager.register(without_torch.WithoutTorch(without_torch.missing()), "without torch")


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
