"""--save-dir: a directory that belongs to a job is saved with every snapshot and rolled back with it."""
import hashlib
import os
import shutil
import signal
import stat
import time

import harness
from harness import case, check, check_equal, need, read_bytes, wait_until, write_bytes

IDLE = "until test -e go; do sleep 0.05; done; echo end"


# ---- what a tree is ------------------------------------------------------------------------------

def describe_one(path, inodes, relative):
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    facts = [oct(kind), oct(st.st_mode & 0o7777) if kind != stat.S_IFLNK else "",
             st.st_uid, st.st_gid, st.st_mtime_ns]
    inodes.setdefault(st.st_ino, []).append(relative)
    if kind == stat.S_IFLNK:
        return facts + [os.readlink(path)]
    attributes = {}
    if kind == stat.S_IFREG and not st.st_mode & 0o400:
        os.chmod(path, st.st_mode & 0o7777 | 0o400)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        attributes = {n: os.getxattr(path, n, follow_symlinks=False)
                      for n in os.listxattr(path, follow_symlinks=False) if n.startswith("user.")}
    if kind == stat.S_IFREG:
        facts += [st.st_size, content_of(path, st)]
        if not st.st_mode & 0o400:
            os.chmod(path, st.st_mode & 0o7777)
    return facts + [sorted(attributes.items())]


def content_of(path, st):
    """The hash, by data only: a sparse file is not read through."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        at = 0
        while at < st.st_size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            f.seek(at)
            for block in iter(lambda: f.read(min(4096, end - f.tell())), b""):
                if block.strip(b"\0"):
                    digest.update(b"%d:" % (f.tell() - len(block)) + block)
            at = end
    return digest.hexdigest()


def describe(root):
    """{relative path: all that can be told of it}, and which names are one file."""
    inodes, found = {}, {".": describe_one(root, {}, ".")}
    for folder, directories, names in os.walk(root):
        for name in directories + names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            found[relative] = describe_one(path, inodes, relative)
    for names in inodes.values():
        for name in names:
            found[name].append(sorted(names))
    return found


def check_tree(root, expected):
    found = describe(root)
    check_equal(sorted(set(found) - set(expected)), [], "names that the snapshot did not have")
    check_equal(sorted(set(expected) - set(found)), [], "names that are missing")
    for name, facts in expected.items():
        check_equal(found[name], facts, name)


# ---- making and changing one ---------------------------------------------------------------------

def random_bytes(rng, most=20000):
    return rng.randbytes(rng.randrange(most))


def make_tree(root, rng, files):
    directories = [root]
    for i in range(files // 25):
        directories.append(os.path.join(rng.choice(directories[-40:]), f"d{i}"))
        os.mkdir(directories[-1])
    for i in range(files):
        make_one(rng.choice(directories), f"f{i}", rng)


def make_one(directory, name, rng):
    path = os.path.join(directory, name)
    kind = rng.randrange(40)
    if kind == 0:
        os.symlink(rng.choice(["nowhere", "../f1", "/etc/passwd"]), path)
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        os.mkdir(path)
    elif kind == 3:
        with open(path, "wb") as f:
            f.truncate(rng.randrange(50 << 20))
            f.seek(rng.randrange(10 << 20))
            f.write(b"in the middle")
    else:
        write_bytes(path, random_bytes(rng))
        if kind == 4:
            os.setxattr(path, "user.note", random_bytes(rng, 200))
        if kind < 8:
            os.chmod(path, rng.choice([0o600, 0o444, 0o755, 0o4711, 0]))
        if kind > 30:
            os.utime(path, ns=(0, rng.randrange(2 * 10**18)))


def pick(root, rng, wanted, rounds=200):
    """A random path of what wanted(mode) accepts."""
    for _ in range(rounds):
        path = root
        while True:
            names = os.listdir(path)
            if not names:
                break
            path = os.path.join(path, rng.choice(names))
            mode = os.lstat(path).st_mode
            if wanted(mode) and rng.random() < 0.5:
                return path
            if not stat.S_ISDIR(mode):
                break
    return None


def change_tree(root, rng, changes):
    for i in range(changes):
        path = pick(root, rng, stat.S_ISREG)
        if path:
            change_one(root, path, rng, i)


def change_one(root, path, rng, i):
    other = pick(root, rng, stat.S_ISDIR) or root
    fresh = os.path.join(other, f"new{rng.randrange(10**9)}")
    what = rng.randrange(11)
    if what in (0, 1, 2):
        os.chmod(path, os.stat(path).st_mode & 0o7777 | 0o600)
    if what == 0:
        with open(path, "ab") as f:
            f.write(random_bytes(rng))
    elif what == 1:
        with open(path, "r+b") as f:
            f.seek(rng.randrange(20000))
            f.write(b"changed in place")
    elif what == 2:
        os.truncate(path, rng.randrange(10000))
    elif what == 3:
        os.unlink(path)
    elif what == 4:
        os.rename(path, fresh)
    elif what == 5:
        os.link(path, fresh)
    elif what == 6:
        write_bytes(fresh, random_bytes(rng))
        os.replace(fresh, path)
    elif what == 7:
        os.unlink(path)
        make_one(os.path.dirname(path), os.path.basename(path), rng)
    elif what == 8:
        os.chmod(path, rng.choice([0o640, 0o777, 0]))
    elif what == 9:
        target = pick(root, rng, stat.S_ISREG)
        if target and target != path:
            swap(path, target)
    elif other != root and rng.random() < 0.3:
        shutil.rmtree(other)
    else:
        make_one(other, f"made{rng.randrange(10**9)}", rng)


def swap(a, b):
    os.rename(a, a + ".swap")
    os.rename(b, a)
    os.rename(a + ".swap", b)


# ---- the cases -----------------------------------------------------------------------------------

def start_idle(lab, *options):
    """A job that does nothing while the test itself changes its directory."""
    work = lab.subdir("work")
    os.makedirs(os.path.join(work, "tree"), exist_ok=True)
    watchdog = lab.run("sh", "-c", IDLE, cwd=work, options=["--save-dir", "tree", *options])
    lab.wait_running(watchdog)
    return watchdog, work, os.path.join(work, "tree")


def end_idle(lab, work, running):
    write_bytes(os.path.join(work, "go"), b"")
    check_equal(running.wait(60).status, 0, "exit of the job")
    lab.check_gone("after the job's end")
    lab.verify()


def recover(lab, name="job"):
    """Until the job goes on: its directory is what it is to be."""
    running = lab.start("recover", name, "-i", "1h", "-v")
    wait_until(lambda: b" goes on from " in running.err or not running.alive(), 60, "job goes on")
    if not running.alive():
        raise harness.Failure(f"recover has ended: {running.describe()}")
    return running


@case(root=True)
def tree_of_all_kinds(lab):
    running, work, tree = start_idle(lab)
    make_tree(tree, lab.random, 2000)  # ext4 looks long for an inode after many were freed
    for _ in range(4):
        lab.snapshot()
        expected = describe(tree)
        change_tree(tree, lab.random, 300)
        time.sleep(lab.random.uniform(0, 0.1))
        lab.kill(running)
        running = recover(lab)
        check_tree(tree, expected)
        change_tree(tree, lab.random, 100)
    end_idle(lab, work, running)


@case(root=True)
def every_earlier_snapshot(lab):
    running, work, tree = start_idle(lab)
    make_tree(tree, lab.random, 200)
    expected = {}
    for seq in range(1, 7):
        check_equal(lab.snapshot()["seq"], seq, "number of the snapshot")
        expected[seq] = describe(tree)
        change_tree(tree, lab.random, lab.random.choice([0, 5, 60]))
    for seq in lab.random.sample(range(1, 7), 6):
        lab.kill(running)
        running = recover(lab, f"job@{seq}")
        check_tree(tree, expected[seq])
    end_idle(lab, work, running)


@case(root=True)
def attributes_of_what_nobody_may_read(lab):
    """Neither its owner, who may set them and read them with permission to write and read the file only."""
    running, work, tree = start_idle(lab)
    path = os.path.join(tree, "closed")
    write_bytes(path, b"content")
    os.setxattr(path, "user.note", b"saved")
    os.chmod(path, 0)
    lab.snapshot()
    expected = describe(tree)
    lab.kill(running)
    os.chmod(path, 0o600)
    os.setxattr(path, "user.note", b"changed since")
    os.chmod(path, 0)
    running = recover(lab)
    check_tree(tree, expected)
    end_idle(lab, work, running)


@case(root=True)
def unchanged_costs_little(lab):
    """What is stored is the memory of the job itself, a shell that starts a sleep again and again."""
    running, work, tree = start_idle(lab)
    make_tree(tree, lab.random, 2000)
    lab.snapshot()
    lab.snapshot()
    again = lab.snapshot()
    check(again["bytes_stored"] < 500000, f"an unchanged tree stores {again['bytes_stored']} bytes")
    write_bytes(os.path.join(tree, "one-more"), b"x" * 5000)
    more = lab.snapshot()
    check(more["bytes_stored"] < 600000, f"one more file stores {more['bytes_stored']} bytes")
    lab.kill(running)
    end_idle(lab, work, recover(lab))


@case(root=True)
def sparse_gibibyte(lab):
    running, work, tree = start_idle(lab)
    path = os.path.join(tree, "sparse")
    with open(path, "wb") as f:
        f.truncate(1 << 30)
        for at in (0, 123456789, (1 << 30) - 5):
            f.seek(at)
            f.write(b"here!")
    lab.snapshot()
    expected = describe(tree)
    blocks = os.stat(path).st_blocks
    for spoil in (lambda: os.truncate(path, 1000), lambda: os.unlink(path),
                  lambda: write_at(path, 500 << 20, b"new" * 100000)):
        spoil()
        lab.kill(running)
        running = recover(lab)
        check_tree(tree, expected)
        check(os.stat(path).st_blocks <= blocks + 64, "holes are no holes any more")
    end_idle(lab, work, running)


def write_at(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


@case(root=True)
def nothing_outside_is_touched(lab):
    outside = lab.subdir("outside")
    write_bytes(f"{outside}/file", b"not the job's")
    write_bytes(f"{outside}/linked", b"two names")
    running, work, tree = start_idle(lab)
    os.makedirs(f"{tree}/a/b")
    write_bytes(f"{tree}/a/b/file", b"the job's")
    write_bytes(f"{tree}/plain", b"the job's")
    os.link(f"{outside}/linked", f"{tree}/linked")
    lab.snapshot()
    expected = describe(tree)
    shutil.rmtree(f"{tree}/a/b")
    os.symlink(outside, f"{tree}/a/b")
    os.unlink(f"{tree}/plain")
    os.symlink(f"{outside}/file", f"{tree}/plain")
    write_at(f"{outside}/linked", 0, b"TWO")
    before = describe(outside)
    lab.kill(running)
    running = recover(lab)
    after = describe(outside)
    for name in before:
        check_equal(after[name][:7], before[name][:7], f"outside: {name}")
    check_equal(read_bytes(f"{tree}/linked"), b"two names", "the job's own name of it")
    expected["linked"][4] = describe(tree)["linked"][4]
    check_tree(tree, expected)
    end_idle(lab, work, running)


@case(root=True)
def the_plan_tells_what_goes(lab):
    running, work, tree = start_idle(lab)
    write_bytes(f"{tree}/kept", b"kept")
    write_bytes(f"{tree}/lost", b"lost")
    lab.snapshot()
    os.makedirs(f"{tree}/later/deep")
    write_bytes(f"{tree}/later/deep/file", b"later")
    os.unlink(f"{tree}/lost")  # after the new file, which else might get its inode: that is a move
    write_bytes(f"{tree}/kept", b"changed")
    lab.kill(running)
    before = describe(tree)
    plan = lab.pawl("recover", "job", "--dry-run").out.decode()
    for line in (f"remove {tree}/later/deep/file", f"remove {tree}/later/", f"make {tree}/lost",
                 f"write {tree}/kept"):
        check(line in plan, f"the plan does not say '{line}': {plan}")
    check_tree(tree, before)
    end_idle(lab, work, recover(lab))


@case(root=True)
def missing_directory_is_made(lab):
    running, work, tree = start_idle(lab)
    make_tree(tree, lab.random, 100)
    lab.snapshot()
    expected = describe(tree)
    lab.kill(running)
    shutil.rmtree(tree)
    running = recover(lab)
    check_tree(tree, expected)
    lab.kill(running)
    shutil.rmtree(tree)
    write_bytes(tree, b"a file in its place")
    refused = lab.pawl("recover", "job", status=125)
    check(b"is no directory" in refused.err, f"{refused.err!r}")
    check_equal(read_bytes(tree), b"a file in its place", "what was in its place")
    os.unlink(tree)
    end_idle(lab, work, recover(lab))


@case(root=True)
def directory_that_comes_later(lab):
    work = lab.subdir("work")
    running = lab.run("sh", "-c", IDLE, cwd=work, options=["--save-dir", "later"])
    lab.wait_running(running)
    lab.snapshot()
    os.mkdir(f"{work}/later")
    write_bytes(f"{work}/later/file", b"x")
    lab.snapshot()
    lab.kill(running)
    running = recover(lab, "job@1")
    check(not os.path.exists(f"{work}/later"), "it was not there at the first snapshot")
    lab.kill(running)
    running = recover(lab, "job@2")
    check_equal(read_bytes(f"{work}/later/file"), b"x", "content")
    end_idle(lab, work, running)


@case(root=True)
def store_inside_is_left_out(lab):
    work = lab.subdir("work")
    lab.store = lab.env["PAWL_STORE"] = f"{work}/tree/store"
    running, work, tree = start_idle(lab)
    write_bytes(f"{tree}/file", b"1")
    lab.snapshot()
    write_bytes(f"{tree}/file", b"2")
    lab.snapshot()
    lab.kill(running)
    running = recover(lab, "job@1")
    check_equal(read_bytes(f"{tree}/file"), b"1", "content")
    check_equal(len(lab.json("list", "job")["snapshots"]
                    if isinstance(lab.json("list", "job"), dict) else lab.json("list", "job")), 2,
                "snapshots in the store")
    end_idle(lab, work, running)


@case(root=True)
def dangerous_directories_are_refused(lab):
    home = lab.subdir("home")
    for path in ("/", "/usr/lib", "/etc", "/home", "/tmp", home, lab.dir, "/proc/1", "/dev/shm/x",
                 os.path.join(lab.store, "x")):
        result = lab.pawl("run", "-n", "job", "--save-dir", path, "true", status=None,
                          env={"HOME": home})
        check(result.status != 0, f"{path}: exit {result.status}")
        check(b"--save-dir" in result.err, f"{path}: {result.err!r}")


@case(root=True)
def recovery_killed_anywhere(lab):
    running, work, tree = start_idle(lab)
    make_tree(tree, lab.random, 1500)
    lab.snapshot()
    expected = describe(tree)
    change_tree(tree, lab.random, 400)
    lab.kill(running)
    write_bytes(f"{work}/beside", b"not in the tree")
    beside = sorted(os.listdir(work))
    temporary = lab.subdir("temporary")
    for i in range(15):
        started = lab.start("recover", "job", "-i", "1h", env={"TMPDIR": temporary})
        time.sleep(lab.random.uniform(0, 0.15))
        started.send(signal.SIGKILL)
        started.wait(20)
        lab.check_gone("after a killed recovery")
        check_equal(sorted(os.listdir(work)), beside, "what lies beside the tree")
        check_equal(os.listdir(temporary), [], "temporary files")
        if i % 5 == 4:
            change_tree(tree, lab.random, 100)
    running = recover(lab)
    check_tree(tree, expected)
    end_idle(lab, work, running)


@case(root=True)
def job_that_is_attached(lab):
    work = lab.subdir("work")
    os.mkdir(f"{work}/tree")
    make_tree(f"{work}/tree", lab.random, 200)
    bare = lab.launch(["sh", "-c", IDLE], cwd=work, start_new_session=True)
    running = lab.start("attach", "-n", "job", "-i", "1h", "--save-dir", "tree", str(bare.pid), cwd=work)
    lab.wait_running(running)
    lab.snapshot()
    expected = describe(f"{work}/tree")
    shown = lab.json("show", "job")["directory_list"]
    check_equal([d["path"] for d in shown], [f"{work}/tree"], "directories shown")
    change_tree(f"{work}/tree", lab.random, 50)
    lab.pawl("stop", "job")
    running.wait(30)
    write_bytes(f"{work}/tree/after", b"the stop")
    running = recover(lab, "job@1")
    check_tree(f"{work}/tree", expected)
    end_idle(lab, work, running)


# ---- jobs that write their directories -----------------------------------------------------------

def survive(lab, script, prepare, rounds=3, shell="sh"):
    """The job bare, and under pawl with crashes at random; its directory must become the same. One that ends
    before its first crash has shown nothing, and is tried again."""
    need(shell)
    for attempt in range(5):
        crashes, bare, work = survive_once(lab, script, prepare, rounds, shell, f"-{attempt}")
        if crashes:
            return bare, work
    raise harness.Failure("the job ended before it could be killed, five times")


def survive_once(lab, script, prepare, rounds, shell, suffix):
    bare, work = lab.subdir("bare" + suffix), lab.subdir("work" + suffix)
    for path in (bare, work):
        os.mkdir(f"{path}/tree")
        prepare(path)
    expected = lab.bare([shell, "-c", script], cwd=f"{bare}/tree")
    check_equal(expected.status, 0, f"bare run ({expected.err[-400:]!r})")
    running = lab.run(shell, "-c", script, cwd=f"{work}/tree", options=["--save-dir", "."])
    lab.wait_running(running)
    crashes = 0
    for _ in range(rounds):
        for _ in range(2):
            time.sleep(lab.random.uniform(0, expected.seconds / (2 * rounds)))
            if running.alive():
                lab.snapshot(watchdog=running)
        time.sleep(lab.random.uniform(0, min(0.3, expected.seconds / (4 * rounds))))
        if not running.alive():
            break
        lab.kill(running)
        crashes += 1
        running = lab.recover()
    result = running.wait(300)
    check_equal(result.status, 0, f"exit after {crashes} crashes: {result.err[-600:]!r}")
    check_equal(lab.log(), expected.out, "log")
    lab.verify()
    return crashes, f"{bare}/tree", f"{work}/tree"


def same_files(bare, work, ignore=()):
    expected = harness.directory_contents(bare, ignore)
    found = harness.directory_contents(work, ignore)
    check_equal(sorted(found), sorted(expected), "files")
    for name in expected:
        check_equal(found[name], expected[name], name)


def project(path, sources=40):
    rule = "CFLAGS = -O2 -g0\nobjects = $(patsubst %.c,%.o,$(wildcard *.c))\n" \
           "program: $(objects)\n\tgcc -o $@ $(sort $(objects))\n" \
           "%.o: %.c all.h\n\tgcc $(CFLAGS) -c -o $@ $<\n"
    write_bytes(f"{path}/tree/Makefile", rule.encode())
    calls = "".join(f"int f{i}(int);\n" for i in range(sources))
    write_bytes(f"{path}/tree/all.h", b"#include <stdio.h>\n#include <stdlib.h>\n" + calls.encode())
    for i in range(sources):
        body = "".join(f"int g{i}_{j}(int x) {{ return x * {j} + (int)strtol(\"{i}\", 0, 10); }}\n"
                       for j in range(60))
        write_bytes(f"{path}/tree/s{i}.c", f'#include "all.h"\n{body}int f{i}(int x) '
                    f'{{ return g{i}_3(x) ^ g{i}_7(x); }}\n'.encode())
    main = "".join(f"x = f{i}(x);\n" for i in range(sources))
    write_bytes(f"{path}/tree/main.c", f'#include "all.h"\nint main(void) {{ int x = 1; {main}'
                'printf("%d\\n", x); return 0; }\n'.encode())


@case(root=True)
def build(lab):
    need("gcc")
    bare, work = survive(lab, "TMPDIR=. make -s -j3 program && ./program", project)
    same_files(bare, work)
    again = lab.bare(["make", "-q", "program"], cwd=work)
    check_equal(again.status, 0, "make finds everything up to date")


@case(root=True)
def archives(lab):
    """Directories that are made again have other inode numbers: an rm on its way may take one for a cycle."""
    def prepare(path):
        os.mkdir(f"{path}/source")
        rng = __import__("random").Random(7)
        for i in range(400):
            os.makedirs(f"{path}/source/{i % 20}", exist_ok=True)
            write_bytes(f"{path}/source/{i % 20}/{i}", rng.randbytes(3000))
        os.system(f"cd {path} && tar --mtime=@1 --owner=0 --group=0 --sort=name -cf a.tar source")

    bare, work = survive(lab, """
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
            tar -xf ../a.tar || exit 1
            cat source/*/* | sha256sum >> sums || exit 1
            rm -r source || rm -r source || exit 1
        done
        tar -xf ../a.tar""", prepare)
    same_files(bare, work)


@case(root=True)
def database_with_a_journal(lab):
    need("sqlite3")

    def prepare(path):
        rows = "".join(f"BEGIN; INSERT INTO t VALUES({i}, hex(zeroblob({i % 300}))); "
                       f"UPDATE t SET b = 'x' || b WHERE a % 17 = {i % 17}; COMMIT;\n"
                       for i in range(1500))
        write_bytes(f"{path}/script", b"PRAGMA journal_mode=DELETE;\nPRAGMA synchronous=OFF;\n"
                    b"CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\n" + rows.encode())

    bare, work = survive(lab, "sqlite3 data < ../script", prepare)
    dumps = [lab.bare(["sqlite3", "data", ".dump"], cwd=path).out for path in (bare, work)]
    check_equal(dumps[1], dumps[0], "dump of the database")
    check_equal(sorted(os.listdir(work)), sorted(os.listdir(bare)), "files")


@case(root=True)
def sort_with_temporary_files(lab):
    def prepare(path):
        rng = __import__("random").Random(3)
        with open(f"{path}/input", "w") as f:
            for _ in range(400000):
                f.write(f"{rng.randrange(10**12)}\n")

    bare, work = survive(lab, """
        for key in 1.1 1.3 1.5 1.7 1.9; do
            TMPDIR=. sort -k $key -S 1M --parallel=1 --batch-size=4 ../input > sorted.$key || exit 1
        done""", prepare)
    same_files(bare, work)


@case(root=True)
def write_and_rename(lab):
    bare, work = survive(lab, """
        i=0
        while [ $i -lt 600 ]; do
            i=$((i + 1))
            { test -e state && tail -n 200 state; echo "line $i"; } > state.new || exit 1
            test $((i % 50)) != 0 || cp -p state.new kept.$i || exit 1
            mv state.new state || exit 1
            mkdir -p d$((i % 7)) && echo $i >> d$((i % 7))/log || exit 1
            test $((i % 100)) != 0 || rm -r d3 || rm -r d3 || exit 1
        done""", lambda path: None)
    same_files(bare, work)


if __name__ == "__main__":
    harness.main()
