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
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    with Stop():
        during = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert during != before


def test_it_listens_again_after_somebody_else_took_the_signals() -> None:
    with Stop() as stop:
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("not ours"))
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)

        assert stop.asked.is_set()


def test_a_run_that_was_lost_stops_too() -> None:
    with Stop() as stop:
        stop.lose()

        with pytest.raises(Interrupted):
            stop.check()
        assert stop.lost
