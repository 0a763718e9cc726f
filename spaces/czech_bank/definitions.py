from pathlib import Path

from cdp_assets.definitions import build_definitions

defs = build_definitions(Path(__file__).parent)
