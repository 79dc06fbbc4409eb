from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from flambeau.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_somebody_swallowed_is_raised_again(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        interrupt.check()  # nothing has come yet
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 5)  # the handler runs at the latest here
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert signal.getsignal(number) is before
