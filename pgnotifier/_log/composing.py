"""Make log entries from what users publish, and check them before the server does.

An error of the server would abort the caller's transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from pgnotifier._connection.encoding import Encoding
from pgnotifier._payload.plain import Encoder
from pgnotifier._registry.checks import check_channel
from pgnotifier.errors import (
    ArgumentTypeError,
    ChannelNameError,
    EntryKeyError,
    PayloadEncodingError,
    PayloadTooLargeError,
    PgNotifierError,
)
from pgnotifier.payload import encode

MAX_PAYLOAD_BYTES = 64 << 20
"""The longest payload of an entry. The schema's constraint says the same."""

MAX_KEY_BYTES = 1024
"""The longest key of an entry."""

CHUNK_ENTRIES = 1000
CHUNK_CHARACTERS = 4 << 20
"""How many entries, and how many characters of payload, are sent in one statement.

With more, the server takes longer: rows of arrays that don't fit into `work_mem` go through a
temporary file.
"""

TOGETHER_CHARACTERS = 8 << 20
"""How many characters of payload are sent together, in several statements without waiting.

With more, libpq takes longer, as it moves what the socket hasn't taken yet within its buffer.
"""

Key = str | Callable[[Any], str | None] | None
"""The key of all payloads, or a function that returns the key of one."""

Draft = tuple[str | None, str]
"""The key and the text of an entry."""

_NO_KEY = object()


class Composer:
    """Makes the entries of one channel for one session."""

    def __init__(
        self, channel: str, encoder: Encoder | None, encoding: Encoding | None, order: object
    ) -> None:
        """Check the arguments.

        Args:
            channel: The name of the channel.
            encoder: As for `encode`.
            encoding: The database's encoding; None to leave its check to the server.
            order: "key" or None.
        """
        self.channel = check_channel(channel)
        if order not in (None, "key"):
            raise ArgumentTypeError(f"order must be 'key' or None, not {order!r:.80}")
        self.is_ordered = order == "key"
        self._encoder = encoder
        # UTF-8 has all characters, and its size is checked anyway.
        self._encoding = None if encoding is None or encoding.is_utf8 else encoding
        if self._encoding is not None:
            self._check_characters(channel, "the name", ChannelNameError)

    def compose(self, payload: Any, key: object) -> Draft:
        """Return the key and the text of an entry.

        Raises:
            PayloadEncodingError: The payload has no text, or the database's encoding lacks one of
                its characters.
            PayloadTooLargeError: The payload has over 64 MiB.
            ArgumentTypeError: The key is neither a str nor None.
            EntryKeyError: PostgreSQL can't store the key, or the key is missing.
        """
        checked = self._check_key(key)
        return checked, self._check_text(encode(payload, self._encoder))

    def check_all(self, drafts: Iterable[Draft]) -> list[Draft]:
        """Return entries with payloads that are texts already, which aren't encoded again.

        Raises:
            PayloadEncodingError: As for `compose`.
            PayloadTooLargeError: As for `compose`.
            EntryKeyError: As for `compose`.
        """
        checked: list[Draft] = []
        last: object = _NO_KEY
        for draft in drafts:
            key, text = draft
            if key is not last:  # many entries often share the very same key
                last = self._check_key(key)
            self._check_text(text)
            checked.append(draft)
        return checked

    def compose_all(self, payloads: Iterable[Any], key: Key) -> Iterator[Draft]:
        """Yield the entries of many payloads, in order."""
        if isinstance(payloads, str | bytes | bytearray) or not isinstance(payloads, Iterable):
            raise ArgumentTypeError(
                f"payloads must be an iterable of payloads, not {type(payloads).__name__}"
            )
        find_key = key if callable(key) else None
        for payload in payloads:
            yield self.compose(payload, key if find_key is None else find_key(payload))

    def _check_key(self, key: object) -> str | None:
        if key is None:
            if self.is_ordered:
                raise EntryKeyError(f"channel {self.channel!r}: order='key' needs a key")
            return None
        if not isinstance(key, str):
            raise ArgumentTypeError(
                f"channel {self.channel!r}: a key must be a str, not {type(key).__name__}: "
                f"{key!r:.80}. Use str() of it"
            )
        if "\x00" in key:
            raise EntryKeyError(f"key {key!r:.80} contains NUL, which PostgreSQL refuses")
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise EntryKeyError(
                f"key {key!r:.80} contains a lone surrogate; it must be valid Unicode"
            ) from None
        if size > MAX_KEY_BYTES:
            raise EntryKeyError(
                f"key {key!r:.80} has {size} bytes; a key has {MAX_KEY_BYTES} at most"
            )
        if self._encoding is not None:
            self._check_characters(key, "the key", EntryKeyError)
        return key

    def _check_text(self, text: str) -> str:
        if len(text) * 4 > MAX_PAYLOAD_BYTES:
            self._check_size(text)
        if self._encoding is not None:
            self._check_characters(text, "the payload", PayloadEncodingError)
        return text

    def _check_size(self, text: str) -> None:
        size = len(text.encode())
        if size > MAX_PAYLOAD_BYTES:
            raise too_large(self.channel, f"{size} bytes")

    def _check_characters(self, text: str, what: str, error: type[PgNotifierError]) -> None:
        assert self._encoding is not None
        try:
            self._encoding.encode(text)
        except UnicodeEncodeError as exc:
            raise error(
                f"{what} of an entry for channel {self.channel!r} can't be kept: the database's "
                f"encoding, {self._encoding.name}, has no character {text[exc.start]!r}"
            ) from None


def too_large(channel: str, size: str) -> PayloadTooLargeError:
    """Return the error for a payload that is too large for an entry."""
    return PayloadTooLargeError(
        f"the payload for channel {channel!r} has {size}; an entry takes "
        f"{MAX_PAYLOAD_BYTES} at most. Store it elsewhere, and publish where it is"
    )


def chunk(drafts: Iterator[Draft]) -> Iterator[Sequence[Draft]]:
    """Yield the entries in chunks that are not too large for one statement."""
    held: list[Draft] = []
    characters = 0
    for draft in drafts:
        held.append(draft)
        characters += len(draft[1])
        if len(held) == CHUNK_ENTRIES or characters >= CHUNK_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def bundle(chunks: Iterable[Sequence[Draft]]) -> Iterator[list[Sequence[Draft]]]:
    """Yield chunks in lists that are not too large to be sent together."""
    held: list[Sequence[Draft]] = []
    characters = 0
    for one in chunks:
        more = sum([len(text) for _, text in one])
        if held and characters + more > TOGETHER_CHARACTERS:
            yield held
            held, characters = [], 0
        held.append(one)
        characters += more
    if held:
        yield held


def take_some(drafts: Iterator[Draft]) -> list[Draft]:
    """Return the first entries, one more than a chunk has at most."""
    return [*islice(drafts, CHUNK_ENTRIES + 1)]
