"""Signals are noted while asked for, and handled as before afterwards."""

import signal
import threading

import pytest

from recsys.training.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_noted_and_a_second_one_stops(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert not request.arrived
        signal.raise_signal(number)
        assert request.arrived
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_request_can_be_used_again() -> None:
    request = StopRequest()
    with request:
        signal.raise_signal(signal.SIGTERM)
    with request:
        assert not request.arrived


def test_outside_the_main_thread_nothing_changes() -> None:
    before, found = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopRequest() as request:
            found.append((request.arrived, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]
