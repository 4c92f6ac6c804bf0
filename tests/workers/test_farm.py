"""The engine's side of workers, with real processes: nothing blocks, nothing is mixed up, nothing is left."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator

import pytest

from qtunnel.secret import Secret
from qtunnel.workers import farm as module
from qtunnel.workers.farm import Farm, Job
from qtunnel.workers.messages import IN_SIZE, SLOTS, Kind, Status, Task
from tests.support.netns import wait_until
from tests.workers.test_bursts import MTU, bulk

SESSION = 5


@pytest.fixture
def farm() -> Iterator[Farm]:
    made = Farm(1, udp_segments=True)
    made.session_began(SESSION, (Secret(bytes(32)), Secret(bytes(32))), "", None)
    yield made
    made.close()


def task(segments: int = 40, *, session: int = SESSION) -> tuple[Task, memoryview]:
    return Task(Kind.SEAL_RUN, session=session, mtu=MTU), memoryview(bulk(segments))


def collect(farm: Farm, *jobs: Job) -> None:
    def all_there() -> bool:
        for descriptor in farm.descriptors:
            farm.collect(descriptor)
        return all(job.result is not None for job in jobs)

    wait_until(all_there, "results")


def test_jobs_come_back_each_to_its_own(farm: Farm) -> None:
    jobs = [job for segments in (3, 5, 7, 9) if (job := farm.submit(*task(segments))) is not None]
    assert len(jobs) == SLOTS
    assert farm.submit(*task()) is None  # no place is free
    collect(farm, *jobs)
    assert [job.messages for job in jobs] == [3, 5, 7, 9]
    assert all(job.done for job in jobs)
    for job in jobs:
        farm.release(job)
    assert farm.has_room


def test_nothing_waits_for_a_worker_that_does_nothing(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    (pid,) = farm.pids
    os.kill(pid, signal.SIGSTOP)
    job = farm.submit(*task())
    assert job is not None
    (descriptor,) = farm.descriptors
    farm.collect(descriptor)  # returns, though nothing is there
    assert job.result is None
    farm.end_stuck()
    assert farm.descriptors  # it has its time yet
    lost: list[int] = []
    farm.on_lost = lost.append
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    time.sleep(0.1)
    farm.end_stuck()
    assert lost == [descriptor]
    assert not farm.descriptors
    assert job.result is not None
    assert job.result.status == Status.ODD
    assert job.input == bulk(40)  # for the engine to do
    assert farm.submit(*task()) is None
    farm.session_ended(SESSION)  # there is nobody to tell


def test_results_that_wait_while_the_engine_is_away_are_no_sign_of_a_stuck_worker(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = farm.submit(*task())
    assert job is not None
    assert select.select(farm.descriptors, [], [], 60)[0], "the result waits"
    time.sleep(0.1)  # longer than what follows
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    farm.end_stuck()
    assert job.done
    assert farm.descriptors


def test_a_session_that_a_worker_does_not_know_and_what_is_too_long(farm: Farm) -> None:
    job = farm.submit(*task(session=SESSION + 1))
    assert job is not None
    collect(farm, job)
    assert not job.done
    assert farm.submit(task()[0], memoryview(bytes(IN_SIZE + 1))) is None


def test_an_exception_in_a_worker_is_named_and_ends_nothing(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    # a datagram of a size that no MTU gives
    broken = farm.submit(Task(Kind.OPEN_RUN, session=SESSION, size=0), memoryview(bytes(100)))
    assert broken is not None
    collect(farm, broken)
    assert not broken.done
    assert "could not do OPEN_RUN: ZeroDivisionError" in caplog.text
    farm.release(broken)
    job = farm.submit(*task())
    assert job is not None
    collect(farm, job)
    assert job.done


def test_closing_ends_even_a_stopped_worker() -> None:
    made = Farm(2, udp_segments=False)
    pids = made.pids
    os.kill(pids[0], signal.SIGSTOP)
    made.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
