from __future__ import annotations

import os
import signal

import pytest

from moa.errors import Interrupted
from moa.pipeline.stop import Stop


def test_a_signal_is_kept_until_the_run_asks() -> None:
    with Stop() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted):
            stop.check()


def test_where_nothing_is_out_it_interrupts() -> None:
    with Stop() as stop, pytest.raises(Interrupted), stop.at_once():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked.is_set()

        with pytest.raises(Interrupted, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_do_what_they_did_before() -> None:
    with Stop():
        pass

    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
