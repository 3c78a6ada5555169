"""Control groups that a job makes below its own."""
import errno
import os
import shlex

import harness
from harness import Skip, case, check_equal, wait_until

JOB = """
group=$1
mkdir -p $group/inner
(echo $BASHPID > $group/inner/cgroup.procs; while :; do sleep 0.1; done) &
child=$!
echo $$ > $group/cgroup.procs
touch ready
while [ ! -e go ]; do sleep 0.05; done
grep -h ^0:: /proc/$$/cgroup /proc/$child/cgroup
kill $child
"""


def own_group():
    """Directory and path of our group in the unified hierarchy."""
    mounts = harness.read_bytes("/proc/self/mountinfo").decode().splitlines()
    place = next((line.split()[4] for line in mounts if " - cgroup2 " in line), None)
    lines = harness.read_bytes("/proc/self/cgroup").decode().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if not place or not path:
        raise Skip("no unified hierarchy of control groups")
    return place + path.rstrip("/"), path.rstrip("/")


def is_removed(directory):
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def remove(group):
    """What was killed is out of /proc's sight a moment before it is out of its group."""
    for directory in (os.path.join(group, "inner"), group):
        wait_until(lambda: is_removed(directory), 20, f"{directory} is removed")


@case(root=True)
def control_groups_of_the_job(lab):
    """They are made again, and its processes are in them."""
    harness.need("bash")
    directory, path = own_group()
    name = f"pawl-test-{os.getpid()}-{lab.random.randrange(10**6)}"
    group = os.path.join(directory, name)
    if not os.access(directory, os.W_OK) or not os.access(os.path.join(directory, "cgroup.procs"), os.W_OK):
        raise Skip("our control group is not delegated to us")
    work = lab.subdir("work")
    try:
        watchdog = lab.run("bash", "-c", JOB, "job", shlex.quote(group), cwd=work)
        wait_until(lambda: os.path.exists(os.path.join(work, "ready")), 60, "the job is ready")
        lab.snapshot()
        lab.kill(watchdog)
        remove(group)
        watchdog = lab.recover()
        lab.wait_running(watchdog)
        lab.snapshot()
        harness.write_bytes(os.path.join(work, "go"), b"")
        result = watchdog.wait(60)
        check_equal(result.out.decode().split(), [f"0::{path}/{name}", f"0::{path}/{name}/inner"], "control groups")
    finally:
        remove(group)


if __name__ == "__main__":
    harness.main()
