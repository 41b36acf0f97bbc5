"""What the tests of the objectives share: which of them can run here."""

from __future__ import annotations

import pytest

from flow_policy_ros.policy.objectives import ObjectiveError, make_scheduler


def _diffusers() -> bool:
    try:
        make_scheduler()
    except ObjectiveError:
        return False
    return True


needs_diffusers = pytest.mark.skipif(not _diffusers(), reason="needs diffusers: pip install -r requirements/benchmarks.txt")
DIFFUSION = pytest.param("diffusion", marks=needs_diffusers)
OPPONENTS = ("regression", DIFFUSION)
ALL = ("flow", *OPPONENTS)
