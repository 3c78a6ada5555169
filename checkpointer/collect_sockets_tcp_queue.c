#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"

#define SETTLE_NS  (50 * (NSEC_PER_SEC / 1000)) /* what is under way on this machine has arrived by then */
#define RESEND_NS  (10 * NSEC_PER_SEC)
#define READ_CHUNK (1u << 20)

struct bytes_read {
	char *data;
	size_t len, room;
};

static int queue_length(const struct socket_note *note, unsigned long which)
{
	int n = 0;

	return ioctl(note->fd, which, &n) < 0 ? 0 : n;
}

static void set_tcp(const struct socket_note *note, int option, int value)
{
	setsockopt(note->fd, IPPROTO_TCP, option, &value, sizeof(value));
}

static void pause_ms(long ms)
{
	struct timespec ts = {.tv_nsec = ms * 1000000};

	nanosleep(&ts, NULL);
}

/* Sends what Nagle's algorithm or TCP_CORK holds back, and acknowledgements that are put off. */
static void push(const struct socket_note *from, const struct socket_note *to)
{
	int nodelay = get_int_option(from->fd, IPPROTO_TCP, TCP_NODELAY);
	int cork = get_int_option(from->fd, IPPROTO_TCP, TCP_CORK);

	set_tcp(to, TCP_QUICKACK, 1);
	if (cork > 0) {
		set_tcp(from, TCP_CORK, 0);
		set_tcp(from, TCP_CORK, 1);
	}
	if (nodelay == 0) {
		set_tcp(from, TCP_NODELAY, 1);
		set_tcp(from, TCP_NODELAY, 0);
	}
	set_tcp(to, TCP_QUICKACK, 1);
}

/* Whether nothing is under way any more. */
static bool settles(const struct socket_note *from, const struct socket_note *to)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + SETTLE_NS;
	int before = queue_length(from, SIOCOUTQ);

	while (before > 0) {
		int now;

		push(from, to);
		now = queue_length(from, SIOCOUTQ);
		if (now >= before && clock_ns(CLOCK_MONOTONIC) > end)
			return false;
		if (now > 0)
			pause_ms(1);
		before = now;
	}
	return true;
}

static int has_urgent(const struct socket_note *note)
{
	char byte;

	return has_event(note->fd, POLLPRI, POLLPRI) ||
	       recv(note->fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) >= 0 || errno == EAGAIN;
}

static int add_data(struct collection *c, const struct socket_note *note, const void *data,
		    size_t len, struct err *err)
{
	Snap__Socket *s = note_socket(c, note);
	Snap__SocketMessage *m = snap_append(&s->messages, &s->n_messages, Snap__SocketMessage,
					     SNAP__SOCKET_MESSAGE__INIT);

	if (!m || snap_set_bytes(&m->data, data, len) < 0)
		return err_set(err, ERR_SYSTEM, "out of memory while copying what a socket has received");
	return 0;
}

/* Linux 6.9: TCP has SO_PEEK_OFF, too. */
ssize_t tcp_peek(const struct socket_note *note, void *buf, size_t len)
{
	int off = -1, offset = get_int_option(note->fd, SOL_SOCKET, SO_PEEK_OFF), code;
	ssize_t n;

	if (offset >= 0)
		setsockopt(note->fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off));
	n = recv(note->fd, buf, len, MSG_PEEK | MSG_DONTWAIT);
	code = errno;
	if (offset >= 0)
		setsockopt(note->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset));
	errno = code;
	return n;
}

int tcp_copy_queue(struct collection *c, struct socket_note *note, struct err *err)
{
	int waiting = queue_length(note, SIOCINQ);
	cleanup_free char *buf = NULL;
	ssize_t n;

	if (waiting == 0)
		return 0;
	buf = malloc((size_t)waiting);
	if (!buf)
		return err_sys(err, "content of a socket");
	n = tcp_peek(note, buf, (size_t)waiting);
	if (n < 0)
		return err_sys(err, "content of a socket");
	return add_data(c, note, buf, (size_t)n, err);
}

/* ---- more under way than the receiver has room for ----------------------------------------- */

/* Makes the receiver's buffer as large as the kernel would make it by itself for a job that reads
 * (net/ipv4/tcp.c, tcp_set_rcvlowat), and tells the sender: looking at a byte does. One whose size the job has
 * set stays as it is. */
static bool take_in(const struct socket_note *from, const struct socket_note *to)
{
	int before = get_int_option(to->fd, SOL_SOCKET, SO_RCVLOWAT), bytes;
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + RESEND_NS / 10;
	bool settled = false;
	char byte;

	bytes = queue_length(from, SIOCOUTQ) + queue_length(to, SIOCINQ);
	bytes = bytes < INT32_MAX / 4 ? bytes * 2 : INT32_MAX / 2;
	setsockopt(to->fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
	while (!settled && clock_ns(CLOCK_MONOTONIC) < end) {
		(void)!tcp_peek(to, &byte, 1);
		settled = settles(from, to);
	}
	setsockopt(to->fd, SOL_SOCKET, SO_RCVLOWAT, &before, sizeof(before));
	return settled;
}

static int read_some(const struct socket_note *to, struct bytes_read *b, struct err *err)
{
	ssize_t n;

	if (b->room - b->len < READ_CHUNK) {
		char *more = realloc(b->data, b->room + 4 * READ_CHUNK);

		if (!more)
			return err_sys(err, "content of a socket");
		b->data = more;
		b->room += 4 * READ_CHUNK;
	}
	n = recv(to->fd, b->data + b->len, READ_CHUNK, MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN)
		return err_sys(err, "content of a socket");
	if (n > 0)
		b->len += (size_t)n;
	return 0;
}

static int read_empty(const struct socket_note *from, const struct socket_note *to,
		      struct bytes_read *b, struct err *err)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + RESEND_NS;

	for (;;) {
		size_t before = b->len;

		if (read_some(to, b, err) < 0)
			return -1;
		if (b->len > before)
			continue;
		if (queue_length(from, SIOCOUTQ) == 0 && queue_length(to, SIOCINQ) == 0)
			return 0;
		if (clock_ns(CLOCK_MONOTONIC) > end)
			return err_set(err, ERR_SYSTEM, "a TCP connection of the job does not move");
		push(from, to);
		pause_ms(1);
	}
}

/* Its own buffer, which the kernel may have grown, took all this once. If it does not now, a larger one. */
static void widen(const struct socket_note *from, size_t bytes)
{
	int size = bytes < INT32_MAX / 2 ? (int)bytes : INT32_MAX / 2;

	setsockopt(from->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static int send_again(const struct socket_note *from, const struct bytes_read *b, struct err *err)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	size_t sent = 0;

	while (sent < b->len) {
		ssize_t n = send(from->fd, b->data + sent, b->len - sent,
				 MSG_DONTWAIT | MSG_NOSIGNAL);
		uint64_t waited = clock_ns(CLOCK_MONOTONIC) - start;

		if (n < 0 && errno != EAGAIN)
			return err_sys(err, "a TCP connection of the job");
		if (n > 0) {
			sent += (size_t)n;
			start += waited;
			continue;
		}
		if (waited > RESEND_NS)
			return err_set(err, ERR_SYSTEM, "a TCP connection of the job does not take again "
							"what was on its way");
		if (waited > RESEND_NS / 10)
			widen(from, b->len);
		pause_ms(1);
	}
	return 0;
}

static int drain_and_refill(struct collection *c, struct socket_note *from, struct socket_note *to,
			    struct err *err)
{
	struct bytes_read b = {0};
	int result = read_empty(from, to, &b, err);
	struct err why;

	/* What has been read goes back whatever happens. */
	if (b.len && send_again(from, &b, result < 0 ? &why : err) < 0)
		result = -1;
	if (result == 0 && b.len)
		result = add_data(c, to, b.data, b.len, err);
	free(b.data);
	return result;
}

int tcp_settle(struct collection *c, struct socket_note *from, struct socket_note *to,
	       struct err *err)
{
	bool ended = note_socket(c, from)->shutdown & SOCKET_SHUT_WR || from->tcp_state == TCP_FIN_WAIT1;

	if (has_urgent(to))
		return note_refuse(to, err, "a TCP socket with unread urgent data");
	if (settles(from, to))
		return tcp_copy_queue(c, to, err);
	/* What has been read could not be sent again. */
	if (ended || note_socket(c, to)->shutdown & SOCKET_SHUT_RD)
		return take_in(from, to) ? tcp_copy_queue(c, to, err)
					 : note_refuse(to, err, "a TCP socket that is sent more than it has room "
								"for by a peer that has shut down its side");
	return drain_and_refill(c, from, to, err);
}
