"""Keep the channels of this process, so that workers find them by name."""

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from typing import Any

CHANNELS: "WeakValueDictionary[str, Any]" = WeakValueDictionary()
"""The channels, by name. The modules that define them keep them alive."""
