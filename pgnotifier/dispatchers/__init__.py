"""The dispatchers that call callbacks in this process, and helpers for your own dispatcher.

inline         in the deliverer's own thread, one after the other (the default)
threads        in several threads of this process
asyncio        on an event loop
carrying       payloads that are sent to another process
claiming       refuses to serve a second notifier
ordered_queue  shared by `threads` and `asyncio`
in_process     shared by all three
in_workers     the entry of the log for which a callback, task or job was called
origins        what tasks and jobs say about the entry that they were made from
"""

from pgnotifier.dispatchers.asyncio import AsyncioDispatcher
from pgnotifier.dispatchers.carrying import pack, unpack
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.dispatchers.threads import ThreadDispatcher

__all__ = ["AsyncioDispatcher", "InlineDispatcher", "ThreadDispatcher", "pack", "unpack"]
