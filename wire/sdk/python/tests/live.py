"""A real ring on this machine: `ringbeam dev --idle`, started, wounded and ended.

The binary is that of RINGBEAM_BINARY. Directories are in /var/tmp, which must be on a disk; RINGBEAM_KEEP=1 leaves them
there, with the nodes' logs. Only processes that were started here are ended, by their ids.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import ringbeam

BINARY = os.environ.get("RINGBEAM_BINARY", "")
_MISSING = "RINGBEAM_BINARY is not set: it names the ringbeam binary to test against"
needs_ring = pytest.mark.skipif(not BINARY, reason=_MISSING)

_START_SECONDS_MAX = 30.0


class LiveRing:
    """`with LiveRing(..) as ring`: serves when entered."""

    def __init__(self, nodes: int = 3, shards: int = 1) -> None:
        self._arguments = ["--nodes", str(nodes), "--shards", str(shards)]
        self._restarted: dict[int, subprocess.Popen[bytes]] = {}
        self._killed: set[int] = set()

    def __enter__(self) -> LiveRing:
        self._root = Path(tempfile.mkdtemp(prefix="ringbeam-python.", dir="/var/tmp"))
        told = self._root / "ring.json"
        self._log = (self._root / "dev.log").open("wb")
        command = [BINARY, "dev", "--idle", "--dir", str(self._root / "ring"), "--json", str(told), *self._arguments]
        self._dev = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not told.exists():
            if self._dev.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise AssertionError(f"{command} serves no ring: {(self._root / 'dev.log').read_text()}")
            time.sleep(0.02)
        described: dict[str, Any] = json.loads(told.read_text())
        self.endpoints: list[str] = described["endpoints"]
        self._nodes: dict[int, dict[str, Any]] = {node["id"]: node for node in described["nodes"]}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if not os.environ.get("RINGBEAM_KEEP"):
            shutil.rmtree(self._root)

    def kill(self, node: int) -> None:
        """SIGKILL."""
        restarted = self._restarted.pop(node, None)
        if restarted is not None:
            assert restarted.poll() is None, f"node {node} had ended by itself: {self._log.name}"
            restarted.kill()
            restarted.wait()
        else:
            # A child of our child: its id is still its, dead or alive, until the ring ends.
            pid = self._nodes[node]["pid"]
            os.kill(pid, signal.SIGKILL)
            while not _is_dead(pid):
                time.sleep(0.001)
        self._killed.add(node)

    @contextmanager
    def stopped(self, nodes: Iterable[int]) -> Iterator[None]:
        """SIGSTOP for these, and SIGCONT at the end."""
        pids = [self._restarted[node].pid if node in self._restarted else self._nodes[node]["pid"] for node in nodes]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            # A thread that runs meanwhile may still take part in a write.
            while not all(_is_stopped(pid) for pid in pids):
                time.sleep(0.001)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    async def kill_leader(self, client: ringbeam.Client, shard: int) -> int:
        """Kills the leader of a shard, waiting for one. Returns its node id."""
        leader = (await client.topology(shard, timeout=15.0)).leader
        self.kill(leader)
        return leader

    def restart(self) -> None:
        """Starts every killed node again."""
        for node in sorted(self._killed):
            command = [BINARY, "serve", "--config", self._nodes[node]["config"]]
            self._restarted[node] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
            )
        self._killed.clear()

    def _end(self) -> None:
        for node in self._restarted.values():
            node.kill()
            node.wait()
        if self._dev.poll() is None:
            self._dev.send_signal(signal.SIGINT)
            try:
                self._dev.wait(10)
            except subprocess.TimeoutExpired:
                self._dev.kill()
                self._dev.wait()
        self._log.close()


def _is_stopped(pid: int) -> bool:
    """Whether no thread of a process runs."""
    stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] in "TtZ" for stat in stats)


def _is_dead(pid: int) -> bool:
    """Whether all threads of a process have ended, so that it holds no port and no lock."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (FileNotFoundError, ProcessLookupError):
        return True
