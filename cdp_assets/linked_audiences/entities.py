"""The rows of entity conditions: which pass, to whom they belong, and which of them become context.

What belongs here: joins of the data graph, filters, quantifiers, nested conditions, and what filters refer to. What does not:
who is a member (``compile.py``), what an operator means (``space/operators.py``).

How it reads
- An instance is a primary key: rows that repeat it count once, and rows without it do not count. Joins are inner.
- Below an entity the key is the *value* of the parent's join column, so children are counted per parent row.
- A filter may compare with a column further up its branch, or with a trait of the profile. Rows below then pass or not depending
  on what stands above them: such a condition is asked once for every distinct combination of join value and values above
  (``cdp_ref_…`` columns carry these down), and the answer is joined back. All other conditions are a plain IN.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir

from cdp_assets.data_graph.keys import comparable, key_text
from cdp_assets.data_graph.model import (
    ColumnJoin,
    DataGraph,
    Entity,
    ExternalIdJoin,
    JunctionJoin,
    MissingNodeError,
    Node,
    TraitJoin,
)
from cdp_assets.space.conditions import filters_of
from cdp_assets.space.models.audiences import ColumnFilter, EntityCondition, EventCondition
from cdp_assets.space.operators import ConditionError, compare, joined_by
from resources.warehouse import TableRef, Warehouse

PROFILE = "canonical_segment_id"
Label = Callable[[str], ir.Value]
"""Path -> what stands for it."""


@dataclass(frozen=True, order=True)
class Above:
    """A value that rows are compared with and do not hold themselves: a column of a node up the branch, or (path None) a trait."""

    path: str
    name: str

    @property
    def is_trait(self) -> bool:
        return not self.path


@dataclass
class EntityRows:
    """Compiles entity conditions.

    identifiers: (canonical_segment_id, type, value). trait: name -> (canonical_segment_id, value), the value as text or number.
    rows_of: the rows of an entity at ``as_of``. kept: of a node below the profile its rows with ``cdp_profile``, computed once for many
    conditions, made by the function that goes with it; None where that is not worth it. keep: turns an expression into the table that it
    was computed into; None: nothing is computed before it is asked for.
    """

    warehouse: Warehouse
    graph: DataGraph
    as_of: dt.datetime
    identifiers: Callable[[], ir.Table]
    trait: Callable[[str], ir.Table]
    rows_of: Callable[[Entity], ir.Table]
    kept: Callable[[Node, Callable[[], ir.Table]], ir.Table | None] = lambda node, make: None
    keep: Callable[[ir.Table], ir.Table] | None = None
    _names: dict[Above, str] = field(default_factory=dict)
    _kept: dict[tuple[str, str], ir.Table] = field(default_factory=dict)

    # -- whether -----------------------------------------------------------------------------------------------------

    def holds(self, profile: ir.StringValue, condition: EntityCondition) -> ir.BooleanValue:
        """Whether a profile has so many rows that pass; never NULL."""
        node = child_node(self.graph, None, condition.relationship)
        rows = self.of_profiles(node, condition)
        keyed = rows.select(cdp_key=rows["cdp_profile"], cdp_id=column_of(rows, node.entity.primary_key, node))
        return quantified(profile, keyed, condition, negated=condition.without_entity is not None)

    def of_profiles(self, node: Node, condition: EntityCondition) -> ir.Table:
        """Passing rows of a node below the profile with ``cdp_profile``; a row as often as it has profiles."""
        return self._once(node, condition, lambda: self._of_profiles(node, condition))

    def _of_profiles(self, node: Node, condition: EntityCondition) -> ir.Table:
        table = self._table(node)
        if not self._above(condition, None):
            kept = self.kept(node, lambda: self._joined_to_profiles(node, table, condition).drop("cdp_value"))
            if kept is not None:
                return self._passing(kept, node, condition)
            return self._joined_to_profiles(node, self._passing(table, node, condition), condition).drop("cdp_value")
        rows = self._joined_to_profiles(node, table, condition).drop("cdp_value")
        return self._passing(rows, node, condition)

    def _joined_to_profiles(self, node: Node, table: ir.Table, condition: EntityCondition) -> ir.Table:
        """Rows of a node below the profile with ``cdp_profile``, the value that joins them (``cdp_value``), and traits that are compared."""
        join = node.join
        if isinstance(join, ExternalIdJoin):
            found = self.identifiers()
            found = found.filter(found["type"] == join.type)
            links = found.select(cdp_profile=found[PROFILE], cdp_value=found["value"])
        elif isinstance(join, TraitJoin):
            links = self._trait_texts(join.name)
        else:
            raise ConditionError(f"relationship {node.path} is below the profile and needs external_id or trait")
        for trait in self._above(condition, None):
            values = self.trait(trait.name)
            values = values.select(cdp_of=values[PROFILE], **{self._name(trait): values["value"]})
            links = links.left_join(values, links["cdp_profile"] == values["cdp_of"]).drop("cdp_of")
        key = key_text(column_of(table, join.join_key, node))
        return links.join(table, links["cdp_value"] == key)

    def passing_below(self, condition: EntityCondition, steps: Sequence[int], profile: str) -> ir.Table:
        """(key): the rows of one profile that pass the nested condition to which ``steps`` lead (none: the condition itself).

        Rows above it need not pass: of each it could be asked.
        """
        node = child_node(self.graph, None, condition.relationship)
        if not steps:
            rows = self.of_profiles(node, condition)
            rows = rows.filter(rows["cdp_profile"] == profile)
            return rows.select(key=key_text(column_of(rows, node.entity.primary_key, node)))
        rows = self._joined_to_profiles(node, self._table(node), condition).drop("cdp_value")
        rows = rows.filter(rows["cdp_profile"] == profile)
        for step in steps[:-1]:
            assert condition.nested is not None
            condition = condition.nested.conditions[step]
            child = child_node(self.graph, node.path, condition.relationship)
            rows, node = self._candidates(rows, node, child, condition), child
        assert condition.nested is not None
        condition = condition.nested.conditions[steps[-1]]
        child = child_node(self.graph, node.path, condition.relationship)
        found = self._children(rows, node, child, condition)
        return found.select(key=key_text(column_of(found, child.entity.primary_key, child)))

    def _trait_texts(self, name: str) -> ir.Table:
        """(cdp_profile, cdp_value): a trait as text, to be joined with; of numbers only the whole ones."""
        rows = self.trait(name)
        value = rows["value"]
        if not value.type().is_string():
            whole = value.cast("int64")
            value = ibis.ifelse(whole.cast("float64") == value, whole.cast("string"), ibis.null("string"))
        return rows.select(cdp_profile=rows[PROFILE], cdp_value=value)

    # -- passing rows ------------------------------------------------------------------------------------------------

    def _table(self, node: Node) -> ir.Table:
        return self.rows_of(node.entity)

    def _passing(self, rows: ir.Table, node: Node, condition: EntityCondition) -> ir.Table:
        """The rows that pass the condition's filters and nested conditions. ``rows`` has the entity's columns and what is above them."""
        nested = condition.nested.conditions if condition.nested else ()
        answers: dict[int, str] = {}
        for index, child in enumerate(nested):
            if self._above(child, node.path):
                answers[index] = f"cdp_answer_{index}"
                rows = self._answered(rows, node, child, answers[index])
        verdicts = [column_of(rows, node.entity.primary_key, node).notnull(), self._filters(rows, node, condition)]
        if condition.nested:
            below = [
                rows[answers[index]] if index in answers else self._plain_nested(rows, node, child)
                for index, child in enumerate(nested)
            ]
            verdicts.append(joined_by(condition.nested.match, below))
        return rows.filter(ibis.and_(*verdicts)).drop(*answers.values())

    def _passing_children(self, node: Node, condition: EntityCondition) -> ir.Table:
        """All rows of a nested node that pass, where these depend on nothing above."""
        return self._once(node, condition, lambda: self._passing(self._table(node), node, condition))

    def _once(self, node: Node, condition: EntityCondition, make: Callable[[], ir.Table]) -> ir.Table:
        """The passing rows of a condition, of their columns those that are asked for; computed once where members and context both ask
        and it takes more than a look at each row."""
        if self.keep is None or condition.nested is None or not yields(condition):
            return make()
        key = node.path, condition.model_dump_json()
        if key not in self._kept:
            rows = make()
            self._kept[key] = self.keep(rows.select(*self._asked_for(rows, node, condition)))
        return self._kept[key]

    def _asked_for(self, rows: ir.Table, node: Node, condition: EntityCondition) -> list[str]:
        """Columns of a node's passing rows: what they are, what joins them, what is compared further down."""
        names = [node.entity.primary_key]
        if isinstance(node.join, ColumnJoin | JunctionJoin):
            names.append(node.join.right if isinstance(node.join, ColumnJoin) else node.join.child_column)
        for nested in condition.nested.conditions if condition.nested else ():
            names.append(_parent_column(child_node(self.graph, node.path, nested.relationship)))
            names += [above.name if above.path == node.path else self._name(above) for above in self._above(nested, node.path)]
        names += [name for name in rows.columns if name == "cdp_profile"]
        return list(dict.fromkeys(name.lower() for name in names))

    def _filters(self, rows: ir.Table, node: Node, condition: EntityCondition) -> ir.BooleanValue:
        where = condition.where
        verdicts = self._filter_verdicts(rows, node, condition)
        return joined_by("any" if where is not None and where.any is not None else "all", verdicts)

    def _filter_verdicts(self, rows: ir.Table, node: Node, condition: EntityCondition) -> list[ir.BooleanValue]:
        """Whether rows meet each of the condition's own filters."""
        return [
            compare(column_of(rows, wanted.column, node), wanted, self.as_of, self._other(rows, node, wanted))
            for wanted in filters_of(condition.where)
        ]

    def _plain_nested(self, rows: ir.Table, parent: Node, condition: EntityCondition) -> ir.BooleanValue:
        """Whether rows of a parent entity have so many children that pass, where these depend on nothing above."""
        node = child_node(self.graph, parent.path, condition.relationship)
        children = self._of_parents(node, self._passing_children(node, condition))
        value, key = comparable(self._parent_value(rows, parent, node), children["cdp_key"])
        keyed = children.select(cdp_key=key, cdp_id=column_of(children, node.entity.primary_key, node))
        return quantified(value, keyed, condition, negated=condition.without_entity is not None)

    def _answered(self, rows: ir.Table, parent: Node, condition: EntityCondition, answer: str) -> ir.Table:
        """``rows`` with a column that says of each whether it has so many children that pass, given what is above them."""
        node = child_node(self.graph, parent.path, condition.relationship)
        carried = self._carried(rows, parent, condition)
        children = self._of_parents(node, self._table(node))
        value, key = comparable(self._parent_value(rows, parent, node), children["cdp_key"])
        asked = rows.mutate(cdp_asked=value, **{f"{name}_asked": above for name, above in carried.items()})
        questions = asked.select(cdp_join="cdp_asked", **{name: f"{name}_asked" for name in carried}).distinct()
        joined = questions.join(children, questions["cdp_join"] == key).drop("cdp_key")
        passing = self._passing(joined, node, condition)
        identity = column_of(passing, node.entity.primary_key, node)
        counts = passing.group_by("cdp_join", *carried).aggregate(cdp_count=identity.nunique())
        found = counts.select("cdp_count", cdp_found=counts["cdp_join"], **{f"{name}_found": counts[name] for name in carried})
        same = [asked["cdp_asked"] == found["cdp_found"]]
        same += [asked[f"{name}_asked"].identical_to(found[f"{name}_found"]) for name in carried]
        answered = asked.left_join(found, same)
        counted = answered["cdp_count"].fill_null(0)
        verdict = enough(counted, condition, negated=condition.without_entity is not None)
        helpers = ["cdp_asked", "cdp_count", "cdp_found", *(f"{name}{end}" for name in carried for end in ("_asked", "_found"))]
        return answered.mutate(**{answer: verdict}).drop(*helpers)

    # -- what filters refer to ---------------------------------------------------------------------------------------

    def _above(self, condition: EntityCondition, parent: str | None) -> list[Above]:
        """What the condition, or one below it, compares with and its own rows do not hold."""
        path = f"{parent}:{condition.relationship}" if parent else condition.relationship
        found: set[Above] = set()
        for wanted in filters_of(condition.where):
            reference = wanted.reference
            if reference is not None:
                found.add(Above("", reference.trait) if reference.trait is not None else self._referred(path, wanted))
        for child in condition.nested.conditions if condition.nested else ():
            found |= set(self._above(child, path))
        return sorted(above for above in found if above.path != path)

    def _referred(self, path: str, wanted: ColumnFilter) -> Above:
        """The column that a filter on ``path`` refers to. Raises ConditionError for an entity that is not on the branch."""
        reference = wanted.reference
        assert reference is not None and reference.column is not None
        slugs = path.split(":")
        if reference.of is None:
            return Above(path, reference.column.lower())
        if reference.of not in slugs:
            raise ConditionError(f"column {wanted.column} ({path}): there is no {reference.of} on this branch")
        return Above(":".join(slugs[: slugs.index(reference.of) + 1]), reference.column.lower())

    def _name(self, above: Above) -> str:
        return self._names.setdefault(above, f"cdp_ref_{len(self._names)}")

    def _other(self, rows: ir.Table, node: Node, wanted: ColumnFilter) -> ir.Value | None:
        """The value that a filter compares with, if it is no constant."""
        if wanted.reference is None:
            return None
        if wanted.reference.trait is not None:
            return rows[self._name(Above("", wanted.reference.trait))]
        above = self._referred(node.path, wanted)
        return column_of(rows, above.name, node) if above.path == node.path else rows[self._name(above)]

    def _carried(self, rows: ir.Table, parent: Node, condition: EntityCondition) -> dict[str, ir.Value]:
        """Values of ``rows`` that a condition below them needs, by the names under which they go down."""
        return {
            self._name(above): column_of(rows, above.name, parent) if above.path == parent.path else rows[self._name(above)]
            for above in self._above(condition, parent.path)
        }

    # -- joins between entities --------------------------------------------------------------------------------------

    def _parent_value(self, rows: ir.Table, parent: Node, node: Node) -> ir.Value:
        """The value by which a parent row is joined to its children."""
        return column_of(rows, _parent_column(node), parent)

    def _of_parents(self, node: Node, rows: ir.Table) -> ir.Table:
        """``rows`` of a nested node with ``cdp_key``, the parent's join value; a row as often as it has parents' values."""
        join = _join_between_entities(node)
        if isinstance(join, ColumnJoin):
            return rows.mutate(cdp_key=column_of(rows, join.right, node))
        junction = self.warehouse.table(TableRef.parse(join.table_ref))
        left, right = (column_of(junction, name, node) for name in (join.junction_left, join.junction_right))
        value, key = comparable(right, column_of(rows, join.child_column, node))
        links = junction.select(cdp_key=left, cdp_link=value)
        return links.join(rows, links["cdp_link"] == key).drop("cdp_link")

    # -- context -----------------------------------------------------------------------------------------------------

    def context(self, condition: EntityCondition, satisfied: ir.Table, label: Label) -> Iterator[tuple[str, ir.Table]]:
        """Path and distinct (canonical_segment_id, path, entity_id, parent_entity_id), of each node that a ``with`` condition which the
        profiles ``satisfied`` meet speaks about."""
        node = child_node(self.graph, None, condition.relationship)
        rows = self.of_profiles(node, condition)
        rows = rows.semi_join(satisfied, rows["cdp_profile"] == satisfied[PROFILE])
        yield from self._context_rows(node, condition, rows, label)

    def _context_rows(
        self, node: Node, condition: EntityCondition, rows: ir.Table, label: Label
    ) -> Iterator[tuple[str, ir.Table]]:
        """Of rows with ``cdp_profile``, below an entity with ``cdp_parent``: themselves, then the children that nested conditions name."""
        # Keys become text, and the path is added, when the rows are distinct: fewer bytes are compared.
        own = {PROFILE: rows["cdp_profile"], "cdp_id": _distinguishing(column_of(rows, node.entity.primary_key, node))}
        found = rows.select(**own, **({"cdp_parent": rows["cdp_parent"]} if "cdp_parent" in rows.columns else {})).distinct()
        yield (
            node.path,
            found.select(
                PROFILE,
                path=label(node.path),
                entity_id=key_text(found["cdp_id"]),
                parent_entity_id=key_text(found["cdp_parent"]) if "cdp_parent" in found.columns else ibis.null("string"),
            ),
        )
        if condition.nested is None:
            return
        several = condition.nested.match == "any" and len(condition.nested.conditions) > 1
        for nested in condition.nested.conditions:
            if not yields(nested):
                continue
            kept = rows
            # Of "any" a condition must hold by itself, which having a row already says when one is enough.
            if several and nested.quantifier != ("at_least", 1):
                kept = self._keeping(rows, node, nested)
            child = child_node(self.graph, node.path, nested.relationship)
            yield from self._context_rows(child, nested, self._children(kept, node, child, nested), label)

    def _keeping(self, rows: ir.Table, parent: Node, condition: EntityCondition) -> ir.Table:
        if not self._above(condition, parent.path):
            return rows.filter(self._plain_nested(rows, parent, condition))
        answered = self._answered(rows, parent, condition, "cdp_kept")
        return answered.filter(answered["cdp_kept"]).drop("cdp_kept")

    def _children(self, rows: ir.Table, parent: Node, node: Node, condition: EntityCondition) -> ir.Table:
        """The passing children of ``rows``, with ``cdp_profile``, ``cdp_parent`` and what is above them."""
        if self._above(condition, parent.path):
            return self._passing(self._candidates(rows, parent, node, condition), node, condition)
        return self._candidates(rows, parent, node, condition, self._passing_children(node, condition))

    def _candidates(
        self, rows: ir.Table, parent: Node, node: Node, condition: EntityCondition, children: ir.Table | None = None
    ) -> ir.Table:
        """The children of ``rows`` (default: whether or not they pass), with ``cdp_profile``, ``cdp_parent`` and what is above them."""
        carried = self._carried(rows, parent, condition)
        found = self._of_parents(node, self._table(node) if children is None else children)
        value, key = comparable(self._parent_value(rows, parent, node), found["cdp_key"])
        identity = _distinguishing(column_of(rows, parent.entity.primary_key, parent))
        own = {"cdp_value": value, "cdp_parent": identity, **carried}
        if isinstance(value.op(), ops.Field):
            parents = rows.select("cdp_profile", **own)
        else:  # Ibis cannot join what a join gives by a value that is computed as it is given
            parents = rows.mutate(**own).select("cdp_profile", *own)
        return parents.join(found, parents["cdp_value"] == key).drop("cdp_value", "cdp_key")


def child_node(graph: DataGraph, parent: str | None, slug: str) -> Node:
    """The node of relationship ``slug`` below ``parent`` (None: the profile). Raises ConditionError."""
    try:
        return graph.child(parent, slug)
    except MissingNodeError as error:
        raise ConditionError(str(error)) from None


def _join_between_entities(node: Node) -> ColumnJoin | JunctionJoin:
    if isinstance(node.join, ColumnJoin | JunctionJoin):
        return node.join
    raise ConditionError(f"relationship {node.path} is below an entity and needs join_on or junction_table")


def _parent_column(node: Node) -> str:
    """The column of its parent's rows by which a nested node is joined."""
    join = _join_between_entities(node)
    return join.left if isinstance(join, ColumnJoin) else join.parent_column


def yields(condition: EntityCondition) -> bool:
    """Whether rows make the condition hold, rather than their absence."""
    return condition.with_entity is not None and not condition.zero


# -- quantities ----------------------------------------------------------------------------------------------------------


def quantified(
    key: ir.Value, keyed: ir.Table, condition: EntityCondition | EventCondition, *, negated: bool, unique: bool = False
) -> ir.BooleanValue:
    """Whether ``key`` has so many distinct ``cdp_id`` in ``keyed``: (cdp_key, cdp_id). A null key has none. Never NULL.

    ``unique``: no two rows of ``keyed`` have one ``cdp_id``, so that counting rows, which costs less, counts them.
    """
    keyed = keyed.filter(keyed["cdp_key"].notnull())
    if negated or condition.zero:
        return ~_among(key, keyed)
    if condition.quantifier == ("at_least", 1):
        return _among(key, keyed)
    counts = keyed.group_by("cdp_key").aggregate(cdp_count=keyed.count() if unique else keyed["cdp_id"].nunique())
    return counted(key, counts, condition, negated=negated)


def counted(key: ir.Value, counts: ir.Table, condition: EntityCondition | EventCondition, *, negated: bool) -> ir.BooleanValue:
    """:func:`quantified` of what is counted: (cdp_key, cdp_count), keys unique and not null, no count 0."""
    quantifier, number = condition.quantifier
    count = counts["cdp_count"]
    if negated or condition.zero:
        return ~_among(key, counts)
    if quantifier == "at_most":
        return ~_among(key, counts.filter(count > number))
    return _among(key, counts.filter(count == number if quantifier == "exactly" else count >= number))


def _among(key: ir.Value, found: ir.Table) -> ir.BooleanValue:
    return key.notnull() & key.isin(found["cdp_key"])


def enough(count: ir.IntegerValue, condition: EntityCondition, *, negated: bool) -> ir.BooleanValue:
    """Whether ``count`` instances, 0 included, are so many."""
    quantifier, number = condition.quantifier
    if negated:
        return count == 0
    if quantifier == "at_most":
        return count <= number
    return count == number if quantifier == "exactly" else count >= number


# -- columns and keys ----------------------------------------------------------------------------------------------------


def column_of(table: ir.Table, name: str, node: Node) -> ir.Value:
    """A column by name in any case. Raises ConditionError."""
    if name.lower() not in table.columns:
        raise ConditionError(
            f"entity {node.entity.slug} ({node.path}): no column {name}", f"columns: {', '.join(_own(table.columns))}"
        )
    return table[name.lower()]


def _distinguishing(key: ir.Value) -> ir.Value:
    """A key as what is compared in its place: a whole number as it is, anything else as its text."""
    return key if key.type().is_integer() else key_text(key)


def _own(columns: Sequence[str]) -> list[str]:
    return [name for name in columns if not name.startswith("cdp_")]
