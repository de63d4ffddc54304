"""A Docker engine of the caller's own: for tests that may remove anything, or that kill the engine itself.

It has its own data and its own network namespace, so its bridges and rules go with it and it can't touch the machine's docker0
(an engine that is told to have no bridge deletes the one that is there), and nothing outside can be reached from it.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from checks import eventually
from docker import Docker

AS_ROOT = [] if os.geteuid() == 0 else ["sudo"]


class Engine:
    def __init__(self, *images):
        self._folder = tempfile.TemporaryDirectory(prefix="nm-engine-", ignore_cleanup_errors=True)  # goes with this process
        self.dir = Path(self._folder.name)
        self.socket = self.dir / "docker.sock"
        self.docker = Docker(str(self.socket))
        self.images = images
        self._daemon = self._holder = None

    def start(self, seconds=60):
        if self._holder is None:
            # Holds the network namespace, so that an engine that is killed and started again finds its bridges as they were.
            self._holder = subprocess.Popen([*AS_ROOT, "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        command = ["nsenter", f"--net=/proc/{self._pid(self._holder)}/ns/net", "dockerd", "--data-root", self.dir / "data"]
        command += ["--exec-root", self.dir / "run", "--pidfile", self.dir / "pid", "-H", f"unix://{self.socket}"]
        command += ["--cgroup-parent=/nm-tests", "--log-level=warn", "--group", str(os.getegid())]
        # What a killed engine leaves: with these, the next one waits for a containerd that is gone.
        for left in [self.dir / "pid", *(self.dir / "run/containerd").glob("containerd.*")]:
            subprocess.run([*AS_ROOT, "rm", "-f", left], check=True)
        with (self.dir / "log").open("ab") as log:
            self._daemon = subprocess.Popen([*AS_ROOT, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(self._up_or_gone, seconds, "the tests' own Docker engine to answer")
        assert self._daemon.poll() is None, f"dockerd ended\n{(self.dir / 'log').read_text()[-3000:]}"
        for image in self.images:
            if not self.docker.has_image(image):
                with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
                    subprocess.run(["docker", "-H", f"unix://{self.socket}", "load", "-q"], stdin=save.stdout, check=True, stdout=subprocess.DEVNULL)
        return self

    def _up_or_gone(self):
        if self._daemon.poll() is not None:
            return True
        try:
            self.docker.request("GET", "/_ping")
        except OSError:
            return False
        return True

    def _pid(self, process):
        """Of the program itself, where sudo stands between."""
        if not AS_ROOT:
            return process.pid
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return int(eventually(lambda: children.read_text().split(), 10, "sudo to start its program")[0])

    def kill(self):
        """kill -9, as a crash would."""
        subprocess.run([*AS_ROOT, "kill", "-KILL", str(self._pid(self._daemon))], check=True)
        self._daemon.wait()

    def stop(self, seconds=60):
        self._signal(self._daemon, signal.SIGTERM, seconds)

    def _signal(self, process, number, seconds):
        if process is None or process.poll() is not None:
            return
        subprocess.run([*AS_ROOT, "kill", f"-{number.value}", str(self._pid(process))], check=False)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            subprocess.run([*AS_ROOT, "kill", "-KILL", str(self._pid(process))], check=False)
            process.wait()

    def close(self):
        """Ends it, its containers and its data."""
        if self._daemon is not None and self._daemon.poll() is not None:
            with contextlib.suppress(AssertionError):  # it was killed: only a living engine ends its containers
                self.start()
        if self._daemon is not None and self._daemon.poll() is None:
            for row in self.docker.containers():
                self.docker.remove(row["Id"])
        self.stop()
        for pid in self._left():
            subprocess.run([*AS_ROOT, "kill", "-KILL", str(pid)], check=False)
        self._signal(self._holder, signal.SIGTERM, 10)
        subprocess.run([*AS_ROOT, "umount", "-l", self.dir / "data"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run([*AS_ROOT, "rm", "-rf", self.dir], check=False)

    def _left(self):
        """Processes of a killed engine that no later one took over; they name this engine's folder in their arguments."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.dir).encode() in (folder / "cmdline").read_bytes():
                    yield int(folder.name)
