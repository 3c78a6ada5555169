"""A job that is recovered as `pawl receive` has it done for one that moves here (FORMAT.md, "Handing a job over")."""
import socket
import struct

from harness import Failure, check_equal

AHEAD, START = 1, 2  # struct handover_order
NOBODY = "0" * 32    # the token of a job that was never held


class Handover:
    def __init__(self, lab, job="job"):
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(120)
        env = {"PAWL_CONFIRM": str(theirs.fileno()), "PAWL_HOLD": NOBODY}
        self.watchdog = lab.start("recover", "-v", job, env=env, pass_fds=[theirs.fileno()])
        theirs.close()

    def _answer(self, what):
        word = self.socket.recv(1)
        if not word:
            raise Failure(f"{what}: {self.watchdog.describe()}")
        return word

    def fill_ahead(self, seq):
        """Whether memory is put up from that snapshot."""
        self.socket.sendall(struct.pack("=QI4x", seq, AHEAD))
        return self._answer("memory ahead") == b"F"

    def recover(self, seq):
        """Its watchdog, once the job runs."""
        self.socket.sendall(struct.pack("=QI4x", seq, START))
        check_equal(self._answer("recovery"), b"R", "it stands rebuilt")
        self.socket.sendall(b"G")
        check_equal(self._answer("release"), b"D", "it runs")
        self.socket.close()
        return self.watchdog
