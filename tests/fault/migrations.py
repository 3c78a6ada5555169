"""The destination is killed at random instants of the migration of the reference job (2 GiB, 320 MiB/s written): the job
goes on exactly once, here or there, and what it has printed in the end is what it prints when nothing happens to it.

--rounds N (default 20). Campaigns only.
"""
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness
from harness import STOPPED_EXIT, Failure, case, check, check_equal, wait_until
from othernode import Nodes

ARGV = ("2048", "32", "100")
FOREVER = "1000000"


class Campaign:
    def __init__(self, lab, rounds):
        self.lab, self.rounds = lab, rounds
        self.nodes = Nodes(lab)
        self.program = lab.target("pagejob")
        self.watchdog, self.moved = None, 0
        self.longest = 60  # of a migration, seconds

    def start(self):
        """A new job, or on from where it was."""
        self.watchdog = self.lab.run(self.program, *ARGV, FOREVER)
        self.lab.wait_running(self.watchdog)

    def steps(self):
        return self.watchdog.out.count(b"\n")

    def check_goes_on_here(self):
        check(self.watchdog.alive(), f"it goes on here: {self.watchdog.err[-500:]!r}")
        check(not self.nodes.runs_there(), "it does not run there too")
        before = self.steps()
        wait_until(lambda: self.steps() > before, 60, "it goes on here")

    def go_on_after_move(self):
        """It was there when that machine died. It goes on there, is stopped, and comes back for the next round."""
        check_equal(self.watchdog.wait().status, STOPPED_EXIT, f"{self.watchdog.err[-500:]!r}; exit")
        check(b"was moved to" in self.lab.pawl("recover", "job", status=None).err, "it does not start here too")
        self.moved += 1
        if not self.nodes.runs_there():
            again = self.lab.start("recover", "job", "--store", self.nodes.there)
            wait_until(lambda: self.nodes.runs_there() or not again.alive(), 120, "it goes on there")
            check(again.alive(), f"recover there: {again.err[-500:]!r}")
        self.nodes.pawl("stop", "job", seconds=300)
        self.check_output(self.nodes.pawl("log", "job").out)
        for store in (self.lab.store, self.nodes.there):
            shutil.rmtree(store)
        self.start()

    def check_output(self, out):
        """Each line depends on all of the memory."""
        steps = out.count(b"\n")
        expected = self.lab.bare([self.program, *ARGV[:2], "0", str(steps)], seconds=1800).out
        check_equal(out, b"".join(expected.splitlines(True)[:steps]), "output")

    def round(self):
        began = time.monotonic()
        migration = self.lab.start("migrate", "job", self.nodes.address)
        time.sleep(self.lab.random.uniform(0, self.longest))
        while not self.nodes.kill_there() and migration.alive():
            time.sleep(0.1)
        if migration.wait(600).status == 0:
            self.longest = min(self.longest, time.monotonic() - began)
            self.go_on_after_move()
        else:
            self.check_goes_on_here()

    def run(self):
        self.start()
        for number in range(self.rounds):
            try:
                self.round()
            except Failure as reason:
                raise Failure(f"round {number}: {reason}") from None
            print(f"     kill {number + 1}: moved {self.moved} times before, {self.steps()} steps", flush=True)
        self.lab.pawl("stop", "job", seconds=300)
        self.watchdog.wait(300)
        self.check_output(self.lab.log())
        self.lab.check_gone("at the end")
        self.lab.pawl("verify", seconds=3600)  # a hundred snapshots of it


@case(long=True, root=True)
def destination_killed(lab):
    Campaign(lab, lab.options.rounds or 20).run()


if __name__ == "__main__":
    harness.main()
