"""``aioipc demo``: two processes talk over every transport, and every message is checked.

=============  =================================================================
``book.py``    the messages, and the check that they all came
``peer.py``    the other process: it receives, checks, and sends back
``process.py`` starting that process, and being sure that it ends
``links.py``   how the two connect, for each scheme in the table of transports
``measure.py`` what goes over a link, and how long it takes
``show.py``    the progress bar, the table, the JSON
``run.py``     all of that in order
=============  =================================================================
"""

from aioipc.cli.demo.run import run_demo

__all__ = ["run_demo"]
