"""Clients of object stores."""

import fsspec
import pytest

from tasks.images.access import files


def test_all_reads_share_a_client_of_an_object_store_that_gives_up_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        fsspec.config.conf, "s3", {"anon": True, "config_kwargs": {"connect_timeout": 3}}
    )
    fs, _ = files.filesystem("s3://bucket/1.png")
    assert fs.config_kwargs == {
        "connect_timeout": 3, "read_timeout": 30, "retries": {"max_attempts": 2},
        "max_pool_connections": 32,
    }  # fmt: skip
    assert files.filesystem("s3://bucket/2.png")[0] is fs
