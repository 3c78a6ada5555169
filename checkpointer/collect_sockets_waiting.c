#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checkpointer/sockets.h"

/*
 * TCP connections that wait to be accepted and have received something already. Nothing but accepting them
 * gives a hold of what that is. So they are accepted, looked at, and put back: each client, which is the
 * job's own socket, is disconnected (connect(2) with AF_UNSPEC), connected once more from the same port, and
 * sends the same again. To the job, which stands still, it is the same socket in the same place of the queue.
 */

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51 /* include/uapi/linux/in.h, Linux 6.3 */
#endif
#define CONNECT_MS 1000
#define QUEUE_MS   200

struct waiting {
	struct socket_note *client;
	int fd; /* the accepted end */
	char *data;
	size_t len;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing waiting connections");
}

static struct socket_note *client_of(const struct collection *c, int accepted)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	struct inet_address from;

	if (getpeername(accepted, (struct sockaddr *)&address, &len) < 0 ||
	    inet_address_from(&from, &address, len) < 0)
		return NULL;
	for (size_t i = 0; i < c->sockets->n; i++) {
		struct socket_note *note = &c->sockets->list[i];

		if (note->tcp_state == TCP_ESTABLISHED && inet_address_equal(&note->local, &from))
			return note;
	}
	return NULL;
}

/* Whether it can be put back, asked before it is touched. */
bool tcp_can_be_put_back(const struct collection *c, const struct inet_info *info)
{
	for (size_t i = 0; i < c->sockets->n; i++) {
		const struct socket_note *note = &c->sockets->list[i];
		int unsent = 0, unread = 0;

		if (!inet_address_equal(&note->local, &info->remote) ||
		    !inet_address_equal(&note->remote, &info->local))
			continue;
		return note->tcp_state == TCP_ESTABLISHED && info->state == TCP_ESTABLISHED &&
		       ioctl(note->fd, SIOCOUTQ, &unsent) == 0 && unsent == 0 &&
		       ioctl(note->fd, SIOCINQ, &unread) == 0 && unread == 0;
	}
	return false;
}

static int take_one(struct collection *c, const struct socket_note *listener, struct waiting *w,
		    struct err *err)
{
	int waiting = 0;

	if (!has_event(listener->fd, POLLIN, POLLIN))
		return err_set(err, ERR_BUSY, "a connection that waited to be accepted has gone");
	w->fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	if (w->fd < 0)
		return err_sys(err, "looking at a connection that waits to be accepted");
	w->client = client_of(c, w->fd);
	if (ioctl(w->fd, FIONREAD, &waiting) < 0 || waiting == 0)
		return 0;
	w->data = malloc((size_t)waiting);
	if (!w->data)
		return no_memory(err);
	w->len = (size_t)waiting;
	return recv(w->fd, w->data, w->len, MSG_PEEK | MSG_DONTWAIT) == waiting
		       ? 0
		       : err_sys(err, "content of a connection that waits to be accepted");
}

static int disconnect(const struct socket_note *client, struct err *err)
{
	const struct sockaddr nothing = {.sa_family = AF_UNSPEC};
	int one = 1;

	if (connect(client->fd, &nothing, sizeof(nothing)) < 0)
		return err_sys(err, "putting back a connection that waits to be accepted");
	get_int_option(client->fd, SOL_SOCKET, SO_ERROR);
	setsockopt(client->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return 0;
}

static int reconnect(const struct socket_note *client, const Snap__Socket *s, struct err *err)
{
	struct pollfd p = {.fd = client->fd, .events = POLLOUT};

	uint32_t port = client->local.port, range = port << 16 | port, none = 0;
	int result;

	/* EINVAL: the job had bound it, so it has kept its port. EADDRINUSE: another program has connected
	 * from that port to somewhere else, and may share it only as the kernel's own choice. */
	if (bind(client->fd, (struct sockaddr *)s->local.data, (socklen_t)s->local.len) < 0 &&
	    errno == EADDRINUSE)
		setsockopt(client->fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range));
	result = connect(client->fd, (struct sockaddr *)s->remote.data, (socklen_t)s->remote.len);
	if (result < 0 && errno != EINPROGRESS)
		return err_sys(err, "putting back a connection that waits to be accepted");
	setsockopt(client->fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &none, sizeof(none));
	if (poll(&p, 1, CONNECT_MS) <= 0 || !(p.revents & POLLOUT))
		return err_set(err, ERR_SYSTEM, "a connection that waits to be accepted cannot be put back");
	return 0;
}

static int connections_waiting(const struct socket_note *listener)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	/* net/ipv4/tcp.c, tcp_get_info: of a listening socket. */
	return getsockopt(listener->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ? -1 : (int)info.tcpi_unacked;
}

static int put_back(struct collection *c, const struct socket_note *listener, struct waiting *w,
		    int place, struct err *err)
{
	const Snap__Socket *s = note_socket(c, w->client);
	size_t sent = 0;

	if (disconnect(w->client, err) < 0 || reconnect(w->client, s, err) < 0)
		return -1;
	while (sent < w->len) {
		ssize_t n = send(w->client->fd, w->data + sent, w->len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return err_sys(err, "sending again on a connection that waits to be accepted");
		sent += n > 0 ? (size_t)n : 0;
	}
	/* The next must come after it. */
	for (int i = 0; i < QUEUE_MS && connections_waiting(listener) < place; i++)
		poll(NULL, 0, 1);
	return 0;
}

static int describe_waiting(struct collection *c, struct socket_note *listener,
			    const struct waiting *w, struct err *err)
{
	Snap__Socket *s = note_socket(c, listener);
	const Snap__Socket *client = note_socket(c, w->client);
	Snap__PendingConnection *p = snap_append(&s->pending, &s->n_pending, Snap__PendingConnection,
						 SNAP__PENDING_CONNECTION__INIT);
	Snap__SocketMessage *m;

	if (!p || snap_set_bytes(&p->address, client->local.data, client->local.len) < 0)
		return no_memory(err);
	p->client = w->client->inode;
	if (w->len == 0)
		return 0;
	m = snap_append(&p->messages, &p->n_messages, Snap__SocketMessage, SNAP__SOCKET_MESSAGE__INIT);
	return m && snap_set_bytes(&m->data, w->data, w->len) == 0 ? 0 : no_memory(err);
}

int tcp_save_waiting(struct collection *c, struct socket_note *listener, size_t n, struct err *err)
{
	struct waiting *list = calloc(n, sizeof(*list));
	size_t taken = 0;
	int result = list ? 0 : no_memory(err);
	struct err why;

	while (list && result == 0 && taken < n)
		result = take_one(c, listener, &list[taken++], err);
	/* What has been taken goes back whatever happens. */
	for (size_t i = 0; i < taken; i++) {
		if (list[i].client &&
		    put_back(c, listener, &list[i], (int)i + 1, result < 0 ? &why : err) < 0)
			result = -1;
		if (list[i].client && result == 0)
			result = describe_waiting(c, listener, &list[i], err);
		if (list[i].fd >= 0)
			close(list[i].fd);
		free(list[i].data);
	}
	free(list);
	return result;
}
