"""Another machine, which is another store here, reached by a pretended ssh."""
import os
import signal
import socket
import time

import harness
from harness import check_equal, wait_until

STEPS = ("300", "10")


class Nodes:
    """A lab with a second store, reached by ssh://there/…"""
    def __init__(self, lab):
        self.lab = lab
        self.there = os.path.join(lab.dir, "there")
        self.address = f"ssh://there{self.there}"
        lab.pretend_ssh()

    def pawl(self, command, *args, **options):
        return self.lab.pawl(command, "--store", self.there, *args, **options)

    def run(self, steps=STEPS):
        watchdog = self.lab.run(self.lab.target("target-counter"), *steps)
        wait_until(lambda: b"step 3 " in watchdog.out, 60, f"the job runs: {watchdog.err[-300:]!r}")
        return watchdog

    def expected(self, steps=STEPS):
        return self.lab.bare([self.lab.target("target-counter"), steps[0], "0"]).out

    def runs_there(self):
        result = self.pawl("list", "--json", status=None)
        return b'"running"' in result.out

    def check_ends_there(self, steps=STEPS):
        """Also where it has ended in the meantime."""
        wait_until(lambda: not self.runs_there(), 120, "the job ends there")
        check_equal(self.pawl("log", "job").out, self.expected(steps), "log")
        self.pawl("verify")

    def kill_there(self):
        """SIGKILL to everything of pawl's that works on the other store, what it is just starting included:
        as if that machine died. How many there were."""
        killed = 0
        while now := len([pid for pid in self.lab.processes() if self.kill_if_there(pid)]):
            killed += now
            time.sleep(0.01)
        return killed

    def kill_if_there(self, pid):
        try:
            line = harness.read_bytes(f"/proc/{pid}/cmdline")
            if self.there.encode() not in line or b"\0migrate\0" in line:
                return False
            os.kill(pid, signal.SIGKILL)
        except OSError:
            return False
        return True

    def transfer(self):
        """send --negotiate | receive --negotiate, both ways."""
        ours, theirs = socket.socketpair()
        receiver = self.lab.start("receive", "--negotiate", "--store", self.there, stdin=theirs, stdout=theirs)
        sender = self.lab.start("send", "--negotiate", "job", stdin=ours, stdout=ours)
        ours.close()
        theirs.close()
        return sender, receiver
