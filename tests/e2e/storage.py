"""Damage, full disks, retention, space: what a store must survive."""
import os
import shutil
import signal
import time

import harness
from harness import case, check, check_equal, wait_until, write_bytes
from saved import ARGS, flip, pagejob_output, saved_and_killed


def check_falls_back(lab, expected, damaged, taken):
    """verify names the damaged snapshot; recover says so and takes an older one."""
    result = lab.pawl("verify", status=1)
    text = result.out + result.err
    check(f"job@{damaged}".encode() in text, f"verify does not name job@{damaged}: {text!r}")
    result = lab.pawl("recover", "job")
    check(f"job@{damaged}".encode() in result.err, f"recover does not name the damage: {result.err!r}")
    check(f"job@{taken}".encode() in result.err, f"recover does not say what it took: {result.err!r}")
    check_equal(lab.log(), expected, "log")


def flipped(database, index, *places):
    def run(lab):
        expected = saved_and_killed(lab)
        flip(lab, database, index, *places)
        check_falls_back(lab, expected, 3, 2)
    return run


harness.add_case("bit-flip-in-pages", flipped("packs", -1, 150, 2000), root=True)
harness.add_case("bit-flip-in-page-table", flipped("nodes", -1, 20))
harness.add_case("bit-flip-in-record", flipped("snapshots", -1, 60))


@case(root=True)
def trial_beside_the_running_job(lab):
    """verify --trial rebuilds a tree of processes while the job itself goes on, and touches nothing of it."""
    directory = lab.subdir("target")
    watchdog = lab.run(*lab.target_argv("tree", directory))
    harness.wait_ready(watchdog, directory)
    lab.snapshot()
    before = harness.directory_contents(directory)
    there = lab.processes()
    result = lab.verify("--trial", "job@1")
    check(b"job@1: rebuilt " in result.out and b"pages as stored" in result.out, f"{result.out!r}")
    check_equal(harness.directory_contents(directory), before, "the job's files after a trial")
    check_equal(sorted(lab.processes()), sorted(there), "processes after a trial")
    harness.end_target(lab, directory, watchdog)


@case()
def trial_of_a_damaged_snapshot(lab):
    saved_and_killed(lab, snapshots=1)
    lab.verify("--trial", "job")
    flip(lab, "packs", -1, 150, 2000)
    result = lab.pawl("verify", "--trial", "job", status=1)
    check(b"job@1" in result.out and b"rebuilt" not in result.out, f"{result.out!r}")
    lab.pawl("verify", "--trial", status=2)


@case()
def all_snapshots_damaged(lab):
    saved_and_killed(lab, snapshots=2)
    flip(lab, "snapshots", -1, 60)
    flip(lab, "snapshots", -2, 60)
    result = lab.pawl("recover", "job", status=125)
    check(b"job@1" in result.err and b"job@2" in result.err, f"message: {result.err!r}")
    lab.check_gone("after a recovery that failed")


@case()
def recover_a_damaged_one_by_number(lab):
    """Asked for by number, a damaged snapshot is an error, not a reason to take another."""
    saved_and_killed(lab)
    flip(lab, "packs", -1, 150, 2000)
    result = lab.pawl("recover", "job@3", status=125)
    check(b"job@3" in result.err, f"message: {result.err!r}")
    lab.check_gone("after a recovery that failed")


def check_refused(lab, words):
    """Every command that opens the store says why it cannot; nothing crashes."""
    for args, status in ((["list"], 1), (["verify"], 1), (["recover", "job"], 125), (["gc"], 1),
                         (["run", "-n", "other", "--", "true"], 125)):
        result = lab.pawl(*args, status=status)
        check(any(word in result.err for word in words), f"pawl {args[0]}: {result.err!r}")


@case()
def truncated_store(lab):
    saved_and_killed(lab, snapshots=1)
    path = os.path.join(lab.store, "data.mdb")
    size = os.path.getsize(path)
    for length in (size // 2, 8192, 4096, 100):
        os.truncate(path, length)
        check_refused(lab, (b"data.mdb", lab.store.encode()))


@case()
def salvage(lab):
    """A store whose trees are gone is made anew from what is left in its file, and its job goes on."""
    expected = saved_and_killed(lab, snapshots=2)
    path = os.path.join(lab.store, "data.mdb")
    with open(path, "r+b") as f:
        f.seek(4096 * 2)
        while len(page := f.read(4096)) == 4096:
            if page[10] == 1 and int.from_bytes(page[:8], "little") * 4096 == f.tell() - 4096:  # a branch page
                f.seek(-4096, 1)
                f.write(bytes(4096))
        f.seek(16 + 24 + 48 + 40)  # the root of the main tree, in both meta pages
        f.write(b"\xff\xff")
        f.seek(4096 + 16 + 24 + 48 + 40)
        f.write(b"\xff\xff")
    result = lab.pawl("list", status=1)
    check(b"gc --salvage" in result.err, f"what to do about it: {result.err!r}")
    result = lab.pawl("gc", "--salvage")
    check(b"saved 2 snapshots of 1 jobs, 0 are lost" in result.out, f"{result.out!r}")
    lab.verify()
    lab.pawl("recover", "job")
    check_equal(lab.log(), expected, "log")


@case()
def empty_store_file(lab):
    saved_and_killed(lab, snapshots=1)
    os.truncate(os.path.join(lab.store, "data.mdb"), 0)
    check_refused(lab, (b"data.mdb", lab.store.encode()))


@case()
def foreign_store_file(lab):
    os.mkdir(lab.store, 0o700)
    path = os.path.join(lab.store, "data.mdb")
    write_bytes(path, lab.random.randbytes(100000))
    os.chmod(path, 0o600)
    check_refused(lab, (b"data.mdb", lab.store.encode()))
    check_equal(os.path.getsize(path), 100000, "the foreign file's size")


@case()
def store_from_the_future(lab):
    saved_and_killed(lab, snapshots=1)
    flip(lab, "meta", -1, 16, 240)  # the version number in both copies of the record "store"
    check_refused(lab, (b"newer", b"version"))


def fill(path, leave_mib):
    """Fills the file system that path is on, up to leave_mib."""
    with open(os.path.join(path, "filler"), "wb", buffering=0) as f:
        free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
        f.write(bytes(max(0, free - (leave_mib << 20))))


@case(disk=48)
def full_disk(lab):
    """The job goes on, the message says what is missing, earlier snapshots recover; with space
    again it is saved again."""
    lab.store = os.path.join(lab.disk, "store")
    lab.env["PAWL_STORE"] = lab.store
    args = ("24", "20", "20", "600", "2")
    expected = pagejob_output(lab, args)
    watchdog = lab.run(lab.target("pagejob"), *args)
    wait_until(lambda: b"step 2 " in watchdog.out, 30, f"the job runs: {watchdog.err!r}")
    lab.snapshot()
    fill(lab.disk, 0)
    result = lab.pawl("snapshot", "job", status=None)
    printed = len(watchdog.out)
    wait_until(lambda: len(watchdog.out) > printed + 2500, 30, "output that the log has no room for")
    check(result.status not in (0, 2) and b"space" in result.err, f"message: {result.err!r}")
    check(watchdog.alive(), "the job has ended")
    lab.verify()
    os.unlink(os.path.join(lab.disk, "filler"))
    check_equal(lab.snapshot()["parent"], 1, "parent of the next snapshot")
    fill(lab.disk, 1)
    lab.pawl("snapshot", "job", status=None)
    lab.kill(watchdog)
    lab.verify()
    os.unlink(os.path.join(lab.disk, "filler"))
    lab.pawl("recover", "job")
    check_equal(lab.log(), expected, "log")


@case(disk=24)
def disk_too_small_for_any_snapshot(lab):
    lab.store = os.path.join(lab.disk, "store")
    lab.env["PAWL_STORE"] = lab.store
    args = ("96", "4", "20", "100", "2")
    result = lab.run(lab.target("pagejob"), *args, options=["-i", "300ms"]).wait(60)
    check_equal(result.status, 0, f"exit ({result.err[-400:]!r})")
    check_equal(result.out, pagejob_output(lab, args), "output")
    check(b"space" in result.err, f"message: {result.err!r}")


@case()
def keep_three(lab):
    saved_and_killed(lab, snapshots=6, options=["--keep", "3"])
    check_equal([s["seq"] for s in lab.json("list", "job")], [4, 5, 6], "snapshots kept")
    lab.verify()
    lab.pawl("recover", "job@4")


@case()
def bytes_follow_changed_pages(lab):
    """An idle stretch costs next to nothing; a rewriting one what it rewrote, compressed."""
    watchdog = lab.run(lab.target("pagejob"), "128", "4", "100", "300", "2")
    wait_until(lambda: b"step 2 " in watchdog.out, 30, "the job runs")
    first = lab.snapshot()
    # The longer the first takes, the more is rewritten, and stored again, meanwhile.
    rewritten = first["wall_us"] / 1e6 * 40 * 2**20 * 0.53
    check(60 << 20 < first["bytes_stored"] < (90 << 20) + rewritten,
          f"the first stores {first['bytes_stored']} in {first['wall_us']} us")
    for _ in range(4):
        time.sleep(0.3)
        taken = lab.snapshot()
        compressed = taken["pages_changed"] * 4096 * 0.53
        check(taken["bytes_stored"] < 1.25 * compressed + (1 << 20),
              f"{taken['bytes_stored']} bytes for {taken['pages_changed']} changed pages")
        check(taken["pages_changed"] < 0.9 * taken["pages_resident"], f"all pages changed: {taken}")
    lab.kill(watchdog)


@case()
def an_idle_job_costs_nothing(lab):
    watchdog = lab.run("sh", "-c", "echo begun; exec sleep 60")
    wait_until(lambda: b"begun" in watchdog.out, 20, "the job runs")
    lab.snapshot()
    second = lab.snapshot()
    check(second["bytes_stored"] < 200000, f"an idle job's second snapshot stores {second['bytes_stored']} bytes")
    lab.kill(watchdog)


def usage(lab):
    return os.stat(os.path.join(lab.store, "data.mdb")).st_blocks * 512


@case()
def space_does_not_grow_without_bound(lab):
    """With --keep 2 the file stops growing: freed packs are used again."""
    watchdog = lab.run(lab.target("pagejob"), "64", "32", "20", "1000", "2", options=["--keep", "2"])
    wait_until(lambda: b"step 2 " in watchdog.out, 30, "the job runs")
    sizes = []
    for _ in range(14):
        lab.snapshot()
        lab.pawl("gc")
        sizes.append(usage(lab))
    lab.kill(watchdog)
    check(sizes[-1] <= 1.3 * sizes[5], f"sizes: {sizes}")
    lab.verify()


@case()
def rm_and_gc(lab):
    expected = saved_and_killed(lab, snapshots=4)
    lab.pawl("rm", "job@2")
    check_equal([s["seq"] for s in lab.json("list", "job")], [1, 3, 4], "after rm job@2")
    lab.pawl("rm", "job@4")
    lab.pawl("gc")
    lab.verify()
    lab.pawl("recover", "job")
    check_equal(lab.log(), expected, "log")
    before = usage(lab)
    lab.pawl("rm", "job")
    check_equal(lab.json("list"), [], "jobs after rm job")
    lab.pawl("gc", "--compact")
    check(usage(lab) < before / 4, f"gc --compact: {before} -> {usage(lab)}")


@case()
def gc_while_a_job_is_saved(lab):
    argv = [lab.target("pagejob"), *ARGS]
    expected = pagejob_output(lab, ARGS)
    watchdog = lab.run(*argv, options=["-i", "100ms", "--keep", "2"])
    wait_until(lambda: b"step 3 " in watchdog.out, 30, f"the job runs: {watchdog.err!r}")
    wait_until(lambda: lab.running() and len(lab.json("list", "job")) >= 1, 20, "the first snapshot")
    for _ in range(12):
        lab.pawl("gc")
        lab.verify()
    lab.kill(watchdog)
    lab.verify()
    lab.pawl("recover", "job")
    check_equal(lab.log(), expected, "log")


@case()
def saved_without_its_parent(lab):
    """The newest snapshot is removed, the next one's page table damaged: the job is saved all the same."""
    argv = [lab.target("pagejob"), *ARGS]
    expected = pagejob_output(lab, ARGS)
    watchdog = lab.run(*argv)
    wait_until(lambda: b"step 3 " in watchdog.out, 30, f"the job runs: {watchdog.err!r}")
    lab.snapshot()
    lab.snapshot()
    lab.pawl("rm", "job@2")
    check_equal(lab.snapshot()["parent"], None, "parent, where that one is gone")
    check_equal(lab.snapshot()["parent"], 3, "parent of the next one")
    for index in range(-8, 0):
        flip(lab, "nodes", index, 20)
    check_equal(lab.snapshot()["parent"], None, "parent, where that one is damaged")
    lab.kill(watchdog)
    lab.pawl("recover", "job")
    check_equal(lab.log(), expected, "log")


def rm_while_it_is_read(lab, seq, which):
    """`pawl recover` of a job is stopped when it is about to fill the memory from snapshot `seq`; then others go."""
    again = lab.start("recover", "job", "-i", "1h", "-v")
    wait_until(lambda: b"map and fill" in again.err, 30, f"job@{seq} is read: {again.err!r}")
    again.process.send_signal(signal.SIGSTOP)
    lab.pawl("rm", which)
    lab.pawl("gc")
    again.process.send_signal(signal.SIGCONT)
    check_equal(again.wait(60).status, 0, f"the job ({again.err[-500:]!r}) ends with")
    return again


@case()
def removed_while_it_is_recovered(lab):
    """What a recovery has begun to read stays in the store until it has been read."""
    expected = saved_and_killed(lab, snapshots=1, args=("128", "4", "20", "250", "2"))
    rm_while_it_is_read(lab, 1, "job@1")
    check_equal(lab.log(), expected, "log")


@case()
def removed_before_it_is_recovered(lab):
    """The newest is damaged, the one before it is removed while that comes out: the one before that is taken."""
    expected = saved_and_killed(lab, args=("64", "4", "20", "400", "2"))
    flip(lab, "packs", -1, 150, 2000)
    again = rm_while_it_is_read(lab, 3, "job@2")
    check(b"job@3 is damaged" in again.err and b"job@2 has been removed meanwhile, taking job@1" in again.err,
          f"{again.err!r}")
    check_equal(lab.log(), expected, "log")


@case()
def private_to_its_owner(lab):
    saved_and_killed(lab, snapshots=1)
    for path, folders, files in os.walk(lab.store):
        check_equal(os.stat(path).st_mode & 0o777, 0o700, path)
        for name in files:
            mode = os.lstat(os.path.join(path, name)).st_mode & 0o777
            check(not mode & 0o177, f"{name}: mode {mode:o}")


@case()
def a_copied_store(lab):
    """A store is a directory: its copy recovers (on another node, say)."""
    expected = saved_and_killed(lab)
    copy = os.path.join(lab.dir, "copy")
    shutil.copytree(lab.store, copy, ignore=shutil.ignore_patterns("*.sock"))
    os.chmod(copy, 0o700)
    shutil.rmtree(lab.store)
    lab.pawl("recover", "job", "--store", copy)
    check_equal(lab.pawl("log", "job", "--store", copy).out, expected, "log")


if __name__ == "__main__":
    harness.main()
