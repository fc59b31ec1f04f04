"""Names are looked up at once, or not at all."""

import socket

import pytest

from hybridkit.system.network import _has_address


def test_a_proxy_looks_names_up_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert not _has_address("https://huggingface.co") and not _has_address("no address")
    monkeypatch.setenv("https_proxy", "http://proxy.example:8080")
    assert _has_address("https://huggingface.co")
