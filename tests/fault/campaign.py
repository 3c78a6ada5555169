"""SIGKILL at random instants, to the watchdog or to a recovery: after each the store verifies, no
process of the job is left, and the next recovery goes on; in the end the output is right.

--rounds N (default 10, with --long 300), --seed S repeats a campaign's random choices.
"""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness
from harness import Failure, case, check_equal, wait_until

ARGV = ("48", "6", "20", "250", "2")


class Campaign:
    def __init__(self, lab, rounds):
        self.lab, self.rounds = lab, rounds
        self.argv = [lab.target("pagejob"), *ARGV]
        # what it prints does not depend on its pace
        self.expected = lab.bare([self.argv[0], *ARGV[:2], "0", *ARGV[3:]]).out
        self.finished = 0

    def start(self):
        """A new job, or the recovery of the last one; at full speed, saved without pause."""
        options = ["-i", "100ms", "--keep", "3"]
        return self.lab.run(*self.argv, options=options)

    def random_instant(self):
        """Half of the time within the first moments, where recovery and first snapshot are."""
        most = 0.25 if self.lab.random.random() < 0.5 else 2.5
        time.sleep(self.lab.random.uniform(0, most))

    def round(self, number):
        running = self.start()
        self.random_instant()
        if running.alive():
            self.lab.kill(running)
        else:
            self.check_end(running.wait())
        if os.path.exists(os.path.join(self.lab.store, "data.mdb")):
            self.lab.verify()

    def check_end(self, result):
        check_equal(result.status, 0, f"exit ({result.err[-500:]!r})")
        check_equal(self.lab.log(), self.expected, "log")
        self.finished += 1

    def run(self):
        for number in range(self.rounds):
            try:
                self.round(number)
            except Failure as reason:
                raise Failure(f"round {number}: {reason}") from None
        self.check_end(self.start().wait(120))
        self.lab.verify()
        print(f"     {self.rounds} rounds, {self.finished} times to the end", flush=True)


@case(root=True)
def sigkill_campaign(lab):
    rounds = lab.options.rounds or (300 if lab.options.long else 10)
    Campaign(lab, rounds).run()


@case()
def sigkill_of_recoveries_of_one_snapshot(lab):
    """The same snapshot recovered and killed again and again gives the same end."""
    rounds = lab.options.rounds or (100 if lab.options.long else 5)
    argv = [lab.target("target-counter"), "300", "10", "result"]
    expected = lab.bare(argv, cwd=lab.subdir("bare"))
    watchdog = lab.run(*argv, cwd=lab.subdir("work"))
    wait_until(lambda: b"step 60 " in watchdog.out, 20, "the job runs")
    lab.snapshot()
    lab.kill(watchdog)
    for _ in range(rounds):
        running = lab.start("recover", "job@1", "-i", "1h")
        time.sleep(lab.random.uniform(0, 0.3))
        lab.kill(running)
    harness.finish(lab, expected, lab.subdir("bare"), lab.subdir("work"), recover=1)


if __name__ == "__main__":
    harness.main()
