"""Lines in bulk: a chunk of lines as messages and rejections, as :func:`parse_line` says of each."""

from __future__ import annotations

from cdp_assets.raw_events.columns import FirstValues
from cdp_assets.raw_events.landing import Chunk
from cdp_assets.raw_events.parse import Message, Rejection, parse_line
from cdp_assets.raw_events.parsed import Parsed, Rejected, batch_of


class Parser:
    """Parses chunks; use as a context manager."""

    def __init__(self, memory_limit: str | None = None) -> None:
        self._memory_limit = memory_limit

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def parse(self, chunk: Chunk, values: FirstValues) -> Parsed:
        """The lines of a chunk; ``values`` takes note of what the messages hold."""
        numbers: list[int] = []
        messages: list[Message] = []
        rejected: list[Rejected] = []
        for number, content in zip(chunk.numbers.tolist(), chunk.lines.to_pylist(), strict=True):
            parsed = parse_line(content)
            if isinstance(parsed, Rejection):
                rejected.append(Rejected(number, parsed, content))
                continue
            message, document = parsed
            values.observe(message.type, message.event_slug, message.context, document)
            numbers.append(number)
            messages.append(message)
        return Parsed(batch_of(numbers, messages), rejected)
