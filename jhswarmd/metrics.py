"""What the daemon counts, for Prometheus.

Names and labels are an interface: other people's dashboards and alerts read them.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

PASS_SECONDS = Histogram(
    "jhswarmd_pass_seconds",
    "Duration of one reconcile of a key, by kind of key",
    ["kind"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
UNKNOWN = Counter(
    "jhswarmd_unknown_total",
    "Reconciles that failed, by kind of key and of error",
    ["kind", "reason"],
    registry=REGISTRY,
)
EVENT_LAG_SECONDS = Histogram(
    "jhswarmd_event_lag_seconds",
    "From the engine's time of an event to its arrival here",
    registry=REGISTRY,
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30),
)
RECONNECTS = Counter(
    "jhswarmd_reconnects_total", "Lost subscriptions to the engine's events", registry=REGISTRY
)
ORPHANS_SEEN = Counter(
    "jhswarmd_orphans_seen_total",
    "Notebook services that were found to be orphans, each once",
    registry=REGISTRY,
)
ORPHANS_REMOVED = Counter(
    "jhswarmd_orphans_removed_total", "Notebook services removed", registry=REGISTRY
)
ORPHANS_HELD = Gauge(
    "jhswarmd_orphans_held", "Orphans that wait for an approval", registry=REGISTRY
)
REPORTED = Counter(
    "jhswarmd_servers_reported_total", "Servers the hub was asked to look at", registry=REGISTRY
)
TRACKED = Gauge(
    "jhswarmd_notebook_services",
    "Notebook services at the last full pass, by verdict",
    ["verdict"],
    registry=REGISTRY,
)
LAST_PASS = Gauge(
    "jhswarmd_last_full_pass_timestamp_seconds",
    "When the last full pass ended, in seconds since the epoch",
    registry=REGISTRY,
)
PREPULL_FAILED = Gauge(
    "jhswarmd_prepull_failed",
    "Images that a node could not pull, counted for each node",
    registry=REGISTRY,
)
SECRET_GENERATION = Gauge(
    "jhswarmd_secret_generation", "The live generation of each secret", ["unit"], registry=REGISTRY
)
SECRET_CREATED = Gauge(
    "jhswarmd_secret_created_timestamp_seconds",
    "When that generation was created, in seconds since the epoch",
    ["unit"],
    registry=REGISTRY,
)
CERTIFICATE_EXPIRES = Gauge(
    "jhswarmd_certificate_expires_timestamp_seconds",
    "When the proxy's certificate ends, in seconds since the epoch",
    registry=REGISTRY,
)
ROTATION_STEPS = Counter(
    "jhswarmd_rotation_steps_total",
    "Steps of rotations: lead, settle, reject, and put_right for what others had changed",
    ["step"],
    registry=REGISTRY,
)
LEADER = Gauge("jhswarmd_duty", "1: this instance acts, 0: it stands by", registry=REGISTRY)
ACCOUNTS = Gauge("jhswarmd_accounts", "Accounts in the list of users", registry=REGISTRY)
ACCOUNTS_REFUSED = Gauge(
    "jhswarmd_account_lines_refused", "Lines of the list that are refused", registry=REGISTRY
)
