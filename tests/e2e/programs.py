"""Real programs: bare run, three snapshots, SIGKILL, recovery, the same output and files."""
import os
import random
import subprocess
import time

import harness
from harness import add_case, case, check, check_equal, need, read_bytes, survive, write_bytes

PYTHON = r"""
import hashlib
table = {}
for round in range(%d):
    for i in range(2000):
        key = hashlib.sha256(b"%%d %%d" %% (round, i)).hexdigest()
        table[key[:4]] = table.get(key[:4], "") + key[4:6]
    text = "".join(sorted(table.items()).__repr__())
    print(round, len(table), hashlib.md5(text.encode()).hexdigest(), flush=True)
"""

NUMPY = r"""
import hashlib, threading
import numpy as np
rng = np.random.default_rng(7)
parts = [rng.random((400, 400)) for _ in range(4)]
def work(i):
    a = parts[i] @ parts[i].T
    parts[i] = a / np.abs(a).max() + np.sin(parts[i])
for round in range(%d):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(round, hashlib.md5(b"".join(p.tobytes() for p in parts)).hexdigest(), flush=True)
"""

PERL = r"""
use strict; my %%count; my $x = 1;
open(my $out, '>', 'result') or die;
for my $round (1 .. %d) {
    for (1 .. 40000) { $x = ($x * 1103515245 + 12345) %% 2147483648; $count{$x %% 50021} .= chr(65 + $x %% 26); }
    my $sum = 0; $sum += length($count{$_}) * $_ for keys %%count;
    print "$round $x $sum\n"; print $out "$round $sum\n";
}
"""

AWK = r"""
BEGIN {
    x = 1
    for (round = 1; round <= %d; round++) {
        for (i = 0; i < 60000; i++) { x = (x * 16807) %% 2147483647; count[x %% 40009] += i; text = substr(text x, 1, 50) }
        print round, x, text > "result"
        print round, x, count[x %% 40009]
    }
}
"""

SQL = """
PRAGMA cache_size=200;
CREATE TABLE item(id INTEGER PRIMARY KEY, a INTEGER, b TEXT);
CREATE INDEX item_a ON item(a);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
INSERT INTO item SELECT i, (i * 7919) %% 1000003, hex(i * i) || 'xyz' FROM n;
COMMIT;
SELECT count(*), sum(a), max(b) FROM item;
UPDATE item SET b = b || a WHERE id %% 3 = 0;
SELECT sum(length(b)) FROM item;
"""

JAVA = r"""
import java.util.*;
public class Work {
    public static void main(String[] args) {
        HashMap<Long, StringBuilder> map = new HashMap<>();
        long x = 1;
        for (int round = 0; round < %d; round++) {
            for (int i = 0; i < 300000; i++) {
                x = x * 6364136223846793005L + 1442695040888963407L;
                map.computeIfAbsent((x >>> 40) %% 20011, k -> new StringBuilder()).append((char) ('a' + (x >>> 60)));
            }
            long sum = 0;
            for (Map.Entry<Long, StringBuilder> e : map.entrySet()) sum += e.getKey() * e.getValue().length();
            if (round %% 8 == 7) map.values().forEach(s -> s.setLength(0));
            System.out.println(round + " " + x + " " + sum);
        }
    }
}
"""

OCTAVE = r"""
rand("twister", 1); a = rand(300);
for round = 1:%d
  a = a * a'; a = a / max(abs(a(:))) + eye(300) * 0.01;
  s = sum(svd(a)); printf("%%d %%.15g\n", round, s); fflush(stdout);
end
"""


def script(text, rounds, name):
    """A prepare function that puts a program's source into the working directory."""
    return lambda path: write_bytes(os.path.join(path, name), (text % rounds).encode())


def compressible(megabytes):
    """The same half-compressible bytes each time."""
    def prepare(path):
        rng = random.Random(3)
        with open(os.path.join(path, "data"), "wb") as f:
            for _ in range(megabytes * 16):
                f.write(rng.randbytes(32768) + bytes(rng.randrange(4) for _ in range(1024)) * 32)
        os.utime(os.path.join(path, "data"), (1, 1))
    return prepare


def c_source(functions):
    """A large C file for the compiler, without anything to preprocess."""
    def prepare(path):
        rng = random.Random(5)
        with open(os.path.join(path, "big.i"), "w", encoding="ascii") as f:
            for n in range(functions):
                body = "".join(f"  for (i = 0; i < {rng.randrange(9, 99)}; i++) "
                               f"a[i & 15] = a[{rng.randrange(16)}] * {rng.randrange(3, 999)} + b[i & 7];\n"
                               for _ in range(12))
                f.write(f"long f{n}(long *a, long *b)\n{{\n  long i;\n{body}  return a[{n % 16}];\n}}\n")
    return prepare


def sqlite(lab, rows, **options):
    program = need("sqlite3")
    path = os.path.join(lab.dir, "script.sql")
    write_bytes(path, (SQL % rows).encode())
    survive(lab, [program, "base.db"], stdin=path, **options)


def cc1(lab, functions, **options):
    need("gcc")
    found = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True)
    survive(lab, [found.stdout.strip(), "-quiet", "-O2", "-fpreprocessed", "big.i", "-o", "big.s"],
            prepare=c_source(functions), **options)


def java(lab, rounds, **options):
    need("java"), need("javac")
    classes = lab.subdir("classes")
    source = os.path.join(classes, "Work.java")
    write_bytes(source, (JAVA % rounds).encode())
    subprocess.run(["javac", "-d", classes, source], check=True, capture_output=True)
    survive(lab, [need("java"), "-Xmx256m", "-cp", classes, "Work"], **options)


def numpy(lab, rounds, **options):
    python = need("python3")
    if subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode:
        raise harness.Skip("python3-numpy is not installed")
    survive(lab, [python, "work.py"], prepare=script(NUMPY, rounds, "work.py"), **options)


def python(lab, rounds, **options):
    survive(lab, [need("python3"), "work.py"], prepare=script(PYTHON, rounds, "work.py"), **options)


def perl(lab, rounds, **options):
    survive(lab, [need("perl"), "work.pl"], prepare=script(PERL, rounds, "work.pl"), **options)


def awk(lab, rounds, **options):
    survive(lab, [need("awk"), "-f", "work.awk"], prepare=script(AWK, rounds, "work.awk"), **options)


def octave(lab, rounds, **options):
    survive(lab, [need("octave-cli"), "--quiet", "--no-gui", "work.m"],
            prepare=script(OCTAVE, rounds, "work.m"), **options)


def xz(lab, megabytes, **options):
    survive(lab, [need("xz"), "-9", "-T2", "-k", "--block-size=2MiB", "data"],
            prepare=compressible(megabytes), **options)


def target(name, *fixed):
    def run(lab, rounds, **options):
        survive(lab, [lab.target(name), str(rounds), *fixed], **options)
    run.__name__ = name.removeprefix("target-")
    return run


def pagejob(lab, steps, **options):
    survive(lab, [lab.target("pagejob"), "192", "8", "50", str(steps), "2"], **options)


def openmp(lab, rounds, **options):
    lab.env["OMP_NUM_THREADS"] = "4"
    survive(lab, [lab.target("target-openmp"), str(rounds), "20"], **options)


# program, size of the quick run, size of the long one (None: long only / quick only)
PROGRAMS = [
    (python, 60, 130), (numpy, 50, 300), (perl, 70, 200), (awk, 60, 250), (sqlite, 400000, 2000000),
    (xz, 12, 80), (cc1, 350, 800), (java, 300, 1000), (octave, None, 300),
    (target("target-counter", "10", "result"), 300, 1000),
    (target("target-counter-static", "10", "result"), 300, 1000),
    (target("target-threads64", "10"), 200, 800), (target("target-floatsum", "5"), 200, 800),
    (openmp, 120, 500), (pagejob, 100, 300),
]
ROOT = {python, cc1, pagejob}


def sized(function, size, **options):
    return lambda lab: function(lab, size, **options)


def add_programs():
    for function, quick, long in PROGRAMS:
        name = function.__name__
        if quick:
            add_case(name, sized(function, quick, in_snapshot=name in ("pagejob", "python")),
                     root=function in ROOT)
        if long:
            add_case(f"{name}-long", sized(function, long), long=True, root=True)
            add_case(f"{name}-killed-in-snapshot", sized(function, long, in_snapshot=True), long=True,
                     root=True)
            add_case(f"{name}-from-2", sized(function, long, recover=2), long=True, root=True)


@case(root=True)
def recover_an_earlier_snapshot(lab):
    survive(lab, [lab.target("target-counter"), "400", "10", "result"], recover=2)


@case()
def recover_again_and_again(lab):
    """Killed and recovered five times on its way; the snapshots of all lives form one history."""
    argv = [lab.target("target-counter"), "500", "10", "result"]
    expected = lab.bare(argv, cwd=lab.subdir("bare"))
    running = lab.run(*argv, cwd=lab.subdir("work"))
    for life in range(5):
        time.sleep(lab.random.uniform(0.1, 0.5))
        check_equal(lab.snapshot()["seq"], life + 1, "snapshot number")
        lab.kill(running)
        running = lab.start("recover", "job", "-i", "1h")
    check_equal(running.wait(60).status, 0, "exit")
    harness.compare(lab, expected, lab.pawl("log", "job"), lab.subdir("bare"), lab.subdir("work"))


@case()
def standard_output_to_a_file(lab):
    """`pawl run … > out`: out is one of the job's files, rolled back with it."""
    argv = [lab.target("target-counter"), "800", "10"]
    expected = lab.bare(argv)
    path = os.path.join(lab.dir, "out")
    with open(path, "wb") as out:
        watchdog = lab.run(*argv, stdout=out)
    time.sleep(0.5)
    lab.snapshot()
    time.sleep(0.5)
    lab.kill(watchdog)
    check(len(read_bytes(path)) < len(expected.out), "the job ended too early")
    lab.pawl("recover", "job")
    check_equal(read_bytes(path), expected.out, "out")


@case(root=True)
def periodic_snapshots(lab):
    """-i alone saves; after a crash the newest one serves."""
    argv = [lab.target("target-counter"), "800", "10", "result"]
    expected = lab.bare(argv, cwd=lab.subdir("bare"))
    begun = time.monotonic()
    watchdog = lab.run(*argv, options=["-i", "300ms"], cwd=lab.subdir("work"))
    lab.wait_running(watchdog)
    harness.wait_until(lambda: len(lab.json("list", "job")) >= 4 or not watchdog.alive(), 60, "four snapshots")
    check(watchdog.alive(), "the job has ended before its fourth snapshot")
    taken = len(lab.json("list", "job"))
    check(taken <= (time.monotonic() - begun) / 0.3 + 1, f"{taken} snapshots, more often than every 300 ms")
    lab.kill(watchdog)
    harness.finish(lab, expected, lab.subdir("bare"), lab.subdir("work"))


add_programs()

if __name__ == "__main__":
    harness.main()
