"""Nodes that are machines of two workers each, and what is done to the workers."""

from __future__ import annotations

import contextlib

import psutil

from tests.chaos.cluster import Cluster, NodeProcess
from tests.chaos.stage import Stage

WORKERS = 2


class WorkersProcess(NodeProcess):
    """A supervisor and its workers."""

    processes = WORKERS

    def command(self) -> list[str]:
        """What is run, after Python itself."""
        return [*super().command(), "--workers", str(WORKERS)]

    def workers(self) -> list[psutil.Process]:
        """The workers that run now."""
        return [] if self.process is None else psutil.Process(self.process.pid).children()

    def kill(self) -> None:
        """End all of it."""
        workers = self.workers()
        super().kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()

    def sockets(self) -> list[tuple[int, int]]:
        """The TCP sockets of all workers, as (local port, remote port)."""
        found = []
        for worker in self.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [
                    (each.laddr.port, each.raddr.port)
                    for each in worker.net_connections("tcp")
                    if each.status != psutil.CONN_LISTEN and each.raddr
                ]
        return found


def with_workers(cluster: Cluster) -> Cluster:
    """The cluster, with such nodes."""
    cluster.node_process = WorkersProcess
    least, most = cluster.links.start, cluster.links.stop - 1
    cluster.links = range(WORKERS * least, WORKERS * most + 1)
    return cluster


async def worker_killed(stage: Stage) -> None:
    """A worker of a machine with two gets SIGKILL, again and again; its supervisor starts it again."""

    async def once() -> None:
        node = stage.chance.choice(stage.cluster.nodes)
        assert isinstance(node, WorkersProcess)
        if workers := node.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                stage.chance.choice(workers).kill()

    await stage.again_and_again(once, every=3)
