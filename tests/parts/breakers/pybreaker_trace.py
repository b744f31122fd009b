"""Plays traces of calls and clock steps to pybreaker, on a clock of its own,
and says what it makes of them.

A trace begins with `new`. Then `t MS` lets time pass, `s` and `f` make a call
that goes well or badly. Each line is answered with whether the call was made (1
for all other lines) and the state.
"""

import sys
from datetime import datetime, timedelta, timezone

import pybreaker


class Clock(datetime):
    """What pybreaker takes for `datetime`."""

    time = datetime(2000, 1, 1, tzinfo=timezone.utc)

    @classmethod
    def now(cls, tz=None):
        return cls.time


pybreaker.datetime = Clock


def state_of(breaker):
    state = breaker.current_state.replace("-", "_")
    opened = breaker._state_storage.opened_at
    # It looks at the clock only when it is called.
    if state == "open" and Clock.time >= opened + timedelta(seconds=breaker.reset_timeout):
        return "half_open"
    return state


def main():
    breaker = None
    for line in sys.stdin:
        word, *rest = line.split()
        made = True
        if word == "new":
            breaker = pybreaker.CircuitBreaker()
        elif word == "t":
            Clock.time += timedelta(milliseconds=int(rest[0]))
        else:
            made = False

            def call():
                nonlocal made
                made = True
                if word == "f":
                    raise ValueError("failed")

            try:
                breaker.call(call)
            except (ValueError, pybreaker.CircuitBreakerError):
                pass
        print("=", int(made), state_of(breaker))


main()
