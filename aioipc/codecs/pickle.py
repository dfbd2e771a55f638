"""The ``pickle`` codec: any Python object, between processes that trust each other.

Decoding a pickle runs whatever its sender wants. So this codec is never a default, and a channel
refuses it unless the peer is a process of the same user.
"""

from __future__ import annotations

import functools
import pickle

__all__ = ["decode", "encode", "format", "name", "trusted_only"]

name = "pickle"
format = None  # noqa: A001 - the contract's word
trusted_only = True
encode = functools.partial(pickle.dumps, protocol=5)
decode = pickle.loads
