"""What the embedded server is told in `postgresql.conf`, which is written anew at each start."""

from __future__ import annotations

from collections.abc import Mapping

#: Loopback TCP only; nothing a neighbour on the machine could reach by name.
_CONNECTION = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
}

#: For one machine shared with the nodes' own work: modest memory, durable commits.
DEFAULTS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "effective_cache_size": "1GB",
    "random_page_cost": "1.1",
    "max_locks_per_transaction": "256",  # a statement over all months locks every partition and its indexes
    "jit": "off",  # compiling costs more than our short statements
    "synchronous_commit": "on",
    "wal_level": "replica",  # pg_basebackup works
    "max_wal_senders": "3",
    "max_logical_replication_workers": "0",
    "max_wal_size": "2GB",
    "min_wal_size": "128MB",
    "wal_compression": "on",
    "checkpoint_completion_target": "0.9",
    "autovacuum": "on",
    "autovacuum_naptime": "30s",
    "autovacuum_vacuum_cost_delay": "1ms",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",  # the manager connects it to HOME/postgres.log
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}

#: For tests: a crash of the machine may lose everything, a killed process still loses nothing.
UNSAFE_FAST: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "autovacuum_naptime": "1min",
}


def conf_text(extra: Mapping[str, str]) -> str:
    """The whole of `postgresql.conf`; `ALTER SYSTEM` (postgresql.auto.conf) still wins over it."""
    lines = ["# Written by AgentFlow at each start: use ALTER SYSTEM SET ... to change a setting."]
    for name, value in {**DEFAULTS, **extra, **_CONNECTION}.items():
        escaped = value.replace("'", "''")
        lines.append(f"{name} = '{escaped}'")
    return "\n".join(lines) + "\n"
