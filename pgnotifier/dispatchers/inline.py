"""InlineDispatcher: call callbacks in the deliverer's own thread, one by one."""

from pgnotifier._runtime.tracing import Choose
from pgnotifier.current import call_for
from pgnotifier.dispatch import Batch, Binding, Callback, Dispatcher, Subscription
from pgnotifier.dispatchers.in_process import bind_in_process
from pgnotifier.notification import Entry, Notification


class InlineDispatcher(Dispatcher):
    """Calls the callback in this process, in one thread, for one notification after the other.

    If a callback raises or calls `sys.exit()`, that is reported, and nothing stops.
    """

    # Few, so that a payload is still in the processor's cache when its callback gets it, and is
    # gone before the garbage collector looks at it.
    batch_size = 100

    def bind(self, subscription: Subscription) -> Callback:
        """Check that the callback can be called here, and return it.

        Raises:
            DispatcherMismatchError: It is a coroutine or generator function, or a Celery task
                or signature.
            UnknownOptionError: Options were given; there are none.
        """
        return bind_in_process(subscription)

    def dispatch(self, batch: Batch) -> None:
        """Call each callback once; never raises."""
        tracing = self.tracing
        choose = None if tracing is None else tracing.begin_batch(batch.rest())
        if choose is not None:
            self._dispatch_traced(batch, choose)
            return
        # As `one_by_one` does it, but without the cost of a generator: that is a tenth of this.
        for batch._done, delivery in enumerate(batch.rest(), batch._done + 1):  # noqa: B020, SLF001
            if batch._cancelled:  # noqa: SLF001
                return
            binding = delivery.binding
            if not binding.live:
                delivery.pass_on()
                continue
            arrived = delivery.notification
            try:
                if type(arrived) is Entry:
                    call_for(arrived, binding.target, binding.id)
                else:
                    binding.target(binding.id, arrived.channel, arrived.payload, arrived.pid)
            except BaseException as exc:  # noqa: BLE001 - sys.exit() in a callback included
                delivery.report(exc)

    def _dispatch_traced(self, batch: Batch, choose: Choose) -> None:
        for batch._done, delivery in enumerate(batch.rest(), batch._done + 1):  # noqa: B020, SLF001
            if batch._cancelled:  # noqa: SLF001
                return
            binding, arrived = delivery.binding, delivery.notification
            if not binding.live:
                delivery.pass_on()
                continue
            try:
                if (span := choose(delivery)) is None:
                    _call(binding, arrived)
                    continue
                with span:
                    _call(binding, arrived)
            except BaseException as exc:  # noqa: BLE001 - as above
                delivery.report(exc)


def _call(binding: Binding, arrived: Notification) -> None:
    if type(arrived) is Entry:
        call_for(arrived, binding.target, binding.id)
    else:
        binding.target(binding.id, arrived.channel, arrived.payload, arrived.pid)
