"""Creates a generation for another model's vectors, next to the active one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.embeddings.models import KNOWN, KnownModel, identity
from headrace.embeddings.preparation import BODY, OverLong
from headrace.errors import ConfigurationError
from headrace.lexical.analyzer import DEFAULT
from headrace.migrate import create_topics
from headrace.store.generations import check_generation, create_generation
from headrace.store.rows import Generation
from headrace_operations.cluster import Cluster
from headrace_operations.generations.rights import owner


@dataclass(frozen=True, slots=True)
class CreateGeneration:
    """A generation to create; a value of None comes from the known properties of the model."""

    name: str
    model: str
    dimensions: int | None = None
    distance: str = "cosine"
    template: str = BODY
    passage_prompt: str | None = None
    over_long: OverLong = OverLong.CUT
    analyzer: str = DEFAULT
    storage: str = "vector"
    replication_factor: int = 1

    def wanted(self) -> Generation:
        """Return the generation; raises :class:`ConfigurationError` for one that cannot be or has unknown dimensions.

        Call it before creating anything.
        """
        found = KNOWN.get(identity(self.model))
        if found is None:
            if self.dimensions is None:
                raise ConfigurationError(
                    f"the dimensions of the model {self.model} are unknown", where="--model",
                    remedy="Pass the dimensions of its vectors with --dimensions, and its prompt with "
                    "--passage-prompt.",
                )  # fmt: skip
            found = KnownModel(self.dimensions)
        wanted = Generation(
            self.name, self.model, self.dimensions or found.dimensions, self.distance, template=self.template,
            passage_prompt=found.passage_prompt if self.passage_prompt is None else self.passage_prompt,
            over_long=self.over_long, analyzer=self.analyzer, storage=self.storage,
        )  # fmt: skip
        check_generation(wanted)
        return wanted


@dataclass(frozen=True, slots=True)
class Created:
    """The generation, which may have existed with the same properties, and the topics that were created."""

    generation: Generation
    topics: Sequence[str]


async def create(cluster: Cluster, request: CreateGeneration) -> Created:
    """Create table, index and topics of a generation; creating it again changes nothing.

    Raises :class:`ConfigurationError`, :class:`headrace.store.error_mapping.GenerationExists` if the name exists with
    other properties, :class:`headrace_operations.errors.Refused` for a login without the right, and
    :class:`DependencyDown`.
    """
    wanted = request.wanted()
    async with owner(cluster.known_store()) as connection:
        made = await create_generation(connection, wanted)
    return Created(made, create_topics(cluster.kafka.of(request.name), request.replication_factor))
