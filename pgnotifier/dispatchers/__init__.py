"""The dispatchers that call callbacks in this process, and parts for your own dispatcher.

inline         in the deliverer's own thread, one after the other (the default)
threads        in some threads of this process
asyncio        on an event loop
carrying       payloads that are sent to another process
ordered_queue  what the last two dispatchers share
in_process     what all three share
"""

from pgnotifier.dispatchers.asyncio import AsyncioDispatcher
from pgnotifier.dispatchers.carrying import pack, unpack
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.dispatchers.threads import ThreadDispatcher

__all__ = ["AsyncioDispatcher", "InlineDispatcher", "ThreadDispatcher", "pack", "unpack"]
