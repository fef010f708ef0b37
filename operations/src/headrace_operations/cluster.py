"""The deployment that operations act on: Kafka, the codec with schema registry and object store, and PostgreSQL."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.handlers import pipelines_log
from headrace.handlers.pipelines_log import PipelineCatalogue
from headrace.orders.control import Action, OrderBook, Scope
from headrace.payloads import Control
from headrace.store.pool import StoreSettings, opened_pool
from headrace_operations.dead_letters.act import Actor
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.held.act import HeldActor
from headrace_operations.held.log import HeldLog, generations
from headrace_operations.orders import log as orders_log

if TYPE_CHECKING:
    from headrace.store.pool import Pool


@dataclass(frozen=True, slots=True)
class Cluster:
    """One deployment, through the lanes of one generation; ``by`` is the principal that each action records.

    ``store`` is None if no PostgreSQL is configured. Every method raises :class:`headrace.errors.DependencyDown` if a
    system does not answer.
    """

    kafka: KafkaSettings
    codec: Codec
    store: StoreSettings | None = None
    by: str = ""

    def of(self, generation: str | None) -> Cluster:
        """Return this cluster with the lanes of another generation; None changes nothing."""
        return self if generation is None else replace(self, kafka=self.kafka.of(generation))

    def generations(self) -> list[str]:
        """Return the generations that have lanes."""
        return generations(self.kafka)

    def dead_letters(self) -> DeadLetterLog:
        """Return the dead letters."""
        return DeadLetterLog(self.kafka, self.codec)

    def dead_letter_actor(self) -> Actor:
        """Return the actor for dead letters."""
        return Actor(self.kafka, self.codec)

    def held(self) -> HeldLog:
        """Return the held records."""
        return HeldLog(self.kafka, self.codec)

    def held_actor(self) -> HeldActor:
        """Return the actor for held records."""
        return HeldActor(self.kafka, self.codec)

    def orders(self) -> OrderBook:
        """Return the orders in force."""
        return orders_log.read_orders(self.kafka, self.codec)

    def give(self, action: Action, scope: Scope, target: str, reason: str) -> Control:
        """Publish an order; it is durable when this returns."""
        return orders_log.give(
            self.kafka, self.codec, action=action, scope=scope, target=target, reason=reason, issued_by=self.by
        )

    def pipelines(self) -> PipelineCatalogue:
        """Return the pipelines that were applied."""
        return pipelines_log.read_all(self.kafka, self.codec)

    def pool(self) -> AbstractAsyncContextManager[Pool]:
        """Return a context manager for connections to the store; raises what :meth:`known_store` does."""
        return opened_pool(self.known_store())

    def known_store(self) -> StoreSettings:
        """Return the settings of the store; raises :class:`ConfigurationError` if none is configured."""
        if self.store is None:
            raise ConfigurationError("no PostgreSQL is configured", remedy="Pass its URL with --postgres.")
        return self.store
