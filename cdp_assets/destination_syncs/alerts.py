"""Whether a sync did worse than it may, and what to say of it. Counts and reasons only; nobody is named."""

from __future__ import annotations

from collections.abc import Mapping

from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.space.alerts import Thresholds


def sync_alert(
    result: SyncResult, thresholds: Thresholds, space: str, reasons: Mapping[str, int], refused_retracts: int = 0
) -> list[str]:
    """The lines of an alert; none when the sync did as well as it has to. ``reasons``: outcome and reason -> keys, the most frequent
    first. ``refused_retracts``: keys whose retract the destination has refused, now or before."""
    considered = max(result.considered, 1)
    found = []
    if thresholds.held and result.hold:
        found.append(f"held: {result.hold}: {result.hold_detail}")
    if thresholds.rejected_share is not None and result.rejected > thresholds.rejected_share * considered:
        found.append(f"{result.rejected:,} of {result.considered:,} keys rejected")
    if thresholds.waiting_share is not None and result.waiting > thresholds.waiting_share * considered:
        found.append(f"{result.waiting:,} of {result.considered:,} keys waiting")
    if thresholds.unknown is not None and result.unknown >= thresholds.unknown:
        found.append(f"{result.unknown:,} keys without an answer")
    again = []
    if thresholds.refused_retracts is not None and refused_retracts >= thresholds.refused_retracts:
        found.append(f"{refused_retracts:,} retracts refused: the destination keeps what is to be gone")
        again.append(f"once its cause is mended, try again with: cdp ledger replay --activation {result.activation}")
    if not found:
        return []
    found += [f"{count:,} × {reason}" for reason, count in list(reasons.items())[:5]]
    lift = [f"lift it with: cdp release {result.activation}"] if result.hold else []
    return [
        *found,
        *lift,
        *again,
        f"look with: cdp ledger outcomes --activation {result.activation} --space SPACE_FOLDER ({space})",
    ]
