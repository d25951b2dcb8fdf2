"""Jobs give the same results wherever they run, in their own order, and outlive their workers."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from shapefit.workers import ATTEMPTS, Workers


@pytest.fixture(scope="module")
def two():
    with Workers(2) as pool:
        yield pool


@pytest.fixture(params=[1, 2])
def pool(request, two):
    with Workers(request.param) as found:
        yield found


def total(numbers: np.ndarray, exponent: float) -> float:
    return float((numbers**exponent).sum())


def test_results_come_in_the_order_of_the_jobs(pool):
    numbers = np.linspace(0, 1, 1001)
    jobs = [(numbers, float(k)) for k in range(20)]
    assert list(pool.stream(total, jobs)) == [total(*job) for job in jobs]


def test_jobs_are_drawn_as_they_are_needed(pool):
    drawn = []
    jobs = ((drawn.append(k) or np.ones(2), 1.0) for k in range(100))
    stream = pool.stream(total, jobs)
    next(stream)
    assert len(drawn) <= 10
    stream.close()


def invert(number: float) -> float:
    return 1 / number


def test_a_failure_is_raised_or_stands_in_the_place_of_its_result(pool):
    first, failed, last = pool.outcomes(invert, [(1.0,), (0.0,), (4.0,)])
    assert (first, last) == (1.0, 0.25)
    assert isinstance(failed, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        list(pool.stream(invert, [(1.0,), (0.0,)]))


def threads() -> tuple[int, int, list[int]]:
    import numba
    import torch
    from threadpoolctl import threadpool_info

    blas = [entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"]
    return numba.get_num_threads(), torch.get_num_threads(), blas


def test_a_job_has_one_thread(pool):
    for numba, torch, blas in pool.stream(threads, [()] * 3):
        assert (numba, torch) == (1, 1)
        assert set(blas) == {1}


def die_once(mark: Path) -> int:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_a_killed_worker_costs_a_retry(two, tmp_path):
    for mark in (tmp_path / "other", tmp_path / "another"):
        mark.touch()
    jobs = [(tmp_path / name,) for name in ("other", "first", "another")]
    assert list(two.stream(die_once, jobs)) == [7, 7, 7]


def die_always(mark: Path, innocent: bool) -> int:
    if innocent:
        return 1
    with mark.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_job_that_ends_its_workers_is_given_up_and_the_others_are_done(two, tmp_path):
    mark = tmp_path / "mark"
    outcomes = list(two.outcomes(die_always, [(mark, k != 1) for k in range(8)]))
    assert isinstance(outcomes.pop(1), ChildProcessError)
    assert outcomes == [1] * 7
    assert len(mark.read_text()) == ATTEMPTS


def test_a_cluster_is_used_by_its_address_or_its_scheduler_file(two, tmp_path):
    cluster = two.client.cluster
    file = tmp_path / "scheduler.json"
    # as `dask scheduler --scheduler-file` does at its start; `Client.write_scheduler_file` fails now and
    # then, where workers have just told of times by tuples, which are no keys of JSON
    identity = two.client.scheduler_info()
    file.write_text(json.dumps({name: identity[name] for name in ("type", "id", "address", "services")}))
    for address in (cluster.scheduler_address, str(file)):
        with Workers(1, address) as pool:
            assert list(pool.stream(invert, [(2.0,)])) == [0.5]
            assert pool.peak_memory() > 0.05
    assert list(two.stream(invert, [(2.0,)])) == [0.5]  # whose cluster it is goes on


def test_workers_of_one_kind_are_shared(two):
    with Workers(2) as inner:
        assert inner.client is two.client
    assert list(two.stream(invert, [(2.0,)])) == [0.5]


def test_an_address_where_nobody_answers_is_named(monkeypatch):
    monkeypatch.setattr("shapefit.workers.PATIENCE", 0.5)
    with (
        pytest.raises(ValueError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:1'"),
        Workers(1, "tcp://127.0.0.1:1"),
    ):
        pass


def test_one_worker_needs_no_processes():
    with Workers(1) as pool:
        assert list(pool.stream(os.getpid, [()])) == [os.getpid()]
        assert pool.peak_memory() == 0.0
