"""What holds for all tests."""

import signal

# A shell starts what it puts in the background deaf to Ctrl-C, and whatever that starts is deaf too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
