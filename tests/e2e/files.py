"""Files of a job outside any --save-dir: what happened to them since the snapshot, and --files."""
import os
import shutil
import stat
import time

import harness
from harness import case, check, check_equal, read_bytes, wait_until, write_bytes

# Writes a line to each of its files when it is told to, and again what it reads.
JOB = """
exec 3>>sub/out 5<input
echo first >&3; : > ready
until test -e go; do sleep 0.05; done
echo second >&3
cat <&5
"""
EXPECTED = b"first\nsecond\n"


def start(lab, *options, script=JOB, made="sub/out"):
    work = lab.subdir("work")
    os.makedirs(f"{work}/sub", exist_ok=True)
    write_bytes(f"{work}/input", b"the input\n")
    write_bytes(f"{work}/job.sh", script.encode())
    past = time.time_ns() - 10**11
    for name in ("input", "job.sh"):
        os.utime(f"{work}/{name}", ns=(past, past))
    running = lab.run("sh", "job.sh", cwd=work, options=options)
    wait_until(lambda: os.path.exists(f"{work}/ready") or not running.alive(), 30, "ready")
    return running, work, f"{work}/{made}"


def finish(lab, work, status=0):
    write_bytes(f"{work}/go", b"")
    result = lab.pawl("recover", "job", status=None)
    check_equal(result.status, status, f"exit of recover: {result.err[-500:]!r}")
    return result


def after(spoil):
    """A crash, then spoil(path, lab) happens to the file the job has open for appending."""
    def run(lab):
        running, work, path = start(lab)
        lab.snapshot()
        lab.kill(running)
        spoil(path, lab)
        finish(lab, work)
        check_equal(read_bytes(path), EXPECTED, "the job's file")
        check(stat.S_ISREG(os.lstat(path).st_mode), "it is no regular file")
        check_equal(lab.log(), b"the input\n", "log")
    return run


def appended(path, lab):
    with open(path, "ab") as f:
        f.write(b"by another program\n" * 1000)


def changed_in_place(path, lab):
    with open(path, "r+b") as f:
        f.write(b"FIR")


def replaced(path, lab):
    write_bytes(path + ".new", b"quite another file")
    os.replace(path + ".new", path)


def mode_changed(path, lab):
    os.chmod(path, 0o400)


def directory_deleted(path, lab):
    shutil.rmtree(os.path.dirname(path))


for name, spoil in (("appended", appended), ("changed_in_place", changed_in_place),
                    ("truncated", lambda path, lab: os.truncate(path, 2)),
                    ("deleted", lambda path, lab: os.unlink(path)), ("replaced", replaced),
                    ("mode_changed", mode_changed), ("directory_deleted", directory_deleted)):
    harness.add_case(f"written_file_{name}", after(spoil), root=True)


@case(root=True)
def link_in_place_of_a_file_is_not_followed(lab):
    running, work, path = start(lab)
    lab.snapshot()
    lab.kill(running)
    write_bytes(f"{work}/theirs", b"somebody else's")
    os.unlink(path)
    os.symlink(f"{work}/theirs", path)
    refused = finish(lab, work, 125)
    check(b"symbolic link" in refused.err and b"sub/out" in refused.err, f"{refused.err!r}")
    check_equal(read_bytes(f"{work}/theirs"), b"somebody else's", "the file behind the link")
    os.unlink(path)
    finish(lab, work)
    check_equal(read_bytes(path), EXPECTED, "the job's file")


@case(root=True)
def rule_truncate(lab):
    running, work, path = start(lab, "--files", "truncate:*/out")
    lab.snapshot()
    lab.kill(running)
    write_bytes(path, b"FIRST\nmore and more\n")
    finish(lab, work)
    check_equal(read_bytes(path), b"FIRST\nsecond\n", "cut back, its content untouched")


@case(root=True)
def rule_leave(lab):
    running, work, path = start(lab, "--files", "save", "--files", "leave:*/sub/*")
    lab.snapshot()
    lab.kill(running)
    appended(path, lab)
    size = os.path.getsize(path)
    finish(lab, work)
    check_equal(os.path.getsize(path), size + len(b"second\n"), "size of the file that is left alone")


@case(root=True)
def rule_fail(lab):
    running, work, path = start(lab, "--files", "fail:*/out")
    refused = lab.pawl("snapshot", "job", status=1)
    check(b"sub/out is open for writing (--files fail)" in refused.err, f"{refused.err!r}")
    check(running.alive(), "the job goes on")
    write_bytes(f"{work}/go", b"")
    check_equal(running.wait(30).status, 0, "exit of the job")
    check_equal(read_bytes(path), EXPECTED, "the job's file")


@case(root=True)
def size_limit(lab):
    running, work, path = start(lab, "--max-file-size", "100K")
    lab.snapshot()
    os.truncate(path, 200000)
    refused = lab.pawl("snapshot", "job", status=1)
    check(b"sub/out is larger than the limit" in refused.err, f"{refused.err!r}")
    lab.kill(running)
    finish(lab, work)
    check_equal(read_bytes(path), EXPECTED, "the job's file")


@case(root=True)
def input_changed_is_warned_of(lab):
    running, work, path = start(lab)
    lab.snapshot()
    lab.kill(running)
    write_bytes(f"{work}/input", b"another input\n")
    result = finish(lab, work)
    check(b"warning" in result.err and b"/input, which the job reads, has changed" in result.err,
          f"{result.err!r}")
    check_equal(lab.log(), b"another input\n", "log")


@case(root=True)
def input_gone_is_refused(lab):
    running, work, path = start(lab)
    lab.snapshot()
    lab.kill(running)
    appended(path, lab)
    size = os.path.getsize(path)
    os.rename(f"{work}/input", f"{work}/elsewhere")
    refused = finish(lab, work, 125)
    check(b"/input is gone since the snapshot" in refused.err, f"{refused.err!r}")
    check_equal(os.path.getsize(path), size, "nothing is put back where nothing is recovered")
    os.rename(f"{work}/elsewhere", f"{work}/input")
    finish(lab, work)


@case(root=True)
def input_saved_by_rule(lab):
    running, work, path = start(lab, "--files", "save:*/input")
    lab.snapshot()
    lab.kill(running)
    os.unlink(f"{work}/input")
    finish(lab, work)
    check_equal(lab.log(), b"the input\n", "log")
    check(not os.path.exists(f"{work}/input"), "an input is not put back")


@case(root=True)
def own_file_that_is_read_now(lab):
    """Written and closed by the job, open for reading at the snapshot, gone since: as sort's temporary files."""
    running, work, path = start(lab, script="""
        head -c 300000 /dev/zero | tr '\\0' x > made
        exec 5< made; : > ready
        until test -e go; do sleep 0.05; done
        cmp made /dev/fd/5 && rm made && wc -c <&5 | tr -d ' '""")
    lab.snapshot()
    lab.kill(running)
    os.unlink(f"{work}/made")
    running = lab.recover()
    wait_until(lambda: os.path.exists(f"{work}/made"), 20, "put back")
    lab.snapshot()
    lab.kill(running)
    write_bytes(f"{work}/made", b"short")
    finish(lab, work)
    check(not os.path.exists(f"{work}/made"), "the job has removed it")


@case(root=True)
def program_changed_on_disk(lab):
    work = lab.subdir("work")
    shutil.copy("/bin/sleep", f"{work}/program")
    running = lab.run("./program", "3", cwd=work)
    lab.wait_running(running)
    time.sleep(0.3)
    lab.snapshot()
    lab.kill(running)
    os.unlink(f"{work}/program")
    write_bytes(f"{work}/program", b"#!/bin/false\n")
    check_equal(lab.pawl("recover", "job").status, 0, "exit")
    check_equal(read_bytes(f"{work}/program"), b"#!/bin/false\n", "what is on disk now")


if __name__ == "__main__":
    harness.main()
