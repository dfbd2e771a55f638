"""Certificates that are made when the tests run, by an authority that only they trust."""

from __future__ import annotations

import functools
import ssl

import trustme

__all__ = ["authority", "client_context", "server_context"]


@functools.cache
def authority() -> trustme.CA:
    """Whom everybody trusts."""
    return trustme.CA()


@functools.cache
def server_context() -> ssl.SSLContext:
    """A server on this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@functools.cache
def client_context() -> ssl.SSLContext:
    """A client that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context
