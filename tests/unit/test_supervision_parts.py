"""The parts of supervision alone: locks, back-off, lifeline, signals, children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentflow.locks import FileLock, LockTimeout
from agentflow.supervisor.children import FIRST_DELAY, HEALTHY, LONGEST_DELAY, Backoff, Child
from agentflow.supervisor.signals import StopRequested, StopSignals

ROOT = Path(__file__).parents[2]


class TestFileLock:
    def test_shared_locks_go_together_and_exclude_an_exclusive_one(self, tmp_path: Path) -> None:
        first, second, third = (FileLock(tmp_path / "lock") for _ in range(3))
        assert first.try_acquire("shared")
        assert second.try_acquire("shared")
        assert not third.try_acquire("exclusive")
        first.release()
        second.release()
        assert third.try_acquire("exclusive")
        third.release()

    def test_waiting_is_bounded(self, tmp_path: Path) -> None:
        holder, waiter = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        holder.acquire("exclusive", 0)
        with pytest.raises(LockTimeout):
            waiter.acquire("exclusive", 0.05)
        holder.release()
        holder.release()  # twice does no harm

    def test_handed_over_to_a_child_it_lasts_as_long_as_the_child(self, tmp_path: Path) -> None:
        lock, rival = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        lock.acquire("exclusive", 0)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()]) as child:
            lock.hand_over()
            assert not rival.try_acquire("shared")
            child.stdin.close()
            child.wait(10)
        assert rival.try_acquire("exclusive")
        rival.release()

    def test_an_open_descriptor_is_needed(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not held"):
            FileLock(tmp_path / "lock").fileno()


class TestBackoff:
    def test_doubles_up_to_its_limit(self) -> None:
        backoff = Backoff()
        delays = [backoff.after(0) for _ in range(12)]
        assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
        assert delays[-1] == LONGEST_DELAY

    def test_a_healthy_life_is_forgiven(self) -> None:
        backoff = Backoff()
        for _ in range(5):
            backoff.after(0)
        assert backoff.after(HEALTHY) == FIRST_DELAY


class TestStopSignals:
    def test_a_signal_wakes_and_is_remembered(self) -> None:
        with StopSignals(lambda: None) as signals:
            assert not signals.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.requested
            assert os.read(signals.fileno(), 1)
            signals.drain()

    def test_long_work_is_interrupted_and_later_work_not_begun(self) -> None:
        with StopSignals(lambda: None) as signals:
            with pytest.raises(StopRequested), signals.interruptible():
                os.kill(os.getpid(), signal.SIGINT)
            begun = []
            with pytest.raises(StopRequested), signals.interruptible():
                begun.append(True)
            assert not begun

    def test_the_same_wish_twice_is_not_impatience(self) -> None:
        insisted: list[bool] = []
        with StopSignals(lambda: insisted.append(True)) as signals:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert not insisted
            signals._first -= 10
            os.kill(os.getpid(), signal.SIGINT)
            assert insisted

    def test_handlers_are_put_back(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with StopSignals(lambda: None):
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before


class TestLifeline:
    SCRIPT = """
import os, signal, sys
from agentflow import lifeline
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else lambda *_: os._exit(7))
print(lifeline.watch(grace=0.2), os.environ.get(lifeline.ENVIRONMENT), repr(sys.stdin.read()), flush=True)
while True:
    signal.pause()
"""

    def child(self, *arguments: str, line: str = "stdin") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | {"AGENTFLOW_LIFELINE": line},
        )

    @pytest.mark.parametrize(("arguments", "code"), [((), 7), (("deaf",), -signal.SIGKILL)])
    def test_its_end_asks_the_child_to_stop_and_then_kills_it(self, arguments: tuple[str, ...], code: int) -> None:
        with self.child(*arguments) as child:
            assert child.stdout.readline() == "True None ''\n"  # grandchildren see neither the line nor the setting
            child.stdin.close()
            assert child.wait(20) == code

    def test_without_a_supervisor_stdin_is_left_alone(self) -> None:
        with self.child(line="") as child:
            child.stdin.write("typed")
            child.stdin.close()
            assert child.stdout.readline() == "False None 'typed'\n"
            child.kill()


class TestChild:
    def test_a_dead_one_is_started_again_when_it_is_due(self) -> None:
        child = Child("false", ["false"], lambda: os.environ)
        child.start()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        child.tend(time.monotonic())
        assert child.pid is None
        assert child.due is not None
        child.tend(child.due - 0.01)
        assert child.pid is None
        child.tend(child.due)
        assert child.pid is not None
        child.kill()
        assert (child.pid, child.due) == (None, None)

    def test_its_group_goes_with_it(self, tmp_path: Path) -> None:
        child = Child(
            "shell",
            ["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/done; wait"],
            lambda: os.environ,
        )
        child.start()
        deadline = time.monotonic() + 10
        while not (tmp_path / "done").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.kill()
        grandchild = int((tmp_path / "done").read_text())
        while psutil.pid_exists(grandchild) and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
