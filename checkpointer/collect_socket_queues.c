#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"

/*
 * What has been received and not read. SO_PEEK_OFF (Linux 3.4) lets MSG_PEEK look behind the first
 * message; the socket's own value is put back.
 */

#define MAX_RIGHTS 253 /* SCM_MAX_FD, include/net/scm.h */
#define FIRST_ROOM (256u << 10)
#define FIRST	   SIZE_MAX

struct peeking {
	int fd;
	bool is_unix;
	int old_offset, old_passcred;
	char *buf;
	size_t room;
};

/* One message, or a stretch of a stream. */
struct peeked {
	size_t len;
	struct sockaddr_storage from;
	socklen_t from_len;
	struct ucred sender;
	bool has_sender, truncated, cut_short;
	int fds[MAX_RIGHTS];
	size_t n_fds;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while copying what a socket has received");
}

static int set_option(int fd, int name, int value)
{
	return setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value));
}

/* With SO_PASSCRED a message of no bytes can be told from the end, and a stream does not run together
 * what different processes have sent. */
static int begin_peeking(struct peeking *p, int fd, int domain, struct err *err)
{
	*p = (struct peeking){.fd = fd, .is_unix = domain == AF_UNIX, .room = FIRST_ROOM};
	p->old_offset = get_int_option(fd, SOL_SOCKET, SO_PEEK_OFF);
	p->old_passcred = get_int_option(fd, SOL_SOCKET, SO_PASSCRED);
	p->buf = malloc(p->room);
	if (!p->buf)
		return no_memory(err);
	if (p->is_unix && !p->old_passcred && set_option(fd, SO_PASSCRED, 1) < 0)
		return err_sys(err, "looking at what a socket has received");
	return 0;
}

static void end_peeking(struct peeking *p)
{
	set_option(p->fd, SO_PEEK_OFF, p->old_offset);
	if (p->is_unix && !p->old_passcred)
		set_option(p->fd, SO_PASSCRED, 0);
	free(p->buf);
}

static void close_rights(struct peeked *m)
{
	for (size_t i = 0; i < m->n_fds; i++)
		close(m->fds[i]);
	m->n_fds = 0;
}

static void take_control(struct peeked *m, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t len = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS && len <= sizeof(m->fds)) {
			memcpy(m->fds, CMSG_DATA(c), len);
			m->n_fds = len / sizeof(int);
		} else if (c->cmsg_type == SCM_CREDENTIALS && len == sizeof(m->sender)) {
			memcpy(&m->sender, CMSG_DATA(c), len);
			m->has_sender = true;
		}
	}
}

/* At most `most` bytes from `offset` on; FIRST: of the first message, which may have none. 0: nothing there, 1: a message. */
static int peek(struct peeking *p, size_t offset, size_t most, struct peeked *m, struct err *err)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(m->fds)) + CMSG_SPACE(sizeof(m->sender)) + 256];
	} control;
	struct iovec iov = {p->buf, most};
	struct msghdr msg = {
		.msg_name = &m->from,
		.msg_namelen = sizeof(m->from),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	m->has_sender = false;
	m->n_fds = 0;
	if (set_option(p->fd, SO_PEEK_OFF, offset == FIRST ? -1 : (int)offset) < 0)
		return err_sys(err, "SO_PEEK_OFF");
	n = recvmsg(p->fd, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN ? 0 : err_sys(err, "looking at what a socket has received");
	take_control(m, &msg);
	m->len = (size_t)n;
	m->from_len = msg.msg_namelen;
	m->truncated = msg.msg_flags & MSG_TRUNC;
	m->cut_short = msg.msg_flags & MSG_CTRUNC;
	return 1;
}

/* A whole datagram, however long. */
static int peek_datagram(struct peeking *p, size_t offset, struct peeked *m, struct err *err)
{
	int got = peek(p, offset, p->room, m, err);

	while (got == 1 && m->truncated) {
		char *more = realloc(p->buf, m->len + 1);

		close_rights(m);
		if (!more)
			return no_memory(err);
		p->buf = more;
		p->room = m->len + 1;
		got = peek(p, offset, p->room, m, err);
	}
	/* The end of a connection reads as nothing from nobody. */
	if (got == 1 && p->is_unix && m->len == 0 && !m->has_sender)
		return 0;
	return got;
}

/* Where in a stretch of `len` bytes that ends with a message with descriptors does that begin? The kernel
 * copies message by message, and tells how many it could: the last one cannot be, for want of its last
 * byte. (Asking for fewer bytes would not do: peeking runs on to the next descriptors whatever the size.) */
static int find_rights(struct peeking *p, size_t offset, size_t len, size_t *ret, struct err *err)
{
	struct iovec iov[] = {{p->buf, len - 1}, {(void *)8, 1}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t n;

	if (set_option(p->fd, SO_PEEK_OFF, (int)offset) < 0)
		return err_sys(err, "SO_PEEK_OFF");
	n = recvmsg(p->fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && errno != EFAULT)
		return err_sys(err, "looking at what a socket has received");
	*ret = n < 0 ? 0 : (size_t)n;
	return 0;
}

/* A stretch of a stream that has descriptors at its beginning or nowhere. */
static int peek_stretch(struct peeking *p, size_t offset, struct peeked *m, struct err *err)
{
	int got = peek(p, offset, p->room, m, err);
	size_t first = 0;

	if (got <= 0 || m->len == 0)
		return got < 0 ? -1 : 0;
	if (m->len > p->room)
		m->len = p->room;
	if (m->n_fds == 0)
		return 1;
	close_rights(m);
	if (find_rights(p, offset, m->len, &first, err) < 0)
		return -1;
	if (first == 0)
		return peek(p, offset, p->room, m, err);
	got = peek(p, offset, first, m, err);
	close_rights(m);
	return got;
}

static int add_rights(struct collection *c, size_t index, struct peeked *m, Snap__SocketMessage *out,
		      struct err *err)
{
	out->open_files = calloc(m->n_fds, sizeof(*out->open_files));
	if (!out->open_files)
		return no_memory(err);
	while (m->n_fds) {
		int32_t id;

		/* The notes may move as descriptors are added; those not described yet stay ours. */
		if (collect_flying(c, c->sockets->list[index], m->fds[0], &id, err) < 0)
			return -1;
		out->open_files[out->n_open_files++] = id;
		memmove(m->fds, m->fds + 1, --m->n_fds * sizeof(m->fds[0]));
	}
	return 0;
}

static int add_message(struct collection *c, size_t index, const struct peeking *p, struct peeked *m,
		       Snap__SocketMessage ***messages, size_t *n, struct err *err)
{
	Snap__SocketMessage *out =
		snap_append(messages, n, Snap__SocketMessage, SNAP__SOCKET_MESSAGE__INIT);

	if (!out || snap_set_bytes(&out->data, p->buf, m->len) < 0)
		return no_memory(err);
	if (m->from_len > sizeof(sa_family_t) && m->from_len <= sizeof(m->from) &&
	    snap_set_bytes(&out->from, &m->from, m->from_len) < 0)
		return no_memory(err);
	if (m->has_sender && m->sender.pid > 0 &&
	    describe_peer(c, m->sender.pid, m->sender.uid, m->sender.gid, &out->sender, err) < 0)
		return -1;
	return m->n_fds ? add_rights(c, index, m, out, err) : 0;
}

static int copy_all(struct collection *c, size_t index, struct peeking *p, bool stream,
		    Snap__SocketMessage ***messages, size_t *n, struct err *err)
{
	size_t offset = 0;
	int waiting = 0;

	/* Reading a stream beyond what is there would take an error that waits for the job. */
	if (stream && ioctl(p->fd, FIONREAD, &waiting) < 0)
		return err_sys(err, "looking at what a socket has received");
	while (!stream || offset < (size_t)waiting) {
		struct peeked m = {0};
		int got = stream ? peek_stretch(p, offset, &m, err)
				 : peek_datagram(p, offset, &m, err);

		if (got <= 0)
			return got;
		if (m.cut_short) {
			close_rights(&m);
			return note_refuse(&c->sockets->list[index], err,
					   "more descriptors are in flight to it than pawl may open");
		}
		if (add_message(c, index, p, &m, messages, n, err) < 0) {
			close_rights(&m);
			return -1;
		}
		offset += m.len;
	}
	return 0;
}

/* Whether the first of its messages has no bytes: 1, 0 or -1. */
static int begins_empty(struct peeking *p, struct err *err)
{
	struct peeked m = {0};
	int got = peek(p, FIRST, 0, &m, err);

	close_rights(&m);
	return got <= 0 ? got : m.len == 0 && (!p->is_unix || m.has_sender);
}

static int copy_packets(struct collection *c, size_t index, struct peeking *p, Snap__SocketMessage ***messages,
			size_t *n, struct err *err)
{
	uint64_t inode = c->sockets->list[index].inode;
	int first = begins_empty(p, err);

	if (first < 0 || copy_all(c, index, p, false, messages, n, err) < 0)
		return -1;
	if (empty_messages_add(c->empties, inode, first, messages, n, err) < 0)
		return err->kind == ERR_UNSUPPORTED ? note_refuse(&c->sockets->list[index], err, "%s", err->msg) : -1;
	return empty_messages_note(c->empties, inode, *messages, *n, err);
}

int copy_messages_of(struct collection *c, size_t index, int fd, Snap__SocketMessage ***messages,
		     size_t *n, struct err *err)
{
	const Snap__OpenFile *o = note_open_file(c, &c->sockets->list[index]);
	bool stream = o->type == SOCK_STREAM;
	struct peeking p;
	int result;

	if (!has_event(fd, POLLIN, POLLIN) || (!stream && !c->empties))
		return 0;
	result = begin_peeking(&p, fd, o->domain, err);
	if (result == 0)
		result = stream ? copy_all(c, index, &p, true, messages, n, err)
				: copy_packets(c, index, &p, messages, n, err);
	end_peeking(&p);
	return result;
}

int copy_messages(struct collection *c, size_t index, struct err *err)
{
	const struct socket_note *note = &c->sockets->list[index];
	Snap__Socket *s = note_socket(c, note);

	if (has_event(note->fd, POLLPRI, POLLPRI))
		return note_refuse(note, err, "a socket with unread out-of-band data");
	/* Looking at packets takes the error first (net/core/datagram.c, __skb_try_recv_datagram). */
	if (s->reset && note_open_file(c, note)->type != SOCK_STREAM) {
		int waiting = 0;

		if (ioctl(note->fd, FIONREAD, &waiting) < 0 || waiting == 0)
			return 0;
		return note_refuse(note, err, "a broken connection with unread packets");
	}
	return copy_messages_of(c, index, note->fd, &s->messages, &s->n_messages, err);
}
