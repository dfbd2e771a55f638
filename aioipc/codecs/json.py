"""The ``json`` codec: RFC 8259, in UTF-8, by msgspec.

What the json module of the standard library encodes to standard JSON means the same here, in
compact form. The differences:

- NaN and the infinities, which JSON does not have, are encoded as null and refused in a message.
- A number out of the range of a float is refused, not taken for infinity.
- Text with lone surrogates is refused both ways.
- Also encoded: bytes (base64), datetimes (RFC 3339), dataclasses, Structs, sets, enums, UUIDs and
  Decimals; a peer gets them back as the text, list or dict that they became.
"""

from __future__ import annotations

import msgspec

__all__ = ["decode", "encode", "format", "in_place", "name"]

name = "json"
format = "json"  # noqa: A001 - the contract's word
in_place = True
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode
