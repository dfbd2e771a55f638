"""The one floor that knows how an event loop watches descriptors and when a wait polls."""
