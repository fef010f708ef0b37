"""Creates a generation for another model's vectors, next to the active one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.embeddings.models import KNOWN, KnownModel, identity
from headrace.embeddings.preparation import BODY, OverLong, Preparation, parse_template
from headrace.errors import ConfigurationError
from headrace.lexical.analyzer import DEFAULT, Analyzer
from headrace.migrate import create_topics
from headrace.store.generations import create_generation, embedding_table
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
    replication_factor: int = 1

    def known(self) -> KnownModel:
        """Return dimensions and prompt; raises :class:`ConfigurationError` if the dimensions are unknown.

        It also raises it for an invalid name, template or analyzer, so call it before creating anything.
        """
        embedding_table(self.name)
        parse_template(self.template)
        Analyzer(self.analyzer)
        found = KNOWN.get(identity(self.model))
        if found is None:
            if self.dimensions is None:
                raise ConfigurationError(
                    f"the dimensions of the model {self.model} are unknown", where="--model",
                    remedy="Pass the dimensions of its vectors with --dimensions, and its prompt with "
                    "--passage-prompt.",
                )  # fmt: skip
            found = KnownModel(self.dimensions)
        return found._replace(
            dimensions=self.dimensions or found.dimensions,
            passage_prompt=found.passage_prompt if self.passage_prompt is None else self.passage_prompt,
        )


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
    known = request.known()
    preparation = Preparation(request.template, known.passage_prompt, request.over_long)
    async with owner(cluster.known_store()) as connection:
        made = await create_generation(
            connection,
            request.name,
            request.model,
            known.dimensions,
            request.distance,
            preparation,
            request.analyzer,
        )
    return Created(made, create_topics(cluster.kafka.of(request.name), request.replication_factor))
