"""Demo data with ground truth beside it: landing files, entity tables, and who is who.

Not a room: nothing of the pipeline imports it, and it imports nothing of a room. One module per data model (``owl_bank``,
``mural``); the rest is shared: people and their devices, what they do, the messages, the landing files, the truth.
"""

from __future__ import annotations

from cdp_assets.generate.generator import GenerateError, GenerateResult, generate, stored_end

__all__ = ["GenerateError", "GenerateResult", "generate", "stored_end"]
