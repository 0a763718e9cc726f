"""``alerts`` of space.yaml: whom to tell when a run fails, or when a sync does worse than it may."""

from __future__ import annotations

from pydantic import Field, model_validator

from cdp_assets.space.base import Model


class EmailAlerts(Model):
    """Messages by SMTP."""

    host: str
    port: int = Field(587, ge=1, le=65535)
    sender: str = Field(description="Address that the messages come from.")
    to: tuple[str, ...] = Field(min_length=1, description="Addresses that they go to.")
    username: str | None = None
    password: str | None = Field(None, description="From the environment: ${NAME}.")
    tls: bool = Field(True, description="STARTTLS before anything is said. Only a server on this machine goes without.")

    @model_validator(mode="after")
    def _guarded(self) -> EmailAlerts:
        if not self.tls and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("only a server on this machine goes without TLS; remove 'tls: false'")
        if self.password is not None and self.username is None:
            raise ValueError("'password' goes with 'username'")
        return self


class Thresholds(Model):
    """How badly a sync may do before somebody is told. ``null`` switches one off."""

    rejected_share: float | None = Field(0.05, ge=0, le=1, description="Rejected keys as a share of those considered.")
    waiting_share: float | None = Field(0.5, ge=0, le=1, description="Waiting keys as a share of those considered.")
    unknown: int | None = Field(1, ge=1, description="Keys without an answer.")
    refused_retracts: int | None = Field(
        1, ge=1, description="Retracts that the destination refuses: it keeps a record that is to be gone."
    )
    held: bool = Field(True, description="The sync is held.")


class Alerts(Model):
    """Where alerts go, and when. A failed run always makes one."""

    webhook: str | None = Field(
        None, description='URL that takes {"text": …}, as Slack\'s incoming webhooks do; from the environment.'
    )
    email: EmailAlerts | None = None
    thresholds: Thresholds = Thresholds()

    @property
    def any(self) -> bool:
        return self.webhook is not None or self.email is not None
