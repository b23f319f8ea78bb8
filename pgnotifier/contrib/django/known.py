"""The channels that this process knows, for workers that are given a name."""

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from typing import Any

CHANNELS: "WeakValueDictionary[str, Any]" = WeakValueDictionary()
"""By name. A channel is a signal, which its module keeps."""
