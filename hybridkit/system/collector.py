"""When Python's garbage collector runs in the process of a command.

A collection visits the objects of all imported modules. With torch imported one takes a fifth of a second, as long as
counting the costs of a model, and Python collects twice more as a process ends (docs/results.md, "Costs").
"""

import atexit
import gc


def collect_no_more() -> None:
    """For a process that allocates little beside its imports: no collection from now on."""
    gc.disable()


def end_without_collection() -> None:
    """Lets this process end without visiting objects whose memory the system takes back anyway."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # frozen objects are left out of collections
