"""recover --lazy: the job runs while its memory is still to come. As an ordinary user, that it falls back."""
import os
import re

import harness
from harness import case, check, check_equal, wait_until, write_bytes
from saved import flip, saved_and_killed

BACK = re.compile(rb"all memory of job \S+ is back, after .*\((\d+) pages were waited for\)")


def is_root():
    return os.getuid() == 0


def root_case(function):
    """Where there is no lazy recovery there is nothing to see that other cases have not seen."""
    return case(root=True)(function) if is_root() else function


def recover_lazily(lab, *options):
    """Returns as soon as the job runs."""
    again = lab.start("recover", "job", "--lazy", "-v", "-i", "1h", *options)
    wait_until(lambda: b"goes on from" in again.err or b"stands as it was" in again.err or not again.alive(), 60,
               "the job goes on")
    return again


def check_how(err, told=True):
    """That it was lazy, or why it was not. told: the job has not ended before all was back."""
    if is_root():
        check(b"not possible" not in err, f"it was not lazy: {err!r}")
        check(not told or BACK.search(err), f"not told when all was back: {err!r}")
    else:
        check(b"--lazy is not possible here: " in err and b"CAP_SYS_PTRACE" in err, f"not told why not: {err!r}")


def target_goes_on(name, variant=None):
    """Told to go on beforehand: it uses all its memory at once."""
    def run(lab):
        watchdog, directory = harness.start_target(lab, name, variant)
        lab.snapshot()
        lab.kill(watchdog)
        write_bytes(os.path.join(directory, "go"), b"")
        again = recover_lazily(lab)
        result = again.wait(120)
        text = result.out + result.err + lab.log()
        check_equal(result.status, 0, f"the target ({text[-1500:]!r}) ends with")
        check(lab.log().endswith(b"PASS\n"), f"target did not say PASS: {text[-600:]!r}")
        lab.check_gone("after the job's end")
        check_how(result.err, told=False)
    return run


for _name in ("late", "pool", "share", "tree") if is_root() else ("late",):
    harness.add_case(f"target-{_name}", target_goes_on(_name), root=True)
for _variant in ("edges", "guard", "locked", "many", "partial") if is_root() else ():
    harness.add_case(f"target-memory-{_variant}", target_goes_on("memory", _variant), root=True)


@case(root=True)
def saved_meanwhile(lab):
    """A snapshot that is asked for at once has all of the memory, and so has the one after it."""
    expected = saved_and_killed(lab, snapshots=1)
    again = recover_lazily(lab)
    lab.snapshot()
    wait_until(lambda: not is_root() or BACK.search(again.err), 10, "it is told that all is back")
    check_how(again.err)
    lab.verify("job@2")
    lab.kill(again)
    lab.pawl("recover", "job", "-i", "1h")
    check_equal(lab.log(), expected, "log")


@root_case
def stopped_meanwhile(lab):
    expected = saved_and_killed(lab, snapshots=1)
    again = recover_lazily(lab)
    lab.pawl("stop", "job")
    check_equal(again.wait(60).status, harness.STOPPED_EXIT, "a job that is stopped ends with")
    lab.pawl("recover", "job", "--lazy")
    check_equal(lab.log(), expected, "log")


@root_case
def killed_meanwhile(lab):
    """It dies with its watchdog, and goes on from where it did before."""
    expected = saved_and_killed(lab, snapshots=1)
    for _ in range(3):
        again = recover_lazily(lab)
        lab.kill(again)
    lab.pawl("recover", "job", "--lazy")
    check_equal(lab.log(), expected, "log")


@root_case
def removed_meanwhile(lab):
    """The snapshot it goes on from is taken out of the store: what the job needs of it stays."""
    expected = saved_and_killed(lab, snapshots=1, args=("256", "4", "20", "450", "2"))
    again = recover_lazily(lab)
    lab.pawl("rm", "job@1")
    lab.pawl("gc")
    check_equal(again.wait(120).status, 0, "the job ends with")
    check_equal(lab.log(), expected, "log")


def ended_by_damage(lab, again):
    check_equal(again.wait(60).status, 125, f"a damaged job ({again.err!r}) ends with")
    check(b"snapshot job@3" in again.err and b"pawl recover job@2" in again.err, f"{again.err!r}")
    lab.check_gone("after the damage was found")


def passed_over(lab, again):
    check(b"job@3" in again.err, f"the damaged snapshot is not named: {again.err!r}")
    lab.kill(again)


@root_case
def damaged_meanwhile(lab):
    """A page that cannot be read ends the job, which never sees another; or keeps it from being let go, where
    rebuilding it touches that page."""
    expected = saved_and_killed(lab)
    seen = {ended_by_damage: 0, passed_over: 0}
    pack = 0
    while not all(seen.values()):
        pack -= 1
        check(pack >= -40, f"not seen: {seen}")
        flip(lab, "packs", pack, 150, 2000)
        again = lab.start("recover", "job", "--lazy", "-v", "-i", "1h")
        wait_until(lambda: b"goes on from job@2" in again.err or not again.alive() or BACK.search(again.err), 60,
                   "the damage is found")
        check(not BACK.search(again.err), f"the damage of pack {pack} was not found: {again.err!r}")
        how = passed_over if b"goes on from job@2" in again.err else ended_by_damage
        how(lab, again)
        seen[how] += 1
        flip(lab, "packs", pack, 150, 2000)
    lab.pawl("recover", "job@2")
    check_equal(lab.log(), expected, "log")


@root_case
def damaged_and_rolled_back(lab):
    """Three snapshots, the last one damaged."""
    expected = saved_and_killed(lab)
    flip(lab, "packs", -1, 150, 2000)
    result = lab.pawl("recover", "job", "--lazy", "--retries", "1")
    check(b"job@3" in result.err and b"job@2" in result.err, f"{result.err!r}")
    check_equal(lab.log(), expected, "log")


@root_case
def for_a_debugger(lab):
    """Left stopped it is filled all the same."""
    saved_and_killed(lab, snapshots=1)
    again = recover_lazily(lab, "--stopped")
    wait_until(lambda: b"stands as it was" in again.err or not again.alive(), 60, "it stands")
    check(again.alive(), "it has ended instead of standing")
    wait_until(lambda: BACK.search(again.err), 60, "all of its memory is back")
    lab.pawl("stop", "job")
    again.wait(60)


@case(root=True)
def doctor_tells(lab):
    lines = lab.json("doctor")
    line = next((entry for entry in lines if entry["what"] == "lazy recovery"), None)
    check(line, f"doctor says nothing of lazy recovery: {lines}")
    check_equal(line["state"] == "ok", is_root(), f"lazy recovery: {line}")


if __name__ == "__main__":
    harness.main()
