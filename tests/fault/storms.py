"""Snapshots of jobs whose processes and threads come and go as fast as they can: none may be corrupt, the
job must not notice, and what is recovered must go on.

--rounds N: snapshots (default 20, with --long 500); every tenth is recovered after a SIGKILL.
"""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness
from harness import Failure

RECOVER_EVERY = 10


def snapshot(lab, running, number):
    """One, at any moment. A storm may outrun it, but then it says so, and hardly ever."""
    result = lab.pawl("snapshot", "job", status=None, seconds=60)
    if not running.alive():
        end = running.wait()
        raise Failure(f"snapshot {number}: the job has ended with {end.status}: {end.err[-600:]!r}")
    if result.status and b"was not saved" not in result.err:
        raise Failure(f"snapshot {number}: exit {result.status}: {result.err[-600:]!r}")
    return result.status == 0


def storm(variant, long):
    def run(lab):
        rounds = lab.options.rounds or (500 if long else 20)
        running, directory = harness.start_target(lab, "storm", variant)
        missed = 0
        for number in range(1, rounds + 1):
            time.sleep(lab.random.uniform(0, 0.1))
            missed += not snapshot(lab, running, number)
            if number % RECOVER_EVERY == 0:
                lab.kill(running)
                running = lab.recover()
                lab.wait_running(running)
        harness.check(missed * 10 <= rounds, f"{missed} of {rounds} snapshots could not be taken")
        harness.end_target(lab, directory, running)
        lab.verify()
        print(f"     {rounds} snapshots, {missed} not taken, {rounds // RECOVER_EVERY} recoveries",
              flush=True)
    return run


for name in ("forks", "spawns", "threads", "mixed"):
    harness.add_case(f"storm-{name}", storm(name, False), root=name == "mixed")
    harness.add_case(f"storm-{name}-long", storm(name, True), long=True)

if __name__ == "__main__":
    harness.main()
