"""A job as a service: what systemd is told over its socket, when, and what the job sees of it."""
import os
import signal
import socket
import threading
import time

import harness
from harness import case, check, check_equal, wait_until


class Manager:
    """Stands for systemd: collects (time, {name: value}) of every datagram."""

    def __init__(self, lab, abstract=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.name = f"@pawl-{os.getpid()}-{id(self)}" if abstract else os.path.join(lab.dir, "notify")
        self.socket.bind(self.name.replace("@", "\0", 1) if abstract else self.name)
        self.heard = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            text = self.socket.recv(4096).decode()
            self.heard.append((time.monotonic(),
                               dict(line.split("=", 1) for line in text.splitlines())))

    def values(self, name):
        return [message[name] for _, message in self.heard if name in message]

    def wait(self, name, value=None, seconds=60):
        wait_until(lambda: any(value is None or value in v for v in self.values(name)), seconds,
                   f"{name}={value or ''} among {self.heard}")

    def env(self, **more):
        return dict(NOTIFY_SOCKET=self.name, **more)


@case(root=True)
def life_of_a_service(lab):
    """Ready when it runs, its state in words, stopping and more time for the last snapshot; then resumed."""
    manager = Manager(lab)
    watchdog, directory = harness.start_target(lab, "tls", env=manager.env())
    manager.wait("READY", "1")
    manager.wait("STATUS", "job runs")
    lab.snapshot()
    manager.wait("STATUS", "saved as job@1")
    check_equal(manager.values("STOPPING"), [], "stopping too early")
    watchdog.send(signal.SIGTERM)
    check_equal(watchdog.wait().status, harness.STOPPED_EXIT, "exit")
    manager.wait("STOPPING", "1")
    manager.wait("STATUS", "goes on from job@2")
    check(int(manager.values("EXTEND_TIMEOUT_USEC")[0]) >= 10_000_000, "patience")
    again = Manager(lab, abstract=True)
    watchdog = lab.start("run", "-n", "job", "--", *lab.target_argv("tls", directory), env=again.env())
    again.wait("READY", "1")
    order = [name for _, message in again.heard for name in message]
    check(order.index("EXTEND_TIMEOUT_USEC") < order.index("READY"), f"order: {order}")
    check_equal(again.values("STATUS")[0], "recovering job@2", "status")
    harness.end_target(lab, directory, watchdog)


@case()
def signs_of_life(lab):
    """WATCHDOG=1 more often than asked for, also while a snapshot is taken; not for another's pid."""
    manager = Manager(lab)
    watchdog = lab.run("sleep", "1000", env=manager.env(WATCHDOG_USEC="6000000"))
    lab.wait_running(watchdog)
    lab.snapshot()
    wait_until(lambda: len(manager.values("WATCHDOG")) >= 4, 60, "signs of life")
    lab.kill(watchdog)
    other = Manager(lab, abstract=True)
    watchdog = lab.run("sleep", "1000", job="other", env=other.env(WATCHDOG_USEC="1000", WATCHDOG_PID="1"))
    lab.wait_running(watchdog, job="other")
    lab.snapshot("other")
    check_equal(other.values("WATCHDOG"), [], "signs of life that another process was asked for")
    lab.kill(watchdog)


@case()
def the_job_sees_nothing_of_it(lab):
    manager = Manager(lab)
    result = lab.pawl("run", "-n", "job", "--", "env",
                      env=manager.env(WATCHDOG_USEC="6000000", WATCHDOG_PID="1"))
    check(not any(line.startswith((b"NOTIFY_", b"WATCHDOG_")) for line in result.out.splitlines()),
          f"environment: {result.out!r}")
    result = lab.pawl("run", "-n", "none", "--", "true", env={"NOTIFY_SOCKET": "/no/such/socket"})
    check(b"NOTIFY_SOCKET" in result.err, f"warning: {result.err!r}")


@case()
def what_has_finished_is_not_started_again(lab):
    """--once: at every boot, and a job that has ended stays so, with its status."""
    path = os.path.join(lab.dir, "runs")
    argv = ["run", "--once", "-n", "job", "--", "sh", "-c", f"echo >> {path}; exit 3"]
    lab.pawl(*argv, status=3)
    manager = Manager(lab)
    lab.pawl(*argv, status=3, env=manager.env())
    manager.wait("READY", "1")
    check_equal(harness.read_bytes(path), b"\n", "runs")
    check_equal(lab.job()["state"], "finished", "state")
    lab.pawl("rm", "job")
    lab.pawl(*argv, status=3)
    check_equal(harness.read_bytes(path), b"\n\n", "runs")


@case()
def boots_until_it_is_done(lab):
    """The command of the unit, killed, stopped and started as boots and shutdowns would."""
    directory = lab.subdir("target")
    argv = ["run", "--once", "-n", "job", "-i", "1h", "--", *lab.target_argv("tls", directory)]
    for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        manager = Manager(lab, abstract=True)
        watchdog = lab.start(*argv, env=manager.env())
        manager.wait("READY", "1")
        harness.wait_ready(watchdog, directory)
        lab.snapshot()
        if end == signal.SIGKILL:
            lab.kill(watchdog)
            continue
        watchdog.send(end)
        check_equal(watchdog.wait().status, harness.STOPPED_EXIT, "exit")
    harness.end_target(lab, directory, lab.start(*argv))
    check_equal(lab.pawl(*argv).status, 0, "after the end")


if __name__ == "__main__":
    harness.main()
