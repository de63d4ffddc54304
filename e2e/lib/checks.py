"""A list of checks, run in order, told line by line.

    suite = Suite("name")

    @suite.check("says what must hold")
    def _():
        assert ...

    suite.run()      # prints `says what must hold ... ok (0.2 s)` for each, then `N passed, N failed`; exits 1 on a failure
"""

import contextlib
import sys
import time
import traceback


class Suite:
    def __init__(self, name):
        self.name = name
        self._checks = []
        self._cleanup = contextlib.ExitStack()

    def check(self, what):
        def register(function):
            self._checks.append((what, function))
            return function

        return register

    def on_exit(self, function, *args):
        """Run at the end, whatever happened; the last one first."""
        self._cleanup.callback(function, *args)

    def run(self, setup=None):
        """`setup` is counted as a check that all others need: when it fails, they do not run."""
        passed = failed = 0
        checks = self._checks if setup is None else [("set-up", setup), *self._checks]
        try:
            with self._cleanup:
                for what, function in checks:
                    started = time.monotonic()
                    try:
                        function()
                    except Exception as e:  # a check may fail in any way; all of them are told alike
                        failed += 1
                        print(f"{what} ... FAILED ({time.monotonic() - started:.1f} s)", flush=True)
                        print(indent(describe(e)), flush=True)
                        if function is setup:
                            failed += len(self._checks)
                            break
                    else:
                        passed += 1
                        print(f"{what} ... ok ({time.monotonic() - started:.1f} s)", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)
        except Exception as e:
            failed += 1
            print(f"clean-up ... FAILED\n{indent(describe(e))}", flush=True)
        print(f"{passed} passed, {failed} failed", flush=True)
        sys.exit(1 if failed else 0)


def describe(error):
    """Where it failed in the check's own file, and why."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if "/e2e/lib/" not in f.filename] or frames
    last = outside[-1]
    reason = str(error) or type(error).__name__
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    return f"{last.filename.rsplit('/', 1)[-1]}:{last.lineno}: {last.line}\n{type(error).__name__}: {reason}{notes}"


def indent(text):
    return "\n".join("    " + line for line in text.splitlines())


def eventually(condition, seconds, what, every=0.05):
    """The first truthy value of `condition()`; AssertionError with its last value at the deadline.

    `every` is the pause between looks, for things that have no event to wait for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last seen: {value!r})")
        time.sleep(every)
