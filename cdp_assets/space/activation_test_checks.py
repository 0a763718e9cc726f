"""Whether the cases of an activation speak of what it reads. Whether they pass is seen in ``activation_payloads.unit_tests``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.activation_tests import ActivationTests, Case
from cdp_assets.space.documents import Document, Place
from cdp_assets.space.located import did_you_mean
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Problem


def check_tests(
    document: Document,
    tests: ActivationTests,
    activations: Mapping[str, Activation],
    known: Sequence[str],
    graph: DataGraph | None,
) -> Iterator[Problem]:
    """Cases that no data could ever make: they name what the activation does not read."""
    activation = activations.get(tests.activation)
    if activation is None:
        if tests.activation not in known:
            line = document.line("activation")
            remedy = did_you_mean(tests.activation, known)
            yield Problem(document.file, line, f"there is no activation '{tests.activation}'", remedy)
        return
    for number, case in enumerate(tests.cases):
        place: Place = ("cases", number)
        for path, said, remedy in _misfits(activation, case, graph):
            yield Problem(document.file, document.line(*place, *path), f"case '{case.name}': {said}", remedy)


def _misfits(activation: Activation, case: Case, graph: DataGraph | None) -> Iterator[tuple[Place, str, str]]:
    if (case.row is not None) != (activation.model is not None):
        source = "a model: it takes 'row'" if activation.model else "an audience: it takes identifiers, traits and entities"
        source = "an event stream: it takes 'message', identifiers and traits" if activation.events else source
        yield (), f"the activation is of {source}", "give what the activation reads"
        return
    if (case.message is not None) != (activation.events is not None):
        said = (
            "the activation is of an event stream: it takes 'message'" if activation.events else "'message' is of an event stream"
        )
        yield (), said, "give what the activation reads"
        return
    if case.leaves and activation.trigger.when in ("enters", "upsert"):
        yield ("leaves",), f"with the trigger {activation.trigger.when} nothing is sent for who leaves", "remove the case"
    kinds = ("user_id", "anonymous_id", "email", activation.identifier)
    for kind in case.identifiers:
        if kind not in kinds:
            yield ("identifiers", kind), f"messages do not carry the identifier '{kind}'", did_you_mean(kind, kinds)
    traits = activation.personalization.traits
    for trait in case.traits:
        if trait not in traits:
            yield ("traits", trait), f"the activation does not personalise with the trait '{trait}'", did_you_mean(trait, traits)
    if graph is not None:
        yield from _stray_entities(activation, case.entities, None, ("entities",), graph)


def _stray_entities(
    activation: Activation, entities: Mapping[str, Any], parent: str | None, place: Place, graph: DataGraph
) -> Iterator[tuple[Place, str, str]]:
    """Relationships that the graph lacks there, rows without a primary key, columns that messages do not carry."""
    below = {node.relationship.slug: node for node in graph.nodes() if node.parent == parent}
    for slug, rows in entities.items():
        node = below.get(slug)
        if node is None:
            yield (*place, slug), f"there is no relationship '{slug}' here", did_you_mean(slug, below)
            continue
        key = node.entity.primary_key
        chosen = [name for item in activation.personalization.entities if item.path == node.path for name in item.columns]
        deeper = {child.relationship.slug for child in graph.nodes() if child.parent == node.path}
        for number, row in enumerate(rows):
            here = (*place, slug, number)
            if row.get(key) is None:
                yield here, f"the row has no {key}", f"give the primary key of {node.entity.slug}"
            for name, value in row.items():
                if name in deeper:
                    yield from _stray_entities(activation, {name: value}, node.path, here, graph)
                elif name not in (key, *chosen):
                    said = f"the activation does not personalise with the column '{name}' of {node.path}"
                    yield (*here, name), said, did_you_mean(name, (key, *chosen, *deeper))
