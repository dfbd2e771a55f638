"""What travels between processes, as plain state machines: bytes in, bytes and facts out."""
