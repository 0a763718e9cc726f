"""``space.yaml``: warehouse, sources, identity, consent, destinations, and what the space does by itself."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field, model_validator

from cdp_assets.space.alerts import Alerts
from cdp_assets.space.base import Model
from cdp_assets.space.confirmed import ConfirmedChange
from cdp_assets.space.enforcement import Enforcement, ProtocolsConfig
from cdp_assets.space.models.common import CategoryId, FqlCondition, PartitionKind, Schedule, Slug
from cdp_assets.space.pulled import PulledSource


class IdentifierRule(Model):
    """Limit and priority of one identifier type (Segment identity resolution settings)."""

    type: str = Field(description="Identifier type, e.g. user_id, email, anonymous_id.")
    limit: int = Field(5, ge=1, description="Most values that one profile may hold within the window.")
    window: Literal["ever", "annually", "monthly", "weekly", "daily"] = Field("ever", description="Window of the limit.")
    priority: int | None = Field(None, ge=1, description="1 is the highest; default: user_id 1, email 2, the rest alphabetical.")


class BlockedValue(Model):
    """A value that never becomes an identifier; exactly one of ``exact`` and ``regex``."""

    exact: str | None = None
    regex: str | None = Field(None, description="Python regular expression, matched against the whole value.")

    @model_validator(mode="after")
    def _one(self) -> BlockedValue:
        if (self.exact is None) == (self.regex is None):
            raise ValueError("give exactly one of 'exact' and 'regex'")
        return self


class IdentitySettings(Model):
    """Identity resolution. Defaults are Segment's."""

    identifiers: tuple[IdentifierRule, ...] = Field((), description="Rules that differ from the defaults.")
    custom: dict[str, str] = Field(
        default_factory=dict,
        description="Custom identifier type -> the trait or property key that carries it, e.g. {owl_card: cardNumber}.",
    )
    blocked: tuple[BlockedValue, ...] = Field(
        (BlockedValue(regex="[0-]*"), BlockedValue(exact="-1"), BlockedValue(exact="null"), BlockedValue(exact="anonymous")),
        description="Values that identify nobody.",
    )
    shared_devices: Literal["merge", "separate"] = Field(
        "merge",
        description="merge: a device is as good an identifier as any (Segment's rule). "
        "separate: a device that a known person owns never joins another person to them.",
    )
    device_types: tuple[str, ...] = Field(
        (
            "anonymous_id",
            "android.id",
            "android.idfa",
            "android.push_token",
            "ios.id",
            "ios.idfa",
            "ios.push_token",
            "ga_client_id",
        ),
        description="Identifier types that name a device; all others name a person.",
    )


class ConsentCategory(Model):
    """A consent category, as it appears in ``context.consent.categoryPreferences``."""

    id: CategoryId
    name: str = Field(max_length=20)


class DestinationConfig(Model):
    """An account of a destination. It is a sandbox unless CDP_LIVE=1 and ``account`` is named."""

    type: str = Field(description="Registered destination type: salesforce, gainsight, marketo, …")
    account: str | None = Field(None, description="Organisation id, munchkin id or host that may be written to live.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Connector settings (login host, API version, …).")
    credentials: dict[str, str] = Field(default_factory=dict, description="Secrets, from the environment: ${NAME}.")


class WarehouseConfig(Model):
    """Where the tables live."""

    type: Literal["duckdb", "snowflake"] = "duckdb"
    schemas: tuple[str, ...] = Field((), description="Schemas of the company's own tables, readable by models and SQL traits.")
    files: dict[str, str] = Field(
        default_factory=dict,
        description="DuckDB: schema -> folder of Parquet files, read in place as views. Relative to the space folder.",
    )
    memory_limit: str | None = Field(None, description="DuckDB memory limit, e.g. 4GB.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Snowflake: account, user, password, database, warehouse, role, … (${NAME} for secrets).",
    )


class SourceConfig(Model):
    """Where messages come from: a website, an app, a server."""

    name: str = Field("", description="Display name; default: the key.")
    landing: str | None = Field(
        None,
        description="Folder below the landing folder whose files are this source's; default: the key. Also found below segment-logs/.",
    )
    enforcement: Enforcement = Field(Enforcement(), description="What the tracking plan does to this source's messages.")
    judged_upstream: bool | None = Field(
        None,
        description="true: another tracking plan judges this source's messages first; those in which it found something "
        "(context.protocols) are not blocked again. Leave it out where clients can write that field. Default: the space's.",
    )


class EventStreamFilter(Model):
    """Messages that are dropped before anything is made of them; they stay in quarantine."""

    name: str = Field(min_length=1, description="Says in the quarantine which filter it was.")
    drop_if: FqlCondition = Field(description="FQL: which messages, e.g. type = 'page' and context.page.path = '/health'.")


class EntityHistory(Model):
    """How the table of an entity is read as of an instant that has passed. One of the two kinds."""

    valid_from: str | None = Field(None, description="Column, date or timestamp: a row holds from then on.")
    valid_to: str | None = Field(
        None, description="Column, date or timestamp: a row holds no more from then on; null: it still does."
    )
    snapshots: bool = Field(False, description="Write down, at each build, the rows that changed since the last one.")

    @model_validator(mode="after")
    def _one(self) -> EntityHistory:
        declared = self.valid_from is not None or self.valid_to is not None
        if declared == self.snapshots:
            raise ValueError("give 'valid_from' and 'valid_to', or 'snapshots: true'")
        if declared and (self.valid_from is None or self.valid_to is None):
            raise ValueError("'valid_from' and 'valid_to' go together")
        return self


class SpaceConfig(Model):
    """``space.yaml``: one customer data platform instance with its own identity universe."""

    name: Slug
    description: str = ""
    owner: str = Field("team:data-platform", description="Default owner of every asset: an e-mail address or team:NAME.")
    start_date: dt.date = Field(description="Start of the first partition, UTC.")
    partitions: PartitionKind = PartitionKind.daily
    landing: str | None = Field(
        None, description="Folder of the landing files; default: landing/ in the space's home. Relative to the space folder."
    )
    sources: dict[Slug, SourceConfig] = Field(
        default_factory=dict,
        description="Sources by key. Files in no source's folder are of none: their messages' source is null.",
    )
    protocols: ProtocolsConfig = Field(ProtocolsConfig(), description="The tracking plan's settings for the whole space.")
    event_filters: tuple[EventStreamFilter, ...] = Field((), description="Messages that any of them meets are dropped.")
    warehouse: WarehouseConfig = WarehouseConfig()
    identity: IdentitySettings = IdentitySettings()
    profiles: Literal["built", "external"] = Field(
        "built",
        description="external: profile_folder of the data graph holds the company's own Profiles Sync tables; no identities are resolved.",
    )
    consent_categories: tuple[ConsentCategory, ...] = ()
    destinations: dict[Slug, DestinationConfig] = Field(default_factory=dict)
    pulled_sources: dict[Slug, PulledSource] = Field(
        default_factory=dict, description="Systems that are asked for their records; each becomes the table pulled_sources.KEY."
    )
    alerts: Alerts = Field(Alerts(), description="Whom to tell when a run fails or a sync does badly.")
    schedule: Schedule = Field(Schedule(every="1h"), description="Default schedule of audiences.")
    automation: Literal["on", "off"] = Field("on", description="Whether the space's sensors and schedules start switched on.")
    confirmed_breaking_changes: tuple[ConfirmedChange, ...] = Field(
        (), description="Breaking changes of the data graph that may go in; cdp validate --against says how to name each."
    )
    entities: dict[str, EntityHistory] = Field(
        default_factory=dict,
        description="History of entities of the data graph, by slug; the tables of others are read as they are now.",
    )
    retention_days: int | None = Field(None, ge=1, description="Days that closed partitions keep members and context.")

    def source_of(self, file: str) -> str | None:
        """Key of the source whose folder holds a landing file, by its path below the landing folder; None for no source's."""
        path = file.removeprefix("segment-logs/")
        folders = {(source.landing or key).strip("/") + "/": key for key, source in self.sources.items()}
        matching = [folder for folder in folders if path.startswith(folder)]
        return folders[max(matching, key=len)] if matching else None

    def enforcement_of(self, source: str | None) -> Enforcement:
        """What the tracking plan does to messages of a source; of none, by the space's own options."""
        default = self.protocols.enforcement
        return self.sources[source].enforcement.over(default) if source in self.sources else default

    def judged_upstream(self, source: str | None) -> bool:
        """Whether ``context.protocols`` of a source's messages is believed."""
        own = self.sources[source].judged_upstream if source in self.sources else None
        return self.protocols.judged_upstream if own is None else own

    @property
    def category_ids(self) -> tuple[str, ...]:
        return tuple(category.id for category in self.consent_categories)
