#!/usr/bin/python3
"""A job under Slurm is requeued, pre-empted, timed out, and its node lost, and ends as if nothing had been.

Starts munge, slurmctld and two slurmd of its own on this machine, with ports and directories of their own,
and stops them again. Needs root (slurmd switches users), slurm-wlm and munge; else exits 77.

Usage: slurm.py --pawl FILE [--keep]
"""
import argparse
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

USER = "pawltest"
PATIENCE = 180
HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "..", "..", "tools", "slurm", "job.sh")

JOB = """
import sys, time
total = 0
with open('numbers', 'w') as f:
    for i in range(1, int(sys.argv[1]) + 1):
        total = (total * 31 + i) % 1000003
        f.write(f'{i} {total}\\n')
        f.flush()
        time.sleep(0.05)
"""

CONFIG = """
ClusterName=pawl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=60
KillWait=30
MinJobAge=3600
InactiveLimit=0
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
RequeueExit=85
JobCompType=jobcomp/filetxt
JobCompLoc={dir}/jobcomp
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
"""


class Failure(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failure(message)


def wait_until(condition, what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise Failure(f"not within {seconds} s: {what}")


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def descendants(pid):
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as f:
                parents.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
        except OSError:
            continue
    found, more = [], [pid]
    while more:
        children = parents.get(more.pop(), [])
        found += children
        more += children
    return found


def ancestors(pid):
    found = [pid]
    while found[-1] > 1:
        try:
            with open(f"/proc/{found[-1]}/stat") as f:
                found.append(int(f.read().rsplit(")", 1)[1].split()[1]))
        except OSError:
            break
    return found


def comm_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


class Cluster:
    def __init__(self, pawl):
        self.dir = tempfile.mkdtemp(prefix="pawl-slurm-")
        os.chmod(self.dir, 0o755)
        self.user = pwd.getpwnam(USER)
        self.daemons = {}
        self.env = dict(os.environ, SLURM_CONF=os.path.join(self.dir, "slurm.conf"), LC_ALL="C.UTF-8")
        self.pawl = os.path.join(self.dir, "pawl")
        shutil.copy(pawl, self.pawl)
        self.work = os.path.join(self.dir, "work")
        for name in ("work", "tmp"):
            os.mkdir(os.path.join(self.dir, name))
            os.chown(os.path.join(self.dir, name), self.user.pw_uid, self.user.pw_gid)
        for name in ("state", "spool-n1", "spool-n2"):
            os.mkdir(os.path.join(self.dir, name))

    def path(self, name):
        return os.path.join(self.dir, name)

    def daemon(self, name, *argv):
        with open(self.path(name + ".log"), "ab") as log:
            self.daemons[name] = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL,
                                                  stdout=log, stderr=log, cwd=self.dir)

    def start(self):
        with open(self.path("munge.key"), "wb") as f:
            f.write(os.urandom(128))
        os.chmod(self.path("munge.key"), 0o400)
        self.daemon("munged", "munged", "--foreground", "--force", "--key-file=" + self.path("munge.key"),
                    "--socket=" + self.path("munge.sock"), "--pid-file=" + self.path("munged.pid"),
                    "--log-file=" + self.path("munged.log"), "--seed-file=" + self.path("munge.seed"))
        wait_until(lambda: os.path.exists(self.path("munge.sock")), "munge runs")
        with open(self.path("slurm.conf"), "w") as f:
            # cred_expire: a requeued job waits until its old credential is none any more (120 s by default)
            f.write(CONFIG.format(dir=self.dir, host=socket.gethostname().split(".")[0], ports=free_ports(3)))
        self.daemon("slurmctld", "slurmctld", "-D", "-c")
        self.start_node("n1")
        self.start_node("n2")
        wait_until(lambda: self.slurm("sinfo", "-h", "-t", "idle", "-o", "%D", "-p", "low", status=None)
                   .strip() == "2", "both nodes are idle")

    def start_node(self, name):
        self.daemon(name, "slurmd", "-D", "-N", name)

    def lose_node(self, name):
        """The node dies: slurmd, and all that it has started."""
        slurmd = self.daemons.pop(name)
        # Each slurmstepd is a daemon of its own; what it runs names its node.
        victims = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/environ", "rb") as f:
                    environ = f.read()
            except OSError:
                continue
            if f"SLURMD_NODENAME={name}".encode() in environ and self.dir.encode() in environ:
                victims.append(int(entry))
        # Slurm's own first: of a node that is dead nobody reports how its jobs have ended.
        steps = [a for pid in victims for a in ancestors(pid) if comm_of(a).startswith("slurmstepd")]
        jobs = [d for pid in steps for d in descendants(pid)]
        for pid in [slurmd.pid, *steps, *victims, *jobs]:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        slurmd.wait()

    def slurm(self, *argv, status=0, user=None):
        prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        result = subprocess.run([*prefix, *argv], env=dict(self.env, HOME=self.user.pw_dir), text=True,
                                capture_output=True, cwd=self.work, timeout=PATIENCE,
                                stdin=subprocess.DEVNULL)
        if status is not None and result.returncode != status:
            raise Failure(f"{' '.join(argv)}: exit {result.returncode}: {result.stderr}{result.stdout}")
        return result.stdout

    def submit(self, *argv, options=(), variables=()):
        out = self.slurm("sbatch", "--parsable", "-o", self.path("work/out-%j"), *options,
                         "--export=" + ",".join(["ALL", *variables]), *argv, user=USER)
        return out.strip().split(";")[0]

    def show(self, job):
        text = self.slurm("scontrol", "show", "job", job)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def stop(self, keep):
        for name in ("n1", "n2", "slurmctld", "munged"):
            if name in self.daemons:
                if name in ("n1", "n2"):
                    self.lose_node(name)
                else:
                    self.daemons[name].terminate()
                    self.daemons[name].wait(30)
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)


class Test:
    def __init__(self, cluster, rounds):
        self.c, self.rounds, self.seen = cluster, rounds, []
        with open(cluster.path("work/job.py"), "w") as f:
            f.write(JOB)

    def running(self):
        info = self.c.show(self.job)
        return info if info["JobState"] == "RUNNING" else None

    def lines(self):
        try:
            with open(self.c.path("work/numbers"), "rb") as f:
                return f.read().count(b"\n")
        except OSError:
            return 0

    def saved_at(self):
        """Snapshots in the replica since the run began: the newest entry's name."""
        folder = self.c.path(f"replica/jobs/sim-{self.job}/snapshots")
        return max((int(n.split("-")[0]) for n in os.listdir(folder) if "-" in n), default=0) \
            if os.path.isdir(folder) else 0

    def settle(self, restarts, what):
        """The job runs again after so many restarts, makes progress and has been saved since."""
        def again():
            info = self.running()
            return info if info and int(info["Restarts"]) >= restarts else None
        info = wait_until(again, f"the job runs again after {what}")
        saved, lines = self.saved_at(), self.lines()
        wait_until(lambda: self.saved_at() > saved and self.lines() > 0, f"it is saved after {what}")
        self.seen.append((what, info["BatchHost"], self.lines()))
        print(f"  after {what}: on {info['BatchHost']}, line {self.lines()} of {self.rounds}", flush=True)
        return info

    def main(self):
        variables = [f"PAWL={self.c.pawl}", f"PAWL_REPLICA=dir:{self.c.path('replica')}",
                     "PAWL_INTERVAL=1s", f"TMPDIR={self.c.path('tmp')}"]
        os.mkdir(self.c.path("replica"), 0o700)
        os.chown(self.c.path("replica"), self.c.user.pw_uid, self.c.user.pw_gid)
        self.job = self.c.submit(SCRIPT, "python3", "job.py", str(self.rounds),
                                 options=["-J", "sim", "-n1", "-p", "low"], variables=variables)
        info = self.settle(0, "its launch")
        self.move(info)
        before = info["BatchHost"]
        info = self.settle(1, "scontrol requeue to the other node")
        check(info["BatchHost"] != before, "it is on the same node")
        self.preempt()
        info = self.settle(2, "pre-emption")
        self.c.slurm("scancel", "--batch", "--signal=TERM", self.job)  # what --signal sends at the time limit
        info = self.settle(3, "the signal of the time limit")
        self.c.lose_node(info["BatchHost"])
        wait_until(lambda: self.c.show(self.job)["JobState"] == "PENDING", "it is in the queue again")
        self.c.slurm("scontrol", "update", f"JobId={self.job}", "ExcNodeList=")  # of the first move
        info = self.settle(4, "the loss of its node")
        wait_until(lambda: self.c.show(self.job)["JobState"] not in ("RUNNING", "COMPLETING"), "it ends", 600)
        self.check_end()

    def move(self, info):
        """Away from its node, as a balancer would."""
        self.c.slurm("scontrol", "requeue", self.job)
        wait_until(lambda: self.c.show(self.job)["JobState"] == "PENDING", "it is in the queue again")
        self.c.slurm("scontrol", "update", f"JobId={self.job}", f"ExcNodeList={info['BatchHost']}")

    def preempt(self):
        other = [self.c.submit("--wrap=sleep 5", options=["-p", "high", "-n1"]) for _ in range(2)]
        wait_until(lambda: all(self.c.show(j)["JobState"] == "COMPLETED" for j in other),
                   "the jobs that took its place end")

    def check_end(self):
        info = self.c.show(self.job)
        check(info["JobState"] == "COMPLETED", f"state {info['JobState']}, reason {info.get('Reason')}")
        check(info["ExitCode"] == "0:0", f"exit code {info['ExitCode']}")
        with open(self.c.path("work/numbers")) as f:
            got = f.read()
        total, lines = 0, []
        for i in range(1, self.rounds + 1):
            total = (total * 31 + i) % 1000003
            lines.append(f"{i} {total}\n")
        check(got == "".join(lines), "the job's file is not that of an undisturbed run")
        with open(self.c.path("jobcomp")) as f:
            records = [line for line in f if f"JobId={self.job} " in line]
        check(records and "JobState=COMPLETED" in records[-1], f"Slurm's record: {records[-1:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pawl", required=True)
    parser.add_argument("--programs")
    parser.add_argument("--rounds", type=int, default=800)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    missing = [p for p in ("slurmctld", "slurmd", "munged", "setpriv") if not shutil.which(p)]
    if missing or os.getuid() != 0:
        print(f"skip: {'needs root' if os.getuid() else 'not installed: ' + ', '.join(missing)}")
        return 77
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "-m", USER], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cluster = Cluster(options.pawl)
    try:
        cluster.start()
        Test(cluster, options.rounds).main()
    except Failure as failure:
        print(f"FAIL slurm: {failure} ({cluster.dir})")
        return 1
    finally:
        cluster.stop(options.keep)
    print("ok   slurm")
    print("1 passed, 0 failed, 0 skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
