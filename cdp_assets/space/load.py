"""Reads a space folder: every file into its model, every reference checked, all problems at once.

A file's own rules are in :mod:`.models`, references between files in :mod:`.references`, the data graph's language in
:mod:`cdp_assets.data_graph.hcl`. No database is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import DataGraph, ExternalProfiles
from cdp_assets.space.activation_test_checks import check_tests
from cdp_assets.space.activation_tests import ActivationTests
from cdp_assets.space.base import Model
from cdp_assets.space.breaking import check_confirmed
from cdp_assets.space.confirmed import ConfirmedChange, missing_nodes
from cdp_assets.space.documents import Document, Place, read_text, read_yaml
from cdp_assets.space.located import did_you_mean, validate
from cdp_assets.space.models.activations import Activation, SqlModel
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.queries import QueryText, check_queries
from cdp_assets.space.query import compile_query
from cdp_assets.space.query.membership import misread_memberships, with_memberships
from cdp_assets.space.references import check_references
from cdp_assets.space.settings import check_settings
from cdp_assets.space.space import Problem, Space, SpaceError
from cdp_assets.space.tracking_plan import TrackingPlan, read_plan
from cdp_assets.space.traits import check_traits
from cdp_assets.space.transformations import Transformation

MappingValidator = Callable[[Any], list[str]]

SPACE_FILE = "space.yaml"
GRAPH_FILE = "data_graph.hcl"
TRACKING_PLAN_FILE = "tracking_plan.json"
FOLDERS = {
    "traits": ".yaml",
    "audiences": ".yaml",
    "models": ".sql",
    "activations": ".yaml",
    "transformations": ".yaml",
    "tests": ".yaml",
}

_KEY = re.compile(r"[a-z][a-z0-9_]{0,62}")
_FRONT_MATTER = re.compile(r"\A(\s*/\*---[ \t]*\n)(.*?)^---\*/[ \t]*(?:\n|\Z)(.*)\Z", re.DOTALL | re.MULTILINE)

K = TypeVar("K", bound=Model)


def load_space(
    directory: Path | str,
    mapping_validator: MappingValidator | None = None,
    *,
    judged: Sequence[ConfirmedChange] = (),
    draft: Draft | None = None,
) -> Space:
    """The space in ``directory``; its warnings are on it. Raises :class:`SpaceError` with every error of every file.

    ``mapping_validator`` returns what is wrong with an activation's mapping, one message each, starting with the JSON
    pointer of the place (``/Email/@if …``). Without it mappings are not looked into. ``judged``: removals from the data graph that
    the caller reports; what refers to them still loads, with a warning, as it does for those that space.yaml confirms. ``draft``: an
    audience as if it were in the folder, in place of one with its key.
    """
    return _Loader(Path(directory), mapping_validator, judged, draft).space()


@dataclass(frozen=True)
class Draft:
    """An audience that is not in the space, or not so: its text, and what to call it in messages. Key and name may be missing."""

    key: str
    file: str
    text: str


class Sources:
    """The documents behind the models, for lines. Keys of files that do not validate are known too, so that nobody misses them."""

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.keys: dict[str, list[str]] = {folder: [] for folder in FOLDERS}


class _Loader:
    def __init__(
        self,
        directory: Path,
        mapping_validator: MappingValidator | None,
        judged: Sequence[ConfirmedChange],
        draft: Draft | None,
    ) -> None:
        self.directory = directory
        self.draft = draft
        self.judged = judged
        self.mapping_validator = mapping_validator
        self.problems: list[Problem] = []
        self.sources = Sources()
        self.queries: list[QueryText] = []

    def space(self) -> Space:
        if not self.directory.is_dir():
            raise SpaceError((Problem(str(self.directory), 1, "there is no such folder", "name a folder that holds space.yaml"),))
        config = self._config()
        graph = self._graph()
        if config is not None and graph is not None:
            graph = self._without_missing(config, graph)
        plan = self._tracking_plan()
        self._strangers()
        written = self._folder("traits", Trait)
        audiences = self._queried(self._folder("audiences", Audience))
        models = self._models()
        activations = self._folder("activations", Activation)
        transformations = self._folder("transformations", Transformation)
        tests = self._folder("tests", ActivationTests)
        self._trait_queries(written)
        traits, problems_of_traits = check_traits(written, self.sources.documents, self.sources.keys, audiences, activations)
        self.problems += problems_of_traits
        for document in self.sources.documents.values():
            self.problems += check_settings(document)
        if config is not None:
            selected = self._check_queries(config, graph)
            self.problems += check_references(
                self.sources.documents,
                self.sources.keys,
                config=config,
                graph=graph,
                traits=traits,
                audiences=audiences,
                activations=activations,
                models=models,
                transformations=transformations,
                selected=selected,
            )
        self._mappings(activations)
        for key, cases in tests.items():
            document = self.sources.documents["tests", key]
            self.problems += check_tests(document, cases, activations, self.sources.keys["activations"], graph)
        problems = tuple(sorted(set(self.problems)))
        errors = tuple(problem for problem in problems if problem.level == "error")
        if errors or config is None or graph is None:
            raise SpaceError(errors)
        if config.profiles == "external":
            graph = replace(graph, external=ExternalProfiles(config.category_ids))
        return Space(
            self.directory, config, graph, traits, audiences, models, activations, transformations, problems, plan, tests
        )

    # -- single files ----------------------------------------------------------------------------------------------

    def _read(self, file: str) -> str | None:
        if self.draft is not None and file == self.draft.file:
            return self.draft.text
        text, problems = read_text(self.directory / file, file)
        self.problems += problems
        return text

    def _document(self, folder: str, key: str, file: str) -> Document | None:
        text = self._read(file)
        if text is None:
            return None
        document, problems = read_yaml(text, file)
        self.problems += problems
        if document is not None:
            self.sources.documents[folder, key] = document
        return document

    def _config(self) -> SpaceConfig | None:
        document = self._document("", "space", SPACE_FILE)
        if document is None:
            return None
        config, problems = validate(document, SpaceConfig)
        self.problems += problems
        return config

    def _graph(self) -> DataGraph | None:
        text = self._read(GRAPH_FILE)
        if text is None:
            return None
        graph, problems = parse_graph(text, GRAPH_FILE)
        self.problems += problems
        return graph

    def _without_missing(self, config: SpaceConfig, graph: DataGraph) -> DataGraph:
        confirmed = config.confirmed_breaking_changes
        self.problems += check_confirmed(self.sources.documents["", "space"], confirmed, graph)
        return replace(graph, missing=missing_nodes((*confirmed, *self.judged), graph))

    def _tracking_plan(self) -> TrackingPlan | None:
        if not (self.directory / TRACKING_PLAN_FILE).exists():
            return None
        text = self._read(TRACKING_PLAN_FILE)
        if text is None:
            return None
        plan, problems = read_plan(text, TRACKING_PLAN_FILE)
        self.problems += problems
        return plan

    def _strangers(self) -> None:
        """Folders and files whose names are nearly right would otherwise be passed over in silence."""
        for path in sorted(self.directory.iterdir()):
            if path.is_dir() and path.name not in FOLDERS:
                remedy = did_you_mean(path.name, FOLDERS, "")
                if remedy.startswith("did you mean"):
                    self.problems.append(Problem(path.name, 1, f"folder '{path.name}' is not read", remedy))
            elif path.suffix == ".yml" or (path.suffix == ".yaml" and path.name != SPACE_FILE):
                self.problems.append(Problem(path.name, 1, "this file is not read", f"move it to {SPACE_FILE} or into a folder"))

    # -- folders ---------------------------------------------------------------------------------------------------

    def _files(self, folder: str) -> list[tuple[str, str]]:
        """Key and name of each file of a folder, by key. Names that cannot be keys are problems."""
        found = []
        path = self.directory / folder
        for entry in sorted(path.iterdir()) if path.is_dir() else ():
            file, suffix = f"{folder}/{entry.name}", FOLDERS[folder]
            if entry.name.startswith(".") or entry.suffix == ".md":
                continue
            if entry.is_dir() or entry.suffix != suffix:
                self.problems.append(
                    Problem(file, 1, f"only {suffix} files are read here", f"name it KEY{suffix}, or move it away")
                )
            elif not _KEY.fullmatch(entry.stem):
                self.problems.append(
                    Problem(
                        file, 1, "the file's name cannot be a key", "use lower-case letters, digits and _, starting with a letter"
                    )
                )
            else:
                found.append((entry.stem, file))
        if self.draft is not None and folder == "audiences":
            found = sorted([*((key, file) for key, file in found if key != self.draft.key), (self.draft.key, self.draft.file)])
        self.sources.keys[folder] += [key for key, _ in found]
        return found

    def _folder(self, folder: str, model: type[K]) -> Mapping[str, K]:
        loaded: dict[str, K] = {}
        for key, file in self._files(folder):
            document = self._document(folder, key, file)
            if document is None:
                continue
            written = document.data.get("key")
            if isinstance(written, str) and written != key:
                self.problems.append(
                    Problem(file, document.line("key"), f"key '{written}' differs from the file's name", f"write key: {key}")
                )
            # A draft may go without a key and a name.
            given = {"key": key, "name": key} if self.draft is not None and file == self.draft.file else {}
            value, problems = validate(document, model, {name: text for name, text in given.items() if name not in document.data})
            self.problems += problems
            if value is not None:
                loaded[key] = value
        return loaded

    def _queried(self, audiences: Mapping[str, Audience]) -> Mapping[str, Audience]:
        """The audiences, those with a query in full: with the lines of its conditions, and with the audiences that it names."""
        known = set(self.sources.keys["audiences"]) - set(self.sources.keys["traits"])
        found: dict[str, Audience] = {}
        for key, audience in audiences.items():
            if audience.query is not None:
                document = self.sources.documents["audiences", key]
                first = document.text_line("query")
                for place, line in compile_query(audience.query).lines.items():
                    document.lines.setdefault(place, first + line - 1)
                for place, other in misread_memberships(audience, known):
                    message, remedy = f"'{other}' is an audience", f"write trait('{other}') = true, or NOT before it"
                    self.problems.append(Problem(document.file, document.line(*place), message, remedy))
            found[key] = with_memberships(audience, known)
        return found

    def _models(self) -> Mapping[str, SqlModel]:
        loaded: dict[str, SqlModel] = {}
        for key, file in self._files("models"):
            text = self._read(file)
            model = self._model(key, file, text) if text is not None else None
            if model is not None:
                loaded[key] = model
        return loaded

    def _model(self, key: str, file: str, text: str) -> SqlModel | None:
        match = _FRONT_MATTER.match(text)
        if match is None:
            self.problems.append(
                Problem(file, 1, "the file has no front matter", "start it with a line /*---, YAML lines, and a line ---*/")
            )
            return None
        document, problems = read_yaml(match[2], file, first_line=match[1].count("\n") + 1)
        self.problems += problems
        query = match[3].strip()
        query_line = text.count("\n", 0, match.start(3)) + 1 + _leading_lines(match[3])
        if not query:
            self.problems.append(Problem(file, query_line, "the file has no query", "write one SELECT below the front matter"))
        if document is None:
            return None
        self.sources.documents["models", key] = document
        for name in ("key", "query"):
            if name in document.data:
                remedy = "remove it; the file's name is the key" if name == "key" else "write it below the front matter"
                self.problems.append(Problem(file, document.line(name), f"'{name}' does not belong in the front matter", remedy))
        model, problems = validate(document, SqlModel, {"key": key, "query": query})
        self.problems += problems
        if model is not None and query:
            columns = ((model.primary_key, "primary_key", document.line("primary_key")),)
            self.queries.append(QueryText("models", key, file, query, query_line, columns))
        return model

    def _trait_queries(self, traits: Mapping[str, Trait]) -> None:
        for key, trait in traits.items():
            if trait.query is None or trait.identifier is None:
                continue
            document = self.sources.documents["traits", key]
            line = document.line("query")
            text = trait.query
            # The text of a block scalar starts on the line after its key.
            source = (self.directory / document.file).read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
            if re.search(r":\s*[|>][-+0-9]*\s*(#.*)?$", source[line - 1]):
                line += 1
            named = [(column, "among 'columns'", document.line("columns", column)) for column in trait.columns or ()]
            named = named or [(key, "the trait's key", line)]
            columns = ((trait.identifier, "identifier", document.line("identifier")), *named)
            self.queries.append(QueryText("traits", key, document.file, text, line, columns))

    # -- checks across files ---------------------------------------------------------------------------------------

    def _check_queries(self, config: SpaceConfig, graph: DataGraph | None) -> Mapping[str, frozenset[str]]:
        selected, problems = check_queries(self.queries, config, graph)
        self.problems += problems
        return {key: columns for (folder, key), columns in selected.items() if folder == "models"}

    def _mappings(self, activations: Mapping[str, Activation]) -> None:
        if self.mapping_validator is None:
            return
        for key, activation in activations.items():
            document = self.sources.documents["activations", key]
            for message in self.mapping_validator(activation.mapping):
                pointer, _, said = message.partition(" ")
                place = pointer_path(pointer)
                where = ".".join(str(part) for part in place) or "mapping"
                self.problems.append(
                    Problem(
                        document.file,
                        document.line("mapping", *place),
                        f"mapping {where}: {said.rstrip('.')}",
                        "correct the directive; the mapping language is described in the documentation",
                    )
                )


def pointer_path(pointer: str) -> Place:
    """``/a/0/b`` as ``("a", 0, "b")``."""
    return tuple(int(part) if part.isdigit() else part for part in pointer.split("/")[1:] if part)


def _leading_lines(text: str) -> int:
    return text[: len(text) - len(text.lstrip())].count("\n")
