"""The native core: waiting, polling, splitting and system calls, in Cython.

``_pacer``   one loop's pace: when to yield, to flush, to poll
``_core``    ChannelCore: native awaitables over a message port and a codec
``_stream``  descriptors as byte streams, and frames over byte streams
``_scan``    checks of msgpack and json before they are decoded
``_os``      system calls that Python lacks
"""
