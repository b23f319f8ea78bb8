"""The part of the contract with payloads that queues may change: deep, exact or odd values."""

from collections.abc import Callable

from pgnotifier.notifier import Notifier
from pgnotifier.testing.contract.calls import first
from pgnotifier.testing.contract.setup import ContractSetup

DEEP_JSON = (
    '{"a":' * 199 + "[12345678901234567.89]" + "}" * 199,
    "[" * 200 + "]" * 200,
)
DEEP_LITERALS = (
    "(" * 50 + ")" * 50,
    "{1:" * 48 + "({2}, b'\\xff')" + "}" * 48,
)
ODD = (
    '{"price": 12345678901234567.89, "tax": [0.10000000000000000001, 1.10]}',
    "1e-400",
    '["\\ud800"]',
    "[1.e999]",
    '{"__type__": "decimal", "__value__": "x"}',
    '{"__pgnotifier_raw__": "1"}',
)
HARD = DEEP_JSON + DEEP_LITERALS + ODD
"""Payloads with the deepest allowed nesting, or with values that queues have no types for."""


class HardPayloads(ContractSetup):
    """The tests of `DispatcherContract` with hard payloads."""

    def test_hard_payloads(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """They arrive as they would in this process, with the same types and all digits."""
        notifier.subscribe("a", "a", self.adapt(first))
        notifier.start()
        send("a", *HARD)
        found = [repr(call.payload) for call in self.wait_for(len(HARD))]
        expected = [repr(notifier.decoder(text)) for text in HARD]
        assert (found if self.ordered else sorted(found)) == (
            expected if self.ordered else sorted(expected)
        )

    def test_a_batch_of_hard_payloads(self, notifier: Notifier, send: Callable[..., int]) -> None:
        """A batch that contains them is delivered completely."""
        texts = [f"{place}" for place in range(10)]
        texts[5:5] = HARD
        notifier.subscribe("a", "a", self.adapt(first), batch=(len(texts), 30))
        notifier.start()
        send("a", *texts)
        (call,) = self.wait_for(1)
        assert repr(call.payload) == repr(list(map(notifier.decoder, texts)))
