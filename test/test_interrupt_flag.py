"""A training is asked to end by Ctrl-C, or by SIGTERM; what handled the signals before does so again afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from flow_policy_ros.training.progress import InterruptFlag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_raises_the_flag(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with InterruptFlag() as flag:
        assert not flag.raised
        os.kill(os.getpid(), number)
        assert flag.raised
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), InterruptFlag():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
