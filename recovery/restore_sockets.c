/*
 * Sockets, all in one step: made, connected, filled, and last what would have been in the way.
 */
#include "recovery/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "checkpointer/tracee/sockdiag.h"
#include "checkpointer/tracee/sockopts.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

#define ARRIVAL_MS 2000

bool is_socket(const struct recovery *rec, size_t index)
{
	return rec->model->open_files[index]->kind == SNAP__OPEN_FILE__KIND__SOCKET;
}

const Snap__Socket *socket_model(const Snap__OpenFile *open)
{
	static const Snap__Socket none = SNAP__SOCKET__INIT;

	return open->socket ? open->socket : &none;
}

Snap__Socket__State socket_state(const Snap__OpenFile *open)
{
	if (open->socket)
		return open->socket->state;
	return open->peer || open->hung_up ? SNAP__SOCKET__STATE__CONNECTED
					   : SNAP__SOCKET__STATE__UNCONNECTED;
}

ssize_t socket_by_object(const struct recovery *rec, uint64_t object)
{
	for (size_t i = 0; object && i < rec->model->n_open_files; i++)
		if (is_socket(rec, i) && rec->model->open_files[i]->object == object)
			return (ssize_t)i;
	return -1;
}

const char *socket_label(const struct recovery *rec, size_t index, char *buf, size_t len)
{
	const Snap__Socket *s = socket_model(rec->model->open_files[index]);
	char text[128];

	if (s->local.len)
		snprintf(buf, len, "socket %s of open file %zu",
			 address_text(s->local.data, s->local.len, text, sizeof(text)), index);
	else
		snprintf(buf, len, "socket of open file %zu", index);
	return buf;
}

void set_int_option(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

/* ---- options ------------------------------------------------------------------------------- */

static void set_options(int fd, const Snap__OpenFile *open, enum socket_option_when when)
{
	const Snap__Socket *s = socket_model(open);

	for (size_t i = 0; i < s->n_options; i++) {
		const Snap__SocketOption *o = s->options[i];
		const struct socket_option *known = socket_option_find(o->level, o->name);

		if (known && known->when == when &&
		    setsockopt(fd, o->level, o->name, o->value.data, (socklen_t)o->value.len) < 0)
			log_warn("a socket's option %d of level %d: %s", o->name, o->level,
				 strerror(errno));
	}
}

/* The kernel doubles what it is given. Beyond its limit only the privileged may go. */
static void set_buffer(int fd, int name, int forced_name, uint64_t bytes)
{
	int size = (int)(bytes / 2);

	if (bytes && bytes < INT32_MAX &&
	    setsockopt(fd, SOL_SOCKET, forced_name, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, name, &size, sizeof(size));
}

int set_early_options(int fd, const Snap__OpenFile *open, struct err *err)
{
	const Snap__Socket *s = socket_model(open);

	set_options(fd, open, OPTION_EARLY);
	set_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, s->receive_buffer);
	set_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE, s->send_buffer);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, "socket");
	return 0;
}

int make_socket(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	cleanup_fd int fd = socket(open->domain, open->type | SOCK_CLOEXEC, socket_model(open)->protocol);
	char label[192];

	if (fd < 0)
		return err_sys(err, "%s", socket_label(rec, index, label, sizeof(label)));
	if (set_early_options(fd, open, err) < 0)
		return -1;
	return steal_fd(&fd);
}

/* ---- last ---------------------------------------------------------------------------------- */

/* Everything that was sent has arrived: a reset throws away what is under way. */
static void await_arrival(int fd, uint64_t bytes)
{
	for (int i = 0; i < ARRIVAL_MS; i++) {
		int waiting = 0;

		if (ioctl(fd, FIONREAD, &waiting) < 0 || (uint64_t)waiting >= bytes)
			return;
		poll(NULL, 0, 1);
	}
}

/* The temporary other end goes as the real one went. */
static void close_other(struct sockets *s, size_t index)
{
	const Snap__OpenFile *open = s->rec->model->open_files[index];
	const Snap__Socket *m = socket_model(open);
	int *other = &s->slots[index].other, mine = s->rec->open_fds[index];
	struct linger at_once = {.l_onoff = 1};

	if (*other < 0)
		return;
	if (m->reset && open->domain == AF_UNIX)
		/* What it leaves unread breaks the connection off (net/unix/af_unix.c, unix_release_sock). */
		(void)!send(mine, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	else if (m->reset)
		setsockopt(*other, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (open->domain != AF_UNIX)
		await_arrival(mine, queued_bytes(open));
	if (m->state == SNAP__SOCKET__STATE__FINISHED && !m->reset) {
		shutdown(*other, SHUT_WR);
		shutdown(mine, SHUT_WR);
	}
	close(*other);
	*other = -1;
}

static int set_filter(int fd, const Snap__Socket *m, struct err *err)
{
	struct sock_fprog program = {
		.len = (unsigned short)(m->filter.len / sizeof(struct sock_filter)),
		.filter = (struct sock_filter *)m->filter.data,
	};

	if (program.len &&
	    setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
		return err_sys(err, "filter of a socket");
	return 0;
}

/* What one end sends no more the other does not receive: said once. */
static void shut_down(struct sockets *s, size_t index)
{
	const Snap__OpenFile *open = s->rec->model->open_files[index];
	const Snap__Socket *m = socket_model(open);
	ssize_t peer = socket_by_object(s->rec, open->peer);
	bool by_peer = open->hung_up || m->state == SNAP__SOCKET__STATE__FINISHED ||
		       (peer >= 0 && open->type != SOCK_DGRAM &&
			socket_model(s->rec->model->open_files[peer])->shutdown & SOCKET_SHUT_WR);
	int fd = s->rec->open_fds[index];

	if (m->state == SNAP__SOCKET__STATE__LISTENING || s->rec->leave_files)
		return;
	if ((m->shutdown & SOCKET_SHUT_WR && !(open->domain == AF_UNIX && open->hung_up)) ||
	    (m->state == SNAP__SOCKET__STATE__FINISHED && !m->reset))
		shutdown(fd, SHUT_WR);
	if (m->shutdown & SOCKET_SHUT_RD && !by_peer)
		shutdown(fd, SHUT_RD);
}

static int finish(struct sockets *s, size_t index, struct err *err)
{
	const Snap__OpenFile *open = s->rec->model->open_files[index];
	int fd = s->rec->open_fds[index];

	close_other(s, index);
	shut_down(s, index);
	if (open->domain == AF_INET || open->domain == AF_INET6)
		end_sharing(fd, open);
	/* Making room for a large queue has raised it. */
	if (open->domain != AF_UNIX && open->type == SOCK_STREAM)
		set_int_option(fd, SOL_SOCKET, SO_RCVLOWAT, 1);
	set_options(fd, open, OPTION_LATE);
	if (!s->rec->leave_files)
		join_groups(fd, socket_model(open));
	if (set_filter(fd, socket_model(open), err) < 0)
		return -1;
	return set_nonblock(fd, open->flags) < 0 ? err_sys(err, "flags of a socket") : 0;
}

/* ---- all ----------------------------------------------------------------------------------- */

/* A trial takes no names and ports: they may be in use by the running job. */
static int make_rest_plain(struct sockets *s, struct err *err)
{
	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		if (!is_socket(s->rec, i) || s->rec->open_fds[i] >= 0)
			continue;
		s->rec->open_fds[i] = make_socket(s->rec, i, err);
		if (s->rec->open_fds[i] < 0)
			return -1;
	}
	return 0;
}

static int make_all(struct sockets *s, struct err *err)
{
	if (s->rec->leave_files)
		return unix_make_connected(s, err) < 0 ? -1 : make_rest_plain(s, err);
	if (unix_make_named(s, err) < 0 || unix_make_connected(s, err) < 0 ||
	    inet_make_connected(s, err) < 0 || inet_make_others(s, err) < 0 ||
	    unix_make_pending(s, err) < 0 || inet_make_pending(s, err) < 0)
		return -1;
	return 0;
}

static int connect_and_fill(struct sockets *s, struct err *err)
{
	if (fill_streams(s, err) < 0)
		return -1;
	if (s->rec->leave_files)
		return 0;
	/* Whoever is connected takes messages from its peer only: those of others come first. */
	if (unix_connect_datagram(s, true, err) < 0 || fill_datagrams(s, err) < 0 ||
	    unix_connect_datagram(s, false, err) < 0 || inet_connect_datagram(s, err) < 0)
		return -1;
	return unix_finish_paths(s, err);
}

static int restore(struct sockets *s, struct err *err)
{
	if (make_all(s, err) < 0 || connect_and_fill(s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->rec->model->n_open_files; i++)
		if (is_socket(s->rec, i) && finish(s, i, err) < 0)
			return -1;
	return 0;
}

int restore_sockets(struct recovery *rec, size_t index, struct err *err)
{
	struct sockets s = {.rec = rec};
	int result;

	if (rec->open_fds[index] >= 0)
		return 0;
	s.slots = calloc(rec->model->n_open_files + 1, sizeof(*s.slots));
	if (!s.slots)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < rec->model->n_open_files; i++)
		s.slots[i].other = -1;
	result = restore(&s, err);
	for (size_t i = 0; i < rec->model->n_open_files; i++)
		if (s.slots[i].other >= 0)
			close(s.slots[i].other);
	remove_hidden_names(&s);
	free(s.slots);
	return result;
}
