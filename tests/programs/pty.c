/*
 * pty.c: pseudo-terminals of the job's own: settings, sizes, modes, what is queued in both directions (whole
 * lines, a line that has only begun, an end mark), a slave without its master, a master without a slave and
 * one whose slave has closed, and a session in another process with its controlling terminal.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

struct pair {
	int master, slave;
	char name[64];
};

struct ptys {
	struct pair lines, raw, session, closed, stopped;
	int alone, orphan;
	pid_t leader;
};

static int open_master(void)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);

	CHECK(fd >= 0);
	CHECK(unlockpt(fd) == 0);
	return fd;
}

static void open_pair(struct pair *p)
{
	p->master = open_master();
	CHECK(ptsname_r(p->master, p->name, sizeof(p->name)) == 0);
	p->slave = open(p->name, O_RDWR | O_NOCTTY | O_NONBLOCK);
	CHECK(p->slave >= 0);
}

static void put(int fd, const char *text)
{
	CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
}

static void expect(int fd, const char *text)
{
	char buf[8192] = {0};
	ssize_t n = -1;

	for (int i = 0; i < 100 && (n = read(fd, buf, sizeof(buf) - 1)) < 0 && errno == EAGAIN; i++)
		sleep_ms(10);
	if (n != (ssize_t)strlen(text) || strcmp(buf, text) != 0)
		fprintf(stderr, "read \"%s\" instead of \"%s\"\n", buf, text);
	CHECK_EQ(n, strlen(text));
	CHECK(strcmp(buf, text) == 0);
}

static void expect_nothing(int fd)
{
	char byte;

	CHECK(read(fd, &byte, 1) < 0 && errno == EAGAIN);
}

static void set_modes(int fd, tcflag_t iflag, tcflag_t lflag, tcflag_t oflag)
{
	struct termios t;

	CHECK(tcgetattr(fd, &t) == 0);
	t.c_iflag = iflag;
	t.c_lflag = lflag;
	t.c_oflag = oflag;
	t.c_cc[VINTR] = 7;
	CHECK(cfsetspeed(&t, B9600) == 0);
	CHECK(tcsetattr(fd, TCSANOW, &t) == 0);
}

static void set_up_lines(struct ptys *s)
{
	const struct winsize size = {33, 111, 5, 6};

	open_pair(&s->lines);
	set_modes(s->lines.slave, ICRNL, ICANON | ISIG | ECHO | IEXTEN, OPOST | ONLCR);
	CHECK(ioctl(s->lines.master, TIOCSWINSZ, &size) == 0);
	CHECK(chmod(s->lines.name, 0600) == 0);
	put(s->lines.master, "first\rsecond\nended\004beg");
	sleep_ms(50);
	put(s->lines.slave, "out\n");
}

static void check_lines(struct ptys *s)
{
	struct winsize size;
	struct termios t;
	struct stat st;
	char name[64];

	CHECK(tcgetattr(s->lines.slave, &t) == 0);
	CHECK(t.c_lflag == (ICANON | ISIG | ECHO | IEXTEN) && t.c_oflag == (OPOST | ONLCR));
	CHECK(t.c_cc[VINTR] == 7 && cfgetospeed(&t) == B9600);
	CHECK(ioctl(s->lines.slave, TIOCGWINSZ, &size) == 0);
	CHECK(size.ws_row == 33 && size.ws_col == 111 && size.ws_xpixel == 5 && size.ws_ypixel == 6);
	CHECK(ptsname_r(s->lines.master, name, sizeof(name)) == 0 && strcmp(name, s->lines.name) == 0);
	CHECK(stat(name, &st) == 0 && (st.st_mode & 07777) == 0600 && st.st_uid == getuid());
	expect(s->lines.master, "first\r\nsecond\r\nendedbegout\r\n");
	put(s->lines.master, "un\n");
	expect(s->lines.slave, "first\n");
	expect(s->lines.slave, "second\n");
	expect(s->lines.slave, "ended");
	expect(s->lines.slave, "begun\n");
	expect_nothing(s->lines.slave);
	expect(s->lines.master, "un\r\n");
	expect_nothing(s->lines.master);
}

static void set_up_others(struct ptys *s)
{
	int on = 1;

	open_pair(&s->raw);
	set_modes(s->raw.slave, 0, 0, 0);
	CHECK(ioctl(s->raw.master, TIOCPKT, &on) == 0);
	CHECK(ioctl(s->raw.slave, TIOCEXCL) == 0);
	put(s->raw.master, "in\004\r\n");
	put(s->raw.slave, "packet\n");
	s->alone = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
	CHECK(s->alone >= 0);
	open_pair(&s->closed);
	put(s->closed.slave, "last words");
	CHECK(close(s->closed.slave) == 0);
	open_pair(&s->stopped);
	s->orphan = s->stopped.slave;
	CHECK(close(s->stopped.master) == 0);
	open_pair(&s->stopped);
	put(s->stopped.slave, "before");
	CHECK(tcflow(s->stopped.slave, TCOOFF) == 0);
}

static void check_others(struct ptys *s)
{
	struct pollfd p = {.fd = s->alone, .events = POLLIN};
	struct winsize size;
	int value;
	char buf[64];

	CHECK(ioctl(s->raw.master, TIOCGPKT, &value) == 0 && value == 1);
	CHECK(ioctl(s->raw.slave, TIOCGEXCL, &value) == 0 && value == 1);
	CHECK(open(s->raw.name, O_RDWR | O_NOCTTY) < 0 || getuid() == 0);
	CHECK_EQ(read(s->raw.master, buf, sizeof(buf)), 8);
	CHECK(memcmp(buf, "\0packet\n", 8) == 0);
	expect(s->raw.slave, "in\004\r\n");
	CHECK(ioctl(s->alone, TIOCGPTLCK, &value) == 0 && value == 1);
	CHECK(poll(&p, 1, 0) == 0);
	expect(s->closed.master, "last words");
	CHECK(read(s->closed.master, buf, 1) < 0 && errno == EIO);
	CHECK(ioctl(s->orphan, TIOCGWINSZ, &size) < 0 && errno == EIO);
	CHECK_EQ(read(s->orphan, buf, 1), 0);
	expect(s->stopped.master, "before");
	CHECK(write(s->stopped.slave, "x", 1) < 0 && errno == EAGAIN);
	CHECK(tcflow(s->stopped.slave, TCOON) == 0);
	put(s->stopped.slave, "after");
	expect(s->stopped.master, "after");
}

/* In a session of its own, echoes what comes through its controlling terminal; a key ends it. */
static void lead(struct pair *p)
{
	char buf[64];
	int tty;

	CHECK(signal(SIGINT, SIG_DFL) != SIG_ERR);
	CHECK(setsid() == getpid());
	CHECK(close(p->master) == 0);
	CHECK(ioctl(p->slave, TIOCSCTTY, 0) == 0);
	CHECK(fcntl(p->slave, F_SETFL, 0) == 0);
	tty = open("/dev/tty", O_RDWR);
	CHECK(tty >= 0);
	put(tty, "up\n");
	for (;;) {
		ssize_t n = read(p->slave, buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		CHECK(n > 0);
		CHECK(tcgetsid(tty) == getpid() && tcgetpgrp(tty) == getpgrp());
		CHECK(write(tty, buf, (size_t)n) == n);
	}
}

static void set_up_session(struct ptys *s)
{
	open_pair(&s->session);
	set_modes(s->session.slave, 0, ICANON | ISIG, 0);
	s->leader = fork();
	CHECK(s->leader >= 0);
	if (s->leader == 0)
		lead(&s->session);
	CHECK(close(s->session.slave) == 0);
	expect(s->session.master, "up\n");
}

static void check_session(struct ptys *s)
{
	int status;

	put(s->session.master, "echo\n");
	expect(s->session.master, "echo\n");
	CHECK(tcgetsid(s->session.master) == s->leader);
	put(s->session.master, "\007");
	CHECK(waitpid(s->leader, &status, 0) == s->leader);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

int main(int argc, char **argv)
{
	struct target t;
	struct ptys s;

	target_start(&t, argc, argv);
	set_up_lines(&s);
	set_up_others(&s);
	set_up_session(&s);
	target_ready(&t);
	target_wait(&t);
	check_lines(&s);
	check_others(&s);
	check_session(&s);
	return target_pass(&t);
}
