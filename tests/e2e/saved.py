"""The reference job, saved and killed; and damage done to what was saved."""
import time

from harness import check_equal, wait_until

ARGS = ("64", "4", "20", "700", "2")


def pagejob_output(lab, args):
    """What the reference job prints does not depend on its pace: the bare run goes at full speed."""
    size, rewrite, _, steps, threads = args
    return lab.bare([lab.target("pagejob"), size, rewrite, "0", steps, threads]).out


def saved_and_killed(lab, snapshots=3, options=(), args=ARGS):
    """A job with that many snapshots, killed. Returns its expected output."""
    argv = [lab.target("pagejob"), *args]
    expected = pagejob_output(lab, args)
    watchdog = lab.run(*argv, options=options)
    wait_until(lambda: b"step 3 " in watchdog.out, 30, f"the job runs: {watchdog.err!r}")
    for _ in range(snapshots):
        lab.snapshot()
        time.sleep(0.15)
    lab.kill(watchdog)
    return expected


def flip(lab, database, index, *places):
    """Changes bits of a stored value: index from the end (-1: the last key); places: flip.c."""
    result = lab.bare([lab.target("flip"), lab.store, database, str(index), *map(str, places)])
    check_equal(result.status, 0, f"flip: {result.err!r}")
