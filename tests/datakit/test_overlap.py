"""Two at a time: results in order, errors in their turn, nothing left running."""

from __future__ import annotations

import threading
import time

import pytest

from datakit.overlap import THREADS, overlapped


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order_whatever_takes_longest(count):
    def work(number):
        time.sleep(0.01 if number % 2 == 0 else 0)
        return number * number

    assert list(overlapped(work, count)) == [number * number for number in range(count)]


def test_as_many_run_at_once_as_there_are_threads_and_no_more():
    running, most, lock = 0, 0, threading.Lock()

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    list(overlapped(work, 6))
    assert most == THREADS


def test_an_error_comes_in_its_turn_and_ends_the_rest():
    begun, before = [], threading.active_count()

    def work(number):
        begun.append(number)
        if number == 2:
            raise ValueError(number)
        return number

    results = overlapped(work, 50)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(results)
    assert max(begun) < 10
    assert threading.active_count() == before
