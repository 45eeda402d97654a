"""What holds for all tests."""

import os
import signal

from hypothesis import HealthCheck, settings

# A shell starts what it puts in the background deaf to Ctrl-C, and whatever that starts is deaf too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("everyday", max_examples=30, deadline=None, suppress_health_check=SLOW, derandomize=True)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=SLOW)
settings.load_profile("long" if os.environ.get("OFFRAMP_LONG") == "1" else "everyday")
