/* The kernel's termbits.h is the one that has struct termios2; it cannot be mixed with termios.h. */
#include "checkpointer/tracee/terminal.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"

#define CHUNK	   8192
#define MOST_BYTES (1u << 20) /* both queues of a terminal have far less room (drivers/tty/tty_buffer.c) */
#define PATIENCE   200        /* times 1 ms, for the kernel's worker that carries bytes across */

static void wait_ms(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static bool is_ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 0) > 0 && (p.revents & events);
}

static bool is_canonical(const struct termios2 *s)
{
	return (s->c_lflag & ICANON) && !(s->c_lflag & EXTPROC);
}

/* ---- flags of a description ---------------------------------------------------------------- */

static int begin_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && !(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -1
											      : flags;
}

static void end_nonblock(int fd, int flags)
{
	if (flags >= 0 && !(flags & O_NONBLOCK))
		fcntl(fd, F_SETFL, flags);
}

/* ---- reading them empty -------------------------------------------------------------------- */

static int append(ProtobufCBinaryData *to, const char *data, size_t n)
{
	uint8_t *more = realloc(to->data, to->len + n);

	if (!more || to->len + n > MOST_BYTES)
		return -1;
	memcpy(more + to->len, data, n);
	to->data = more;
	to->len += n;
	return 0;
}

/* All that a read without waiting gives. */
static int drain_all(int fd, ProtobufCBinaryData *to)
{
	char buf[CHUNK];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (append(to, buf, (size_t)n) < 0)
			return -1;
	return n == 0 || errno == EAGAIN || errno == EIO ? 0 : -1;
}

static Snap__TerminalLine *add_line(Snap__Terminal *t, const char *data, size_t n)
{
	Snap__TerminalLine *line =
		snap_append(&t->input, &t->n_input, Snap__TerminalLine, SNAP__TERMINAL_LINE__INIT);

	return line && (n == 0 || append(&line->data, data, n) == 0) ? line : NULL;
}

static bool ends_itself(const struct termios2 *s, char last)
{
	unsigned char c = (unsigned char)last;

	return c == '\n' || (s->c_cc[VEOL] && c == s->c_cc[VEOL]) ||
	       (s->c_cc[VEOL2] && c == s->c_cc[VEOL2]);
}

/* A read returns one line; nothing where a line consists of its end only. */
static int drain_lines(int slave, const struct termios2 *s, Snap__Terminal *t)
{
	char buf[CHUNK];
	ssize_t n;

	while ((n = read(slave, buf, sizeof(buf))) >= 0) {
		Snap__TerminalLine *line = add_line(t, buf, (size_t)n);

		if (!line || t->n_input > CHUNK)
			return -1;
		line->complete = true;
		line->end_mark = n == 0 || !ends_itself(s, buf[n - 1]);
	}
	return errno == EAGAIN ? 0 : -1;
}

/* The beginning of a line shows only where there are no lines. */
static int drain_rest(int slave, const struct termios2 *s, Snap__Terminal *t)
{
	ProtobufCBinaryData rest = {0};
	struct termios2 raw = *s;
	int result = -1;

	raw.c_lflag &= ~(unsigned)ICANON;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	if (ioctl(slave, TCSETS2, &raw) == 0 && drain_all(slave, &rest) == 0 &&
	    (rest.len == 0 || add_line(t, (char *)rest.data, rest.len)))
		result = 0;
	free(rest.data);
	return ioctl(slave, TCSETS2, s) < 0 ? -1 : result;
}

static int drain_input(int slave, const struct termios2 *s, Snap__Terminal *t)
{
	int flags = begin_nonblock(slave), result;

	if (flags < 0)
		return -1;
	result = is_canonical(s) ? drain_lines(slave, s, t) : 0;
	if (result == 0)
		result = drain_rest(slave, s, t);
	end_nonblock(slave, flags);
	return result;
}

static int drain_output(int master, Snap__Terminal *t)
{
	int flags, result, packet = 0;

	if (!is_ready(master, POLLIN))
		return 0;
	flags = begin_nonblock(master);
	if (flags < 0 || ioctl(master, TIOCPKT, &packet) < 0)
		return -1;
	result = drain_all(master, &t->output);
	packet = t->packet;
	if (ioctl(master, TIOCPKT, &packet) < 0)
		result = -1;
	end_nonblock(master, flags);
	return result;
}

/* ---- writing them again -------------------------------------------------------------------- */

/* Room comes when the kernel's worker has carried away what was written before. */
static int put(int fd, const void *data, size_t len)
{
	const char *at = data;

	for (int tries = 0; len && tries < PATIENCE;) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno != EAGAIN)
			return -1;
		if (n <= 0) {
			wait_ms();
			tries++;
			continue;
		}
		at += n;
		len -= (size_t)n;
	}
	return len ? -1 : 0;
}

static int fill_output(int slave, const struct termios2 *s, const Snap__Terminal *t)
{
	struct termios2 plain = *s;
	int flags, result;

	if (t->output.len == 0)
		return 0;
	plain.c_oflag &= ~(unsigned)OPOST;
	plain.c_lflag &= ~(unsigned)TOSTOP;
	flags = begin_nonblock(slave);
	if (flags < 0 || ioctl(slave, TCSETS2, &plain) < 0)
		return -1;
	result = put(slave, t->output.data, t->output.len);
	end_nonblock(slave, flags);
	return ioctl(slave, TCSETS2, s) < 0 ? -1 : result;
}

/* A byte that no line contains. */
static unsigned char unused_byte(const Snap__Terminal *t)
{
	bool used[256] = {[0] = true, ['\n'] = true};

	for (size_t i = 0; i < t->n_input; i++)
		for (size_t j = 0; j < t->input[i]->data.len; j++)
			used[t->input[i]->data.data[j]] = true;
	for (unsigned c = 255; c > 0; c--)
		if (!used[c])
			return (unsigned char)c;
	return 0;
}

/* Bytes go in as they are: they have been worked on when they came first. */
static struct termios2 verbatim(const struct termios2 *s, unsigned char end)
{
	struct termios2 v = *s;

	v.c_iflag = 0;
	v.c_lflag &= ~(unsigned)(ECHO | ECHOE | ECHOK | ECHONL | ISIG | IEXTEN | EXTPROC);
	if (v.c_lflag & ICANON) {
		memset(v.c_cc, 0, sizeof(v.c_cc));
		v.c_cc[VEOL] = s->c_cc[VEOL];
		v.c_cc[VEOL2] = s->c_cc[VEOL2];
		if (s->c_cc[VEOL2])
			v.c_lflag |= IEXTEN;
		v.c_cc[VEOF] = end;
	}
	return v;
}

/* Until what can be read of it is there; one more moment for the beginning of a line behind it. */
static void await_input(int slave, const struct termios2 *s, const Snap__Terminal *t)
{
	size_t expected = 0;
	int now = 0;

	for (size_t i = 0; i < t->n_input; i++)
		if (t->input[i]->complete || !is_canonical(s))
			expected += t->input[i]->data.len;
	for (int tries = 0; tries < PATIENCE; tries++) {
		if (ioctl(slave, TIOCINQ, &now) < 0 || (size_t)now >= expected)
			break;
		wait_ms();
	}
	is_ready(slave, POLLIN); /* waits for the worker where nothing can be read yet */
	wait_ms();
}

static int fill_input(int master, int slave, const struct termios2 *s, const Snap__Terminal *t)
{
	unsigned char end = unused_byte(t);
	struct termios2 v = verbatim(s, end);
	ProtobufCBinaryData all = {0};
	int flags, result = 0;

	if (t->n_input == 0)
		return 0;
	for (size_t i = 0; i < t->n_input && result == 0; i++) {
		const Snap__TerminalLine *line = t->input[i];

		if ((line->data.len && append(&all, (char *)line->data.data, line->data.len) < 0) ||
		    (line->end_mark && append(&all, (char *)&end, 1) < 0))
			result = -1;
	}
	flags = begin_nonblock(master);
	if (result == 0 && flags >= 0 && ioctl(slave, TCSETS2, &v) == 0) {
		result = put(master, all.data, all.len);
		await_input(slave, s, t);
		if (ioctl(slave, TCSETS2, s) < 0)
			result = -1;
	}
	end_nonblock(master, flags);
	free(all.data);
	return flags < 0 ? -1 : result;
}

/* ---- stopped output ------------------------------------------------------------------------ */

static bool takes_output(int slave)
{
	return is_ready(slave, POLLOUT);
}

static bool becomes(int slave, bool taking)
{
	for (int tries = 0; tries < PATIENCE && takes_output(slave) != taking; tries++)
		wait_ms();
	return takes_output(slave) == taking;
}

/* A stopped terminal takes nothing (drivers/tty/pty.c, pty_write_room). What was stopped by tcflow(3) does
 * not go on by the START character, nor the other way round (drivers/tty/tty_io.c, __start_tty). */
static void lift_stop(int master, int slave, const struct termios2 *s, Snap__Terminal *t)
{
	if (takes_output(slave))
		return;
	ioctl(slave, TCXONC, TCOON);
	t->stopped = takes_output(slave);
	if (t->stopped || !(s->c_iflag & IXON) || put(master, &s->c_cc[VSTART], 1) < 0)
		return;
	t->stopped_by_key = becomes(slave, true);
}

static int stop_again(int master, int slave, const struct termios2 *s, const Snap__Terminal *t)
{
	if (t->stopped)
		return ioctl(slave, TCXONC, TCOOFF);
	if (!t->stopped_by_key)
		return 0;
	return put(master, &s->c_cc[VSTOP], 1) == 0 && becomes(slave, false) ? 0 : -1;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static int read_settings(int master, int slave, struct termios2 *s, Snap__Terminal *t)
{
	struct winsize size;
	int packet, locked, exclusive = 0, discipline = 0;

	if (ioctl(master, TCGETS2, s) < 0 || ioctl(master, TIOCGWINSZ, &size) < 0 ||
	    ioctl(master, TIOCGPKT, &packet) < 0 || ioctl(master, TIOCGPTLCK, &locked) < 0 ||
	    (slave >= 0 &&
	     (ioctl(slave, TIOCGEXCL, &exclusive) < 0 || ioctl(slave, TIOCGETD, &discipline) < 0)) ||
	    snap_set_bytes(&t->termios, s, sizeof(*s)) < 0)
		return -1;
	t->rows = size.ws_row;
	t->columns = size.ws_col;
	t->x_pixels = size.ws_xpixel;
	t->y_pixels = size.ws_ypixel;
	t->packet = packet;
	t->locked = locked;
	t->exclusive = exclusive;
	t->discipline = discipline;
	return 0;
}

int terminal_read(int master, int slave, Snap__Terminal *t, struct err *err)
{
	struct termios2 s;
	int result;

	if (read_settings(master, slave, &s, t) < 0)
		return err_sys(err, "settings of a pseudo-terminal");
	if (slave < 0)
		return 0;
	/* Reading the input first: what is worked on now may still echo. */
	result = drain_input(slave, &s, t);
	if (drain_output(master, t) < 0)
		result = -1;
	lift_stop(master, slave, &s, t);
	if (fill_output(slave, &s, t) < 0 || fill_input(master, slave, &s, t) < 0 ||
	    stop_again(master, slave, &s, t) < 0)
		result = -1;
	return result < 0 ? err_sys(err, "what is queued in a pseudo-terminal") : 0;
}

int terminal_write(int master, int slave, const Snap__Terminal *t, struct err *err)
{
	struct winsize size = {(unsigned short)t->rows, (unsigned short)t->columns,
			       (unsigned short)t->x_pixels, (unsigned short)t->y_pixels};
	struct termios2 s;

	if (t->termios.len != sizeof(s))
		return err_set(err, ERR_CORRUPT, "settings of a pseudo-terminal");
	memcpy(&s, t->termios.data, sizeof(s));
	if (ioctl(master, TIOCSWINSZ, &size) < 0 || ioctl(master, TCSETS2, &s) < 0)
		return err_sys(err, "settings of a pseudo-terminal");
	if (slave < 0)
		return 0;
	if (fill_output(slave, &s, t) < 0 || fill_input(master, slave, &s, t) < 0)
		return err_sys(err, "what is queued in a pseudo-terminal");
	if (stop_again(master, slave, &s, t) < 0)
		return err_sys(err, "stopping a pseudo-terminal's output");
	return 0;
}

int terminal_close(int master, int slave, const Snap__Terminal *t, struct err *err)
{
	int on = 1;

	if ((t->packet && ioctl(master, TIOCPKT, &on) < 0) ||
	    (t->exclusive && slave >= 0 && ioctl(slave, TIOCEXCL) < 0) ||
	    (t->locked && ioctl(master, TIOCSPTLCK, &on) < 0))
		return err_sys(err, "modes of a pseudo-terminal");
	return 0;
}
