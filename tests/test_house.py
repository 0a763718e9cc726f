"""The rules of the house: data flows through the rooms in one direction, and logic knows no Dagster."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = [
    "pulled_sources",
    "raw_events",
    "unified_profiles",
    "computed_traits",
    "linked_audiences",
    "activation_payloads",
    "destination_syncs",
    "reports",
]
# The Dagster side of a room, and the modules that compose or drive Dagster.
DAGSTER_SIDE = {"assets", "checks"}
COMPOSITION = {
    "cdp_assets/definitions.py",
    "cdp_assets/__main__.py",
    "cdp_assets/cli.py",
    "cdp_assets/pipeline.py",
    "cdp_assets/demo.py",
    "cdp_assets/dagster_support.py",
    "cdp_assets/dagster_internals.py",
    "cdp_assets/dagster_checks.py",
    "resources/space.py",
    "resources/instance.py",
    "resources/run_launcher.py",
    "resources/warehouse/duckdb.py",
    "resources/warehouse/snowflake.py",
}


def modules() -> list[Path]:
    return sorted(
        path for folder in ("cdp_assets", "resources", "sensors", "schedules") for path in (ROOT / folder).rglob("*.py")
    )


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code. ``from a.b import c`` gives a.b and a.b.c."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def may_use_dagster(path: Path) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return relative in COMPOSITION or relative.startswith(("sensors/", "schedules/")) or path.stem in DAGSTER_SIDE


def room_of(path: Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "cdp_assets" and len(parts) > 2 and parts[1] in ROOMS else None


def test_no_room_imports_a_later_room() -> None:
    offences = []
    for path in modules():
        room = room_of(path)
        if room is None:
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "cdp_assets" and len(parts) > 1 and parts[1] in ROOMS and ROOMS.index(parts[1]) > ROOMS.index(room):
                offences.append(f"{path.relative_to(ROOT)} imports {name}")
    assert offences == []


def test_a_room_reads_earlier_rooms_only_through_their_tables() -> None:
    offences = []
    for path in modules():
        room = room_of(path)
        if room is None or path.stem in DAGSTER_SIDE:
            continue
        for name in imports(path):
            parts = name.split(".")
            other = parts[0] == "cdp_assets" and len(parts) > 2 and parts[1] in ROOMS and parts[1] != room
            if other and parts[2] != "tables":
                offences.append(f"{path.relative_to(ROOT)} imports {name}")
    assert offences == []


def test_configuration_and_graph_know_no_room() -> None:
    offences = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if path.relative_to(ROOT).parts[:2] in (("cdp_assets", "space"), ("cdp_assets", "data_graph"))
        for name in imports(path)
        if name.startswith(tuple(f"cdp_assets.{room}" for room in ROOMS))
    ]
    assert offences == []


def test_logic_modules_name_no_dagster() -> None:
    offences = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if not may_use_dagster(path)
        for name in imports(path)
        if name.split(".")[0].startswith("dagster")
    ]
    assert offences == []


def test_private_dagster_calls_sit_in_one_module() -> None:
    offences = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if path.relative_to(ROOT).as_posix() != "cdp_assets/dagster_internals.py"
        for name in imports(path)
        if name.startswith("dagster._") and not name.startswith("dagster._annotations")
    ]
    assert offences == []


def test_every_logic_module_imports_with_dagster_blocked() -> None:
    names = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in modules()
        if not may_use_dagster(path)
    ]
    program = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0].startswith('dagster'):\n"
        "            raise ImportError(f'blocked: {name}')\n"
        "sys.meta_path.insert(0, Block())\n"
        "import importlib\n"
        f"for name in {names!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        print(name, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == ""


def table_specs():
    from cdp_assets.unified_profiles.tables import profile_tables, profile_traits_updates, profile_views
    from resources.warehouse import TableSpec

    for room in ROOMS:
        module = importlib.import_module(f"cdp_assets.{room}.tables")
        for value in vars(module).values():
            if isinstance(value, TableSpec):
                yield f"{room}.{value.ref.name}", value
    for spec in (*profile_tables("profiles"), profile_traits_updates("profiles"), *profile_views("profiles")):
        yield f"profiles.{spec.ref.name}", spec


# Tables about files, builds, revisions and counts: rows that are nobody's.
NOBODYS = {
    "checkpoints",
    "unreadable",
    "landing_files",
    "line_counts",
    "event_columns",
    "trait_columns",
    "windows_read",
    "corrected_builds",
    "builds",
    "path_rows",
    "audience_funnels",
    "entity_snapshots",
    "payload_builds",
    "syncs",
    "activation_state",
    "revisions",
}


def test_every_table_says_whose_data_a_row_is() -> None:
    undecided = []
    for name, spec in table_specs():
        if spec.subject is None and spec.ref.name not in NOBODYS:
            undecided.append(name)
        if spec.subject is not None and spec.subject not in spec.columns:
            undecided.append(f"{name}: subject {spec.subject} is not a column")
        undecided += [f"{name}: personal {column} is not a column" for column in spec.personal if column not in spec.columns]
    assert undecided == []


@pytest.mark.parametrize("package", ["cdp_assets", "resources", "sensors", "schedules"])
def test_every_module_says_what_belongs_in_it(package: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert silent == []
    assert [m.name for m in pkgutil.iter_modules([str(ROOT / package)])]
