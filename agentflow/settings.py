"""Settings: `AGENTFLOW_*` in the environment, then `agentflow.toml`, then these defaults (DESIGN 8.3)."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from agentflow.errors import SettingsError


def default_home() -> Path:
    """`~/.agentflow`; as root `/var/lib/agentflow`, which an unprivileged Postgres can reach (ENGINE 14)."""
    return Path("/var/lib/agentflow") if os.geteuid() == 0 else Path.home() / ".agentflow"


def default_parallelism() -> int:
    """Twice the cores this process may use, at least 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(4, 2 * cores)


class Settings(BaseSettings):
    """Every setting; `agentflow config` prints them with their origin."""

    model_config = SettingsConfigDict(env_prefix="AGENTFLOW_", extra="forbid", frozen=True)

    database_url: str = Field("", description="Postgres 16 to 18 (postgresql://…); empty: the embedded server")
    listen_database_url: str = Field("", description="Direct connection for LISTEN when database_url is a pooler")
    home: Path = Field(default_factory=default_home, description="Embedded database, bundles, keys, logs")
    embedded_postgres_major: int = Field(18, description="Major version of the embedded server: 16 or 18")
    secret_key: str = Field(
        "", repr=False, description="Encrypts secrets; KEY,OLDKEY while keys are rotated; empty: HOME/secret_key"
    )
    object_store_url: str = Field(
        "", description="Store of large outputs: file:///folder, s3://bucket/prefix (with AWS_*); empty: HOME/objects"
    )
    dags_folder: Path | None = Field(None, description="Workflow files; default ./dags if it exists, else HOME/dags")
    executor: str = Field("local", description="Executor of nodes and workflows that name none")
    executors: str = Field("local,subprocess", description="Enabled executors, comma separated")
    queues: str = Field("default", description="Queues this scheduler serves, comma separated")
    parallelism: int = Field(
        default_factory=default_parallelism, ge=1, le=1024, description="Attempts at once per scheduler"
    )
    shutdown_grace: float = Field(
        20.0,
        ge=0,
        le=86400,
        description="Seconds that running attempts may go on when the scheduler is asked to stop; standalone: 3",
    )
    local_io_concurrency: int = Field(
        1024,
        ge=0,
        le=16384,
        description="http nodes and other waiting ones at once in `local`, beside parallelism; 0: none",
    )
    workspace: str = Field("default", description="Workspace of the command line")
    api_url: str = Field(
        "", description="Webserver that the command line works through (https://host); empty: on the database itself"
    )
    api_key: str = Field("", repr=False, description="API key for the command line, with api_url")
    output_max: int = Field(16 * 2**20, ge=1024, description="Bytes of a node's JSON output")
    log_max: int = Field(16 * 2**20, ge=1024, description="Bytes of log text kept per attempt")
    retention_days: int = Field(90, ge=0, description="Days of history that are kept, by whole months; 0: all")
    archive: bool = Field(
        default=False, description="Whether rows of months that are dropped go to the object store first"
    )
    allow_private_http: bool = Field(False, description="Whether http nodes may reach private addresses")
    subprocess_user: str = Field("", description="User whom attempts of `subprocess` run as; needs root")
    subprocess_nice: int = Field(0, ge=0, le=19, description="Niceness of attempts of `subprocess`")
    subprocess_environment: str = Field(
        "", description="Variables that `subprocess` passes on besides its allow-list, comma separated"
    )
    subprocess_memory: int = Field(
        0, ge=0, description="Bytes an attempt of `subprocess` may use if its node names no memory; 0: no limit"
    )
    subprocess_cpu_seconds: int = Field(
        0, ge=0, description="Processor time of an attempt of `subprocess`, all its processes together; 0: no limit"
    )
    subprocess_max_processes: int = Field(
        1024, ge=0, description="Processes and threads of an attempt of `subprocess` at once; 0: no limit"
    )
    subprocess_max_open_files: int = Field(
        0, ge=0, description="Open files of each process of `subprocess`; 0: as the scheduler"
    )
    subprocess_max_file_size: int = Field(
        0, ge=0, description="Bytes of each file that an attempt of `subprocess` writes; 0: no limit"
    )
    health_host: str = Field("127.0.0.1", description="Address of the scheduler's health endpoint")
    health_port: int = Field(0, ge=0, le=65535, description="Port of the scheduler's health endpoint; 0: none")
    http_body_max: int = Field(16 * 2**20, ge=1024, description="Bytes of a request's body that the web server reads")
    web_host: str = Field("127.0.0.1", description="Address the webserver listens on; 0.0.0.0: all")
    web_port: int = Field(8080, ge=0, le=65535, description="Port of the webserver")
    web_workers: int = Field(1, ge=1, le=64, description="Processes of the webserver")
    base_url: str = Field("", description="Address of AgentFlow in the browser, if a proxy changes it: https://…")
    cors_origins: str = Field(
        "", description="Other origins whose pages may call the API and the live feed, comma separated; empty: none"
    )
    trusted_proxies: int = Field(
        0, ge=0, le=8, description="Proxies in front of the webserver whose X-Forwarded-* headers are believed"
    )
    redis_url: str = Field(
        "", repr=False, description="Redis, shared by several web processes; optional: redis://, rediss:// or unix://"
    )
    oidc_issuer: str = Field("", description="OpenID Connect provider for logging in: https://…; empty: none")
    oidc_client_id: str = Field("", description="Our id at the provider")
    oidc_client_secret: str = Field("", repr=False, description="Our secret at the provider")
    oidc_default_role: Literal["", "viewer", "operator", "editor", "admin"] = Field(
        "", description="Role in `default` of people whom only the provider knows; empty: they are refused"
    )
    rate_limit_read: str = Field("1200/minute", description="Requests that read, of a user or key; empty: no limit")
    rate_limit_run: str = Field("300/minute", description="Requests that start, cancel, clear or mark runs")
    rate_limit_write: str = Field("300/minute", description="Requests that change anything else")
    rate_limit_login: str = Field("20/minute", description="Logins and refreshes, of an address")
    rate_limit_hook: str = Field("120/minute", description="Deliveries to a webhook, by token")
    rate_limit_refused: str = Field("60/minute", description="Requests with wrong credentials, of an address")
    log_format: Literal["console", "json"] = Field("console", description="Shape of AgentFlow's own log")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of AgentFlow's own log")
    sync_interval: float = Field(5.0, ge=0.2, description="Seconds between looks at the DAG folder")

    @field_validator(
        "rate_limit_read",
        "rate_limit_run",
        "rate_limit_write",
        "rate_limit_login",
        "rate_limit_hook",
        "rate_limit_refused",
    )
    @classmethod
    def _a_rate(cls, value: str) -> str:
        if value and not re.fullmatch(r"[1-9][0-9]{0,8}/(second|minute|hour)", value):
            raise ValueError(f"{value!r} must look like 300/minute (second, minute or hour), or be empty")
        return value

    @field_validator("base_url", "cors_origins")
    @classmethod
    def _origins_only(cls, value: str) -> str:
        for origin in filter(None, (part.strip() for part in value.split(","))):
            if not re.fullmatch(r"https?://[^/?#@\s]+/?", origin):
                raise ValueError(f"{origin!r} must look like https://host or http://host:port, without a path")
        return value

    @field_validator("api_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", value):
            raise ValueError("must look like https://host or http://host:port; the key goes to api_key")
        return value.rstrip("/")

    @field_validator("database_url", "listen_database_url")
    @classmethod
    def _postgres_only(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            raise ValueError("must begin with postgresql:// (AgentFlow runs on Postgres 16 to 18 only)")
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis_only(cls, url: str) -> str:
        if url and not re.match(r"(rediss?|unix)://", url):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @field_validator("oidc_issuer")
    @classmethod
    def _encrypted(cls, value: str) -> str:
        if value and not re.match(r"https://|http://(localhost|127\.0\.0\.1)[:/]", value):
            raise ValueError(f"{value!r} must begin with https://")
        return value

    @field_validator("object_store_url")
    @classmethod
    def _known_store(cls, url: str) -> str:
        if url and not url.startswith(("file:///", "s3://")):
            raise ValueError("must be file:///folder or s3://bucket/prefix")
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not a source of ours
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, then `agentflow.toml` of the working directory."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, "agentflow.toml"))

    @property
    def dags_path(self) -> Path:
        """The DAG folder in force."""
        if self.dags_folder is not None:
            return self.dags_folder
        here = Path("dags")
        return here.resolve() if here.is_dir() else self.home / "dags"

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Origins of pages that may call us, besides the pages that we serve ourselves."""
        return frozenset(_split(self.cors_origins)) | frozenset(_split(self.base_url))

    @property
    def enabled_executors(self) -> list[str]:
        """Names of the executors to start, the default one included."""
        names = _split(self.executors)
        return names if self.executor in names else [self.executor, *names]

    def executor_options(self, name: str) -> dict[str, Any]:
        """What `AGENTFLOW_<NAME>_*` says, in small letters without that prefix; values that we do not know as text."""
        prefix = f"{name.replace('-', '_').lower()}_"
        variable = f"AGENTFLOW_{prefix}".upper()
        unknown = {
            key.removeprefix(variable).lower(): value for key, value in os.environ.items() if key.startswith(variable)
        }
        known = {field: getattr(self, field) for field in type(self).model_fields if field.startswith(prefix)}
        return unknown | {field.removeprefix(prefix): value for field, value in known.items()}

    @property
    def served_queues(self) -> list[str]:
        """Queues whose nodes this scheduler claims."""
        return _split(self.queues)

    @property
    def object_store(self) -> str:
        """Address of the object store in force."""
        return self.object_store_url or (self.home.absolute() / "objects").as_uri()

    @property
    def bundles_dir(self) -> Path:
        """Extracted code bundles, by hash."""
        return self.home / "bundles"

    @property
    def identity(self) -> str:
        """Who the command line acts as in the audit log."""
        import getpass

        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a uid without a passwd entry, as in many containers
            user = str(os.getuid())
        return f"cli:{user}"

    @property
    def hostname(self) -> str:
        """Name of this machine, for the scheduler's row."""
        return socket.gethostname()


def _split(text: str) -> list[str]:
    return [part.strip().rstrip("/") for part in text.split(",") if part.strip()]


def load_settings(**overrides: object) -> Settings:
    """Read all sources.

    Raises:
        SettingsError: A value is wrong, or the TOML file is not valid; the message names the setting.
    """
    import tomllib

    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"agentflow.toml: {error}") from error
    except ValidationError as error:
        lines = [
            f"AGENTFLOW_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}" for item in error.errors()
        ]
        raise SettingsError("\n".join(lines), hint="`agentflow config` lists every setting") from error
