"""The circuit of a replica, by a clock that tests set."""

from __future__ import annotations

from orchestrator.replicas.circuit import Circuit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock) -> Circuit:
    circuit = Circuit(clock)
    assert [circuit.failed() for _ in range(3)] == [False, False, True]
    return circuit


def test_three_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    circuit = Circuit(Clock())
    for _ in range(10):
        circuit.failed()
        circuit.failed()
        circuit.succeeded()
    assert circuit.allows() and not circuit.is_open
    circuit = broken(Clock())
    assert circuit.is_open and not circuit.allows()


def test_what_fails_in_one_life_fails_once() -> None:
    circuit = Circuit(Clock())
    assert not any(circuit.failed(life=1) for _ in range(64))
    assert not circuit.failed(life=2) and circuit.failed(life=3)


def test_after_a_pause_one_stream_is_let_through() -> None:
    clock = Clock()
    circuit = broken(clock)
    clock.now += 1.3
    assert circuit.allows() and not circuit.is_open
    circuit.began()
    assert not circuit.allows()
    circuit.succeeded()
    assert circuit.allows() and circuit.failures == 0


def test_each_pause_is_twice_as_long_up_to_a_minute() -> None:
    clock = Clock()
    circuit, pauses = broken(clock), []
    for _ in range(9):
        pauses.append(circuit.left)
        clock.now += circuit.left
        circuit.began()
        assert circuit.failed()
    for doublings, pause in enumerate(pauses):
        assert 0.8 * min(2**doublings, 60) <= pause <= 1.2 * min(2**doublings, 60)
    circuit.succeeded()
    assert [circuit.failed() for _ in range(3)][-1] and circuit.left <= 1.2


def test_a_trial_that_is_never_heard_of_is_followed_by_another() -> None:
    clock = Clock()
    circuit = broken(clock)
    clock.now += 1.3
    circuit.began()
    clock.now += 11.0
    assert circuit.allows()
