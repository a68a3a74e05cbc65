"""Read the settings of slidewatch, one object for flows, deployments and the command line.

A value comes from there, the environment, a TOML file, or the defaults below, in this order.
"""

import os
import re
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tasks import limits
from tasks.images.access.addresses import holds_secret, redact

PREFIX = "SLIDEWATCH_"
KINDS = ("local", "cuda", "scheduler")  # of clusters, besides classes
MOST_SETTINGS = 2**20  # bytes of the file
# Protocols of fsspec that only read, or that stand before the address of another file.
READ_ONLY = frozenset(
    ("http", "https", "data", "reference", "zip", "tar", "libarchive", "github", "git", "gist",
     "cached", "blockcache", "filecache", "simplecache")
)  # fmt: skip

Percent = Annotated[float, Field(gt=0, lt=100)]
Given = TypeVar("Given", bound=str | list[str] | None)


class UsageError(Exception):
    """A command or setting that cannot be understood."""


def safe_address(given: Given) -> Given:
    """Return addresses; ValueError where one is empty, or holds a password."""
    addresses: list[str | None] = [*given] if isinstance(given, list) else [given]
    for each in addresses:
        if each is not None and not each.strip():
            raise ValueError("the address is empty: is a variable not set?")
        if each and holds_secret(each):
            raise ValueError(
                f"{redact(each)} must not contain a password or token, because reports and logs "
                "show addresses; use the environment or a profile, such as AWS_PROFILE"
            )
    return given


def settings_file() -> Path | None:
    """Find the TOML file of settings; UsageError if a named one is missing, or it is too big."""
    named = os.environ.get("SLIDEWATCH_CONFIG")
    file = Path(named or "slidewatch.toml")
    if file.is_file():
        if (size := file.stat().st_size) > MOST_SETTINGS:
            raise UsageError(f"{file.absolute()} has {size:,} bytes, too many for settings")
        return file.absolute()
    if named:
        raise UsageError(f"SLIDEWATCH_CONFIG names {named}, which is not a file")
    return None


class Settings(BaseSettings):
    """The settings of a run: its store, its cluster, its levels, its logs and its metrics."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    store: str = Field("store", description="root URL of the store: a folder, s3://bucket/...")
    cluster: str = Field(
        "local",
        description="where jobs run: local (processes), cuda (one per local GPU), scheduler (a "
        "running Dask scheduler), or a class of cluster such as dask_jobqueue.SLURMCluster, which "
        "Dask's configuration describes",
    )
    scheduler: str | None = Field(
        None, description="address of the running Dask scheduler, tls://host:port"
    )
    unencrypted: bool = Field(False, description="allow Dask without TLS beyond this machine")
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="worker processes to start, by default one per processor (cuda: per GPU)",
    )
    first_worker: float = Field(
        600, gt=0, description="seconds to wait for a worker of a class of cluster"
    )
    shard_rows: int = Field(
        512, ge=1, le=1_000_000, description="images a shard, twice as many in a large night"
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="level at which a new detector calls an image abnormal"
    )
    uncertain_below: float = Field(
        0.8, ge=0, le=1, description="a diagnosis less probable than this is uncertain"
    )
    field_limits: limits.FieldLimits = Field(
        limits.FieldLimits(),
        description="what a field of view must keep, or its slide is for review",
    )
    detectable_percent: Percent = Field(
        limits.DETECTABLE_PERCENT,
        description="parasitaemia that the cells of a negative slide must be enough to show",
    )
    counting_cells: int = Field(
        5000,
        ge=1,
        description="red cells of a slide for which a new detector's counting threshold is best",
    )
    negative_percent: Percent = Field(
        limits.NEGATIVE_PERCENT,
        description="parasitaemia above which a negative slide must exclude everything (95%)",
    )
    red_cells_per_microlitre: float = Field(
        limits.RED_CELLS_PER_MICROLITRE,
        gt=0,
        description="red-cell count that parasites per microlitre are computed with",
    )
    finders: list[str] = Field([], description="allowed finders of cells, each module:function")
    networks: list[str] = Field(
        [], description="allowed networks of your own, each module:function, for models"
    )
    logs: Literal["text", "json"] = Field(
        "text", description="log format on standard error: text or JSON lines"
    )
    metrics: str | None = Field(
        None, description="file for metrics of nights, /folder/name.prom, for node exporter"
    )
    pages_url: str | None = Field(
        None, description="where a web server shows reports/html of the store: Prefect links it"
    )
    quiet: bool = Field(False, description="say nothing but the outcome, and errors")
    debug: bool = Field(False, description="show tracebacks and the flows' log")

    @field_validator("cluster")
    @classmethod
    def _known(cls, cluster: str) -> str:
        if cluster not in KINDS and "." not in cluster:
            raise ValueError(
                f"{cluster!r} is not one of {', '.join(KINDS)}, or a class such as "
                "dask_jobqueue.SLURMCluster"
            )
        return cluster

    @field_validator("store")
    @classmethod
    def _writable_kind(cls, address: str) -> str:
        kind, separator, _ = address.replace("::", "://").partition("://")
        if separator and kind in READ_ONLY:
            raise ValueError(
                f"{redact(address)} cannot be a store, because {kind} is only read: give a folder "
                "or s3://bucket/..."
            )
        return address

    @field_validator("store", "scheduler")
    @classmethod
    def _safe(cls, address: str | None) -> str | None:
        return safe_address(address)

    @field_validator("pages_url")
    @classmethod
    def _opens(cls, url: str | None) -> str | None:
        if url and not re.fullmatch(r"https?://[^\s<>]+", url):
            raise ValueError(f"{url!r} opens in no browser: give http:// or https://")
        return safe_address(url)

    @field_validator("metrics")
    @classmethod
    def _for_node_exporter(cls, metrics: str | None) -> str | None:
        if metrics and (not metrics.endswith(".prom") or "://" in metrics):
            raise ValueError(f"{metrics!r} is no file that node exporter reads: end it in .prom")
        return metrics

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the TOML file behind the environment."""
        return init_settings, env_settings, _file_source(settings_cls)


def _file_source(settings: type[BaseSettings]) -> TomlConfigSettingsSource:
    file = settings_file()
    try:
        return TomlConfigSettingsSource(settings, file or Path(os.devnull))
    except (TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None


def origin(name: str) -> str:
    """Say where a setting comes from that is not on the command line, by its name in `leaves`."""
    if name in leaves(EnvSettingsSource(Settings)()):
        return f"environment, {PREFIX}{name.replace('.', '__').upper()}"
    if name in leaves(_file_source(Settings)()):
        return str(settings_file())
    return "default"


def leaves(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten nested values: a key inside ``a`` becomes ``a.key``.

    >>> leaves({"store": "s", "field_limits": {"least_cells": 3}})
    {'store': 's', 'field_limits.least_cells': 3}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            leaves(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
        )
    return flat
