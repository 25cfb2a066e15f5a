"""Webhooks: tokens of webhook triggers, and what was delivered lately."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from agentflow.db.models.base import Big, Bytes, Model, Now


class Webhook(Model):
    """The token of a webhook trigger. It belongs to the trigger's name, so it lives on when the trigger changes."""

    __tablename__ = "webhook"
    __table_args__ = (
        UniqueConstraint("workflow_id", "trigger_name"),
        CheckConstraint("num_nulls(ciphertext, key_id, wrapped_key) IN (0, 3)", name="sealed_whole"),
    )

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspace.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)  #: `<workflow>/<trigger>`.
    workflow_id: Mapped[Big] = mapped_column(ForeignKey("workflow.id", ondelete="CASCADE"))
    trigger_name: Mapped[str]
    token_hash: Mapped[Bytes] = mapped_column(unique=True)  #: SHA-256.
    prefix: Mapped[str]  #: Its first characters, for people.
    ciphertext: Mapped[Bytes | None]  #: The signing secret; null: deliveries are not signed.
    key_id: Mapped[str | None]
    wrapped_key: Mapped[Bytes | None]
    rotated_at: Mapped[Now]
    rotated_by: Mapped[str]
    used_at: Mapped[datetime | None]


class WebhookDelivery(Model):
    """A delivery that was taken: its id is refused for a day."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "name"], ["webhook.workspace_id", "webhook.name"], ondelete="CASCADE"),
        Index("ix_webhook_delivery_at", "workspace_id", "name", "at"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    delivery_id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[uuid.UUID]
    at: Mapped[Now]
