"""Every admin endpoint: one line each. What is not marked otherwise asks for the admin key."""

from typing import Final

from proxy.control.access import Reach
from proxy.control.admin import configuration, decisions, feedback, health, keys, leases, live
from proxy.control.admin.endpoint import Endpoint

ENDPOINTS: Final = (
    Endpoint("GET", "/health/detailed", health.detailed, Reach.HEALTH),
    Endpoint("GET", "/metrics", health.metrics, Reach.METRICS),
    Endpoint("POST", "/v1/feedback", feedback.post, Reach.DATA),
    Endpoint("POST", "/api/v1/config/reload", configuration.reload),
    Endpoint("GET", "/api/v1/config/export", configuration.export_yaml),
    Endpoint("POST", "/api/v1/config/validate", configuration.validate),
    Endpoint("GET", "/api/v1/routes", live.routes),
    Endpoint("GET", "/api/v1/arms", live.arms),
    Endpoint("GET", "/api/v1/metrics/summary", live.summary),
    Endpoint("GET", "/api/v1/decisions/{request_id}", decisions.show),
    Endpoint("POST", "/api/v1/keys", keys.create),
    Endpoint("GET", "/api/v1/keys", keys.listing),
    Endpoint("GET", "/api/v1/keys/{key_id}", keys.show),
    Endpoint("DELETE", "/api/v1/keys/{key_id}", keys.revoke),
    Endpoint("GET", "/api/v1/limits", leases.limits),
    Endpoint("POST", "/internal/v1/leases", leases.report, Reach.WORKER),
)
