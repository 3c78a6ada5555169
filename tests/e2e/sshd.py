"""A real sshd: with keys, a configuration and a port of its own, as the user who runs the test, ended with the case."""
import os
import pwd
import shutil
import signal
import socket
import subprocess

from harness import Skip, read_bytes, wait_until, write_bytes

SERVER_CONFIG = """
Port {port}
ListenAddress {address}
HostKey {dir}/host_key
PidFile none
AuthorizedKeysFile {dir}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
MaxStartups 100
SetEnv {token}
"""

CLIENT_CONFIG = """
IdentityFile {dir}/user_key
IdentitiesOnly yes
IdentityAgent none
BatchMode yes
StrictHostKeyChecking no
UserKnownHostsFile {dir}/known_hosts
LogLevel ERROR
ConnectTimeout 20
ServerAliveInterval 15
ServerAliveCountMax 4
"""


def find_sshd():
    found = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if not found:
        raise Skip("sshd is not installed (openssh-server)")
    return found


class Sshd:
    def __init__(self, lab, address="127.0.0.1", port=None):
        self.lab, self.address = lab, address
        self.port = port or free_port(address)
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.folder = lab.subdir("sshd")
        self.server = None

    def write_files(self, folder=None):
        """folder: where keys and configurations are for server and clients, if that is another path to them."""
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.folder}/{name}"], check=True)
        values = dict(dir=folder or self.folder, port=self.port, address=self.address, token=self.lab.token)
        write_bytes(f"{self.folder}/sshd_config", SERVER_CONFIG.format(**values).encode())
        write_bytes(f"{self.folder}/ssh_config", CLIENT_CONFIG.format(**values).encode())
        self.folder = folder or self.folder

    def start(self, enter=()):
        """enter: the command that starts it, where it is not to run just here. Returns when it listens."""
        program = find_sshd()
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # for the part of it that is not root
        self.server = self.lab.launch([*enter, program, "-D", "-e", "-f", f"{self.folder}/sshd_config"])
        wait_until(lambda: b"Server listening" in self.server.err or not self.server.alive(), 30, "sshd listens")
        if not self.server.alive():
            raise Skip(f"sshd does not start here: {self.server.err[-200:]!r}")
        return self

    @property
    def client(self):
        """ssh, as $PAWL_SSH wants it."""
        return f"ssh -F {self.folder}/ssh_config"

    def host(self):
        return f"{self.user}@{self.address}"

    def url(self, store):
        return f"ssh://{self.host()}:{self.port}{store}"


    def sessions(self):
        """Pids of all that the server has started, itself left out."""
        return descendants(self.server.pid)

    def clients(self):
        """Pids of the ssh processes that use our configuration."""
        return [pid for pid in self.lab.processes() if f"{self.folder}/ssh_config".encode() in command_line(pid)]

    def stand_still(self, still=True):
        """Nothing gets through any more, and nobody is told."""
        for pid in [self.server.pid, *self.sessions(), *self.clients()]:
            try:
                os.kill(pid, signal.SIGSTOP if still else signal.SIGCONT)
            except OSError:
                pass


def local_sshd(lab):
    """One on this machine, which the lab's pawl reaches, its watchdogs too."""
    server = Sshd(lab)
    server.write_files()
    lab.env.update(PAWL_SSH=server.client, PAWL_REMOTE=lab.options.pawl)
    return server.start()


def free_port(address):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def command_line(pid):
    try:
        return read_bytes(f"/proc/{pid}/cmdline")
    except OSError:
        return b""


def descendants(pid):
    children = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(read_bytes(f"/proc/{entry}/stat").rsplit(b")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry))
    found, more = [], [pid]
    while more:
        below = children.get(more.pop(), [])
        found += below
        more += below
    return found
