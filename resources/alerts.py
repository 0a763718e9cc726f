"""Tells people: a Slack-compatible webhook, and e-mail by SMTP. An alert that cannot be sent never fails what it is about."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage

import httpx
import tenacity

from cdp_assets.space.alerts import Alerts, EmailAlerts
from resources.warehouse import WarehouseError
from resources.warehouse.open import expand

TIMEOUT_SECONDS = 10.0
TRIES = 3
FIRST_PAUSE_SECONDS = 0.2


class AlertError(Exception):
    """A channel that did not take an alert. The message holds no URL and no credentials."""


def send_alert(alerts: Alerts, subject: str, lines: Sequence[str]) -> list[str]:
    """Send to every channel. What went wrong, one text for each channel that did not take it."""
    failed = []
    for name, configured in (("webhook", alerts.webhook), ("email", alerts.email)):
        if configured is None:
            continue
        try:
            if isinstance(configured, EmailAlerts):
                _email(configured, subject, lines)
            else:
                _webhook(configured, subject, lines)
        except AlertError as error:
            failed.append(f"{name}: {error}")
    return failed


def _webhook(url: str, subject: str, lines: Sequence[str]) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs, and this one is a secret
    text = "\n".join([f"*{subject}*", *lines])
    failure = ""
    try:
        # httpx's own errors hold the URL.
        for attempt in _tries(httpx.TransportError):
            with attempt:
                answer = httpx.post(expand(url), json={"text": text}, timeout=TIMEOUT_SECONDS)
                if answer.status_code == 429 or answer.status_code >= 500:
                    raise httpx.TransportError(str(answer.status_code))
        failure = "" if answer.is_success else f"answered {answer.status_code}"
    except httpx.TransportError as error:
        failure = f"did not take it ({type(error).__name__} {error if str(error).isdigit() else ''})".replace(" )", ")")
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        failure = "the URL is none"
    except WarehouseError as error:
        failure = str(error)
    if failure:
        raise AlertError(failure)


def _email(email: EmailAlerts, subject: str, lines: Sequence[str]) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, email.sender, ", ".join(email.to)
    message.set_content("\n".join([*lines, ""]))
    failure = ""
    try:
        for attempt in _tries(OSError):
            with attempt, smtplib.SMTP(email.host, email.port, timeout=TIMEOUT_SECONDS) as server:
                if email.tls:
                    server.starttls(context=ssl.create_default_context())
                if email.username is not None:
                    server.login(expand(email.username), expand(email.password or ""))
                server.send_message(message)
    except smtplib.SMTPResponseException as error:
        failure = f"the server answered {error.smtp_code}"
    except (OSError, smtplib.SMTPException) as error:
        failure = f"the server did not take it ({type(error).__name__})"
    except WarehouseError as error:
        failure = str(error)
    if failure:
        raise AlertError(failure)


def _tries(*errors: type[Exception]) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            # SMTP's errors are OSErrors, too; what the server refuses for good is not asked again.
            lambda e: isinstance(e, errors) and not (isinstance(e, smtplib.SMTPResponseException) and e.smtp_code >= 500)
        ),
        wait=tenacity.wait_exponential_jitter(initial=FIRST_PAUSE_SECONDS, max=2, jitter=FIRST_PAUSE_SECONDS * 5),
        stop=tenacity.stop_after_attempt(TRIES),
        reraise=True,
    )
