"""When workflows start: cron, interval and date triggers, and what a due one does. Pure; needs the `server` extra."""

from agentflow.triggers.base import Note, Trigger
from agentflow.triggers.config import CLOCKLESS, build, describe, read_jitter, schedule_text, trigger_identity, validate
from agentflow.triggers.cron import CronTrigger5
from agentflow.triggers.errors import InvalidTrigger
from agentflow.triggers.missed import missed_fires
from agentflow.triggers.plan import FirePlan, TriggerRow, first_fire_at, plan_fires
from agentflow.triggers.ranges import fires_between, read_range
from agentflow.triggers.upcoming import Fire, upcoming

__all__ = [
    "CLOCKLESS",
    "CronTrigger5",
    "Fire",
    "FirePlan",
    "InvalidTrigger",
    "Note",
    "Trigger",
    "TriggerRow",
    "build",
    "describe",
    "fires_between",
    "first_fire_at",
    "missed_fires",
    "plan_fires",
    "read_jitter",
    "read_range",
    "schedule_text",
    "trigger_identity",
    "upcoming",
    "validate",
]
