"""Real Kafka brokers on the loopback address that tests kill, stop and restart one by one.

Each node is a broker and a controller. One listener is for the other nodes and the test's own clients. The other,
``CLIENT``, is advertised with the port of a proxy if :class:`Cluster` gets one, so clients that bootstrap there always
go through the proxy.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.migrate import make_topics
from headrace_local.loopback import free_port
from headrace_testing.faults.processes import Child, spawn

OFFSETS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
_PARTITIONS = 8
"""Partitions of these internal topics."""

_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=INTERNAL://127.0.0.1:{port},CLIENT://127.0.0.1:{client_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=INTERNAL://127.0.0.1:{port},CLIENT://127.0.0.1:{advertised}
listener.security.protocol.map=INTERNAL:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
log.dirs={data}
default.replication.factor={copies}
min.insync.replicas={least}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions={partitions}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={least}
transaction.state.log.num.partitions={partitions}
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
unclean.leader.election.enable=false
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
controller.quorum.fetch.timeout.ms=3000
controller.quorum.election.timeout.ms=1500
replica.lag.time.max.ms=6000
controlled.shutdown.enable=true
message.max.bytes=10485760
replica.fetch.max.bytes=10485760
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
log.index.size.max.bytes=1048576
"""
_LOGGING = """\
Configuration:
  Appenders:
    Console: {name: STDOUT, PatternLayout: {pattern: "%d{ISO8601} %p %m (%c)%n"}}
  Loggers:
    Root: {level: WARN, AppenderRef: [{ref: STDOUT}]}
"""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where Java and Kafka's jars are; provided by the tool that starts the local stack."""

    java: str
    jars: Sequence[Path]

    @property
    def classpath(self) -> str:
        """Return the jars as a Java class path."""
        return os.pathsep.join(map(str, self.jars))


@dataclass(slots=True)
class Node:
    """One broker's ports and folder, and its process while it runs."""

    number: int
    folder: Path
    port: int = field(default_factory=free_port)
    client_port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)
    advertised: int = 0
    child: Child | None = None

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.alive()


class Cluster:
    """``size`` brokers; with three, topics have three copies, and a write needs two of them."""

    def __init__(
        self,
        distribution: Distribution,
        folder: Path,
        size: int = 3,
        *,
        advertise: Callable[[int], int] = lambda port: port,
    ) -> None:
        """Prepare the nodes; ``advertise`` returns the port of the proxy for a client port."""
        self._distribution = distribution
        self.nodes = {number: Node(number, folder / f"node-{number}") for number in range(1, size + 1)}
        for node in self.nodes.values():
            node.advertised = advertise(node.client_port)
        self._least = 2 if size > 2 else 1
        self._admin: AdminClient | None = None

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers of all nodes, without a proxy."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())

    @property
    def client_bootstrap(self) -> str:
        """Bootstrap servers through the proxies."""
        return ",".join(f"127.0.0.1:{node.advertised}" for node in self.nodes.values())

    @property
    def admin(self) -> AdminClient:
        """A client for admin requests."""
        if self._admin is None:
            self._admin = AdminClient(
                {"bootstrap.servers": self.bootstrap, "reconnect.backoff.max.ms": 500, "log_level": 0}
            )
        return self._admin

    def start(self) -> None:
        """Format and start every node, and wait until all are in the cluster."""
        self._format()
        for node in self.nodes.values():
            self._launch(node)
        self.wait_whole()

    def close(self) -> None:
        """Kill all running nodes."""
        for node in self.nodes.values():
            if node.child is not None and node.child.alive():
                node.child.kill()

    def kill(self, number: int) -> None:
        """Send SIGKILL to the broker."""
        self._child(number).kill()

    def drain(self, number: int) -> None:
        """Send SIGTERM to the broker and wait until it has handed over and exited; kill it after a minute."""
        child = self._child(number)
        try:
            child.drain(60)
        except subprocess.TimeoutExpired:
            child.kill()

    def stop(self, number: int) -> None:
        """Send SIGSTOP to the broker: its connections stay open, but it does not answer."""
        self._child(number).stop()

    def go_on(self, number: int) -> None:
        """Send SIGCONT to the broker."""
        self._child(number).go_on()

    def restart(self, number: int, *, wait: bool = True) -> None:
        """Start the broker again with its data."""
        self._launch(self.nodes[number])
        if wait:
            self.wait_whole()

    def heal(self) -> None:
        """Continue stopped brokers, start missing ones, and wait until the cluster is complete."""
        for node in self.nodes.values():
            if node.child is not None and node.child.alive():
                node.child.go_on()
            else:
                self._launch(node)
        self.wait_whole()

    def leader(self, topic: str, partition: int, timeout: float = 60.0) -> int:
        """Return the node that leads the partition; raises :class:`AssertionError` if there is none in time."""
        deadline = time.monotonic() + timeout
        while True:
            leaders = self._leaders(topic)
            if leaders.get(partition, -1) in self.nodes:
                return leaders[partition]
            assert time.monotonic() < deadline, f"{topic}[{partition}] has no leader after {timeout:.0f} s"
            time.sleep(0.1)

    def transaction_coordinator(self, transactional_id: str) -> int:
        """Return the node that coordinates the producer's transactions."""
        return self.leader(TRANSACTIONS, java_hash(transactional_id) % _PARTITIONS)

    def group_coordinator(self, group: str) -> int:
        """Return the node that coordinates the consumer group."""
        return self.leader(OFFSETS, java_hash(group) % _PARTITIONS)

    def create_topics(self, names: Sequence[str], partitions: int) -> None:
        """Create topics with the cluster's number of copies."""
        copies = min(3, len(self.nodes))
        make_topics(self.admin, [NewTopic(name, partitions, copies) for name in names])

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics."""
        for future in self.admin.delete_topics(list(names)).values():
            future.result(60)

    def wait_whole(self, timeout: float = 120.0) -> None:
        """Wait until every node is in the cluster and every partition has all copies in sync."""
        deadline = time.monotonic() + timeout
        while not self._whole():
            dead = [node for node in self.nodes.values() if not node.alive()]
            if dead or time.monotonic() > deadline:
                tails = "\n".join(f"node {node.number}:\n{node.child.tail()}" for node in dead if node.child)
                raise AssertionError(f"the cluster is not complete after {timeout:.0f} s\n{tails}")
            time.sleep(0.2)

    def _whole(self) -> bool:
        try:
            metadata = self.admin.list_topics(timeout=5)
        except KafkaException:
            return False
        partitions = [part for topic in metadata.topics.values() for part in topic.partitions.values()]
        return set(metadata.brokers) == set(self.nodes) and all(
            len(part.isrs) == len(part.replicas) and part.leader in self.nodes for part in partitions
        )

    def _leaders(self, topic: str) -> dict[int, int]:
        try:
            found = self.admin.list_topics(topic, timeout=5).topics[topic]
        except KafkaException:
            return {}
        return {number: part.leader for number, part in found.partitions.items()}

    def _child(self, number: int) -> Child:
        child = self.nodes[number].child
        assert child is not None, f"broker {number} was never started"
        return child

    def _format(self) -> None:
        """Write the configuration and format the data folder of all nodes, concurrently."""
        voters = ",".join(f"{node.number}@127.0.0.1:{node.controller_port}" for node in self.nodes.values())
        cluster = uuid.uuid4().hex[:22]
        formatting = []
        for node in self.nodes.values():
            node.folder.mkdir(parents=True)
            (node.folder / "log4j2.yaml").write_text(_LOGGING)
            properties = node.folder / "server.properties"
            properties.write_text(
                _PROPERTIES.format(
                    node=node.number,
                    voters=voters,
                    port=node.port,
                    client_port=node.client_port,
                    controller_port=node.controller_port,
                    advertised=node.advertised,
                    data=node.folder / "data",
                    copies=min(3, len(self.nodes)),
                    least=self._least,
                    partitions=_PARTITIONS,
                )
            )
            argv = self._java(node, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties))
            formatting.append(spawn(f"format-{node.number}", argv, node.folder / "format.log"))
        for child in formatting:
            assert child.wait(120) == 0, f"{child.name} failed:\n{child.tail()}"

    def _launch(self, node: Node) -> None:
        assert not node.alive(), f"broker {node.number} runs already"
        argv = self._java(node, "kafka.Kafka", str(node.folder / "server.properties"))
        node.child = spawn(f"kafka-{node.number}", argv, node.folder / "kafka.log")

    def _java(self, node: Node, main: str, *arguments: str) -> list[str]:
        return [
            self._distribution.java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={node.folder / 'log4j2.yaml'}",
            "-cp", self._distribution.classpath, main, *arguments,
        ]  # fmt: skip


def java_hash(text: str) -> int:
    """Return Java's ``String.hashCode`` without its sign; Kafka maps IDs to partitions with it (``Utils.abs``)."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return min(value, 2**32 - value) % 2**31
