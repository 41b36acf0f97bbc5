"""Installs the package for ament_python (colcon) and for pip alike: the modules, the shared files, the programs."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "flow_policy_ros"
NODES = ("perception_node", "policy_node", "command_node", "sim_node", "player_node", "recorder_node", "flight_recorder_node",
         "marker_node", "dashboard_node", "view_node", "lead_node")


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Every file under ``folder``, to be installed under share/ in the same tree."""
    by_parent: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            by_parent.setdefault(f"share/{NAME}/{path.parent.as_posix()}", []).append(path.as_posix())
    return list(by_parent.items())


setup(
    name=NAME,
    version="0.1.0",
    description="Flow-matching policies for dexterous robots on ROS 2",
    license="Apache-2.0",
    maintainer="flow_policy_ros maintainers",
    maintainer_email="flow_policy_ros@example.com",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["**/*.j2", "**/*.html", "**/*.css", "**/*.js"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
        *shared("checkpoints"),
        *shared("samples"),
    ],
    install_requires=["setuptools", "numpy", "PyYAML"],  # the rest by part: requirements/
    extras_require={
        "test": ["pytest"],  # what colcon asks for
        "collision": ["pin>=4.1,<5"],  # safety.collision; needs numpy 2
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            f"flow_policy = {NAME}.cli.main:main",
            *(f"{node} = {NAME}.nodes.{node}:main" for node in NODES),
        ]
    },
)
