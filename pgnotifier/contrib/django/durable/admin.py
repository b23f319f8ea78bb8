"""Show dead letters, durable subscriptions and outboxes in Django's admin."""

from pgnotifier.contrib.django.durable.dead_letter_admin import DeadLetterAdmin
from pgnotifier.contrib.django.durable.outbox_admin import OutboxAdmin
from pgnotifier.contrib.django.durable.subscription_admin import DurableSubscriptionAdmin

__all__ = ["DeadLetterAdmin", "DurableSubscriptionAdmin", "OutboxAdmin"]
