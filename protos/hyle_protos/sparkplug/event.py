"""Where the events of a node are told: CloudEvents in JSON at QoS 1, beside Sparkplug, whose data is at QoS 0."""

from __future__ import annotations

__all__ = ["EVENT_TYPE", "event_topic", "events_filter"]

EVENT_TYPE = "hyle.agent."


def event_topic(group: str, node: str) -> str:
    """Return the MQTT topic of a node's events."""
    return f"hyle/{group}/{node}/events"


def events_filter(group: str | None = None) -> str:
    """Return the MQTT filter for the events of a group, or of all."""
    return f"hyle/{group or '+'}/+/events"
