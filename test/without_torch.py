"""Where torch is not installed, what needs it is skipped; everything else is run.

Nothing lists which tests those are: a test module whose imports end at the missing package is skipped as a whole, and a test
that gets to it later, itself. Where torch is installed but broken, and for any other missing package, errors stay errors.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def missing() -> frozenset[str]:
    """Packages whose absence is no error: torch and what asks for it, where torch is not installed; else none."""
    if importlib.util.find_spec("torch") is not None:
        return frozenset()
    return frozenset({"torch", *re.findall(r"^[\w-]+", (ROOT / "requirements" / "with_torch.txt").read_text(), re.MULTILINE)})


class WithoutTorch:
    """Hooks of pytest, for a run in which the packages ``absent`` are missing."""

    def __init__(self, absent: frozenset[str]) -> None:
        self._absent = absent

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Skip a module that could not be imported without the absent."""
        report = yield
        call = getattr(report, "call", None)
        if report.failed and call is not None and call.excinfo is not None and self._blamed(call.excinfo.value):
            report.outcome, report.longrepr = "skipped", self._skipped(collector.path)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Skip a test that came upon the absent while it ran."""
        report = yield
        if report.failed and call.excinfo is not None and self._blamed(call.excinfo.value):
            report.outcome, report.longrepr = "skipped", self._skipped(item.path)
        return report

    def _blamed(self, error: BaseException) -> bool:
        return any(isinstance(e, ModuleNotFoundError) and (e.name or "").partition(".")[0] in self._absent for e in causes(error))

    def _skipped(self, path: Path) -> tuple[str, int, str]:
        return str(path), 0, "Skipped: needs torch, which is not installed"


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error``, what it was raised from or while handling, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
