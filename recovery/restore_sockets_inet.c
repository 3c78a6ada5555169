/*
 * TCP, UDP and netlink sockets.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/tracee/sockdiag.h"
#include "recovery/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"

#define CONNECT_MS   5000
#define REUSE_WAIT_NS (9 * NSEC_PER_SEC / 4) /* a second has passed; before Linux 6.14 they are counted whole */
#define ROOM_LEAST   (64u << 10)	 /* of unread bytes that a fresh connection takes anyway */

static const Snap__OpenFile *model_of(const struct sockets *s, size_t i)
{
	return s->rec->model->open_files[i];
}

static bool is_tcp(const struct sockets *s, size_t i)
{
	return is_socket(s->rec, i) && model_of(s, i)->type == SOCK_STREAM &&
	       (model_of(s, i)->domain == AF_INET || model_of(s, i)->domain == AF_INET6);
}

/* ---- one connection ------------------------------------------------------------------------ */

/* What is wanted of a temporary connection: addresses may be empty (any will do). */
struct wanted {
	const Snap__OpenFile *client, *server; /* NULL: that end is temporary */
	int client_family, server_family;
	const ProtobufCBinaryData *client_address, *server_address;
	bool at_once; /* rather not than wait for a minute for an address */
};

/* A receive buffer for all that was unread. Raising SO_RCVLOWAT makes the kernel grow it as far as it would
 * by itself (net/ipv4/tcp.c, tcp_set_rcvlowat), which SO_RCVBUF does not; it is lowered again at the end. */
static void make_room(int fd, const Snap__OpenFile *open)
{
	uint64_t bytes = open ? queued_bytes(open) : 0;

	if (bytes > ROOM_LEAST && bytes < INT32_MAX / 4)
		set_int_option(fd, SOL_SOCKET, SO_RCVLOWAT, (int)bytes * 2);
}

static int new_end(int family, const Snap__OpenFile *open, const ProtobufCBinaryData *address,
		   bool at_once, struct err *err)
{
	cleanup_fd int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_sys(err, "TCP socket");
	if (open && set_early_options(fd, open, err) < 0)
		return -1;
	make_room(fd, open);
	if (address->len && bind_address(fd, IPPROTO_TCP, address, at_once, err) < 0)
		return -1;
	return steal_fd(&fd);
}

static int bind_anywhere(int fd, int family, struct err *err)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int result = family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof(four))
				       : bind(fd, (struct sockaddr *)&six, sizeof(six));

	return result < 0 ? err_sys(err, "a port for a moment") : 0;
}

static int connect_to(int client, int listener, const ProtobufCBinaryData *address, int family,
		      struct err *err)
{
	struct sockaddr_storage at = {0};
	struct sockaddr_in6 converted;
	socklen_t len = sizeof(at);
	struct inet_address a;

	if (address->len) {
		memcpy(&at, address->data, address->len);
		len = (socklen_t)address->len;
	} else if (getsockname(listener, (struct sockaddr *)&at, &len) < 0) {
		return err_sys(err, "TCP socket");
	}
	/* An IPv4 client of an IPv6 socket, or the other way round. */
	if (at.ss_family != family && inet_address_from(&a, &at, len) == 0) {
		socket_address(&a, family, &converted);
		memcpy(&at, &converted, sizeof(converted));
		len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(converted);
	}
	if (connect(client, (struct sockaddr *)&at, len) < 0 && errno != EINPROGRESS)
		return err_sys(err, "connecting to %s", "a socket of the job");
	return 0;
}

static bool is_from(int fd, const struct sockaddr_storage *wanted, socklen_t len)
{
	struct sockaddr_storage got;
	struct inet_address a, b;
	socklen_t got_len = sizeof(got);

	return getpeername(fd, (struct sockaddr *)&got, &got_len) == 0 &&
	       inet_address_from(&a, &got, got_len) == 0 && inet_address_from(&b, wanted, len) == 0 &&
	       inet_address_equal(&a, &b);
}

/* The connection from `client`; anybody else who happens to come is turned away. */
static int accept_from(int listener, int client, struct err *err)
{
	struct pollfd p = {.fd = listener, .events = POLLIN};
	struct sockaddr_storage wanted;
	socklen_t len = sizeof(wanted);

	while (poll(&p, 1, CONNECT_MS) > 0) {
		cleanup_fd int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		len = sizeof(wanted);
		if (fd >= 0 && getsockname(client, (struct sockaddr *)&wanted, &len) == 0 &&
		    is_from(fd, &wanted, len))
			return steal_fd(&fd);
	}
	return err_set(err, ERR_SYSTEM, "a connection of the job cannot be made again");
}

/* -1: it has to be bound. The same connection, just ended, gives way after a second (tcp(7), tcp_tw_reuse). */
static int client_of_choice(const struct wanted *w, int listener)
{
	static const ProtobufCBinaryData any;
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + REUSE_WAIT_NS;
	struct err err;

	for (;;) {
		cleanup_fd int fd = new_end(w->client_family, w->client, &any, true, &err);

		if (fd < 0 || choose_port(fd, w->client_address) < 0)
			return -1;
		if (connect_to(fd, listener, w->server_address, w->client_family, &err) == 0) {
			forget_choice(fd);
			return has_address(fd, w->client_address) ? steal_fd(&fd) : -1;
		}
		if (err.sys_errno != EADDRNOTAVAIL || clock_ns(CLOCK_MONOTONIC) > end)
			return -1;
		poll(NULL, 0, 50);
	}
}

static int new_client(const struct wanted *w, int listener, struct err *err)
{
	cleanup_fd int fd = w->client_address->len ? client_of_choice(w, listener) : -1;

	if (fd >= 0)
		return steal_fd(&fd);
	fd = new_end(w->client_family, w->client, w->client_address, w->at_once, err);
	if (fd < 0 || connect_to(fd, listener, w->server_address, w->client_family, err) < 0)
		return -1;
	return steal_fd(&fd);
}

static int connect_ends(const struct wanted *w, int *ret_client, int *ret_server, struct err *err)
{
	cleanup_fd int listener = new_end(w->server_family, w->server, w->server_address, w->at_once, err);
	cleanup_fd int client = -1;
	int server;

	if (listener < 0)
		return -1;
	if (!w->server_address->len && bind_anywhere(listener, w->server_family, err) < 0)
		return -1;
	if (listen(listener, 8) < 0)
		return err_sys(err, "listening for a connection of the job");
	client = new_client(w, listener, err);
	if (client < 0)
		return -1;
	server = accept_from(listener, client, err);
	if (server < 0)
		return -1;
	make_room(server, w->server);
	*ret_client = steal_fd(&client);
	*ret_server = server;
	return 0;
}

/* ---- connected ----------------------------------------------------------------------------- */

static bool somebody_listens(const struct sockets *s, uint16_t port)
{
	for (size_t i = 0; i < s->rec->model->n_open_files; i++)
		if (is_tcp(s, i) && socket_state(model_of(s, i)) == SNAP__SOCKET__STATE__LISTENING &&
		    port_of(&socket_model(model_of(s, i))->local) == port)
			return true;
	return false;
}

static int family_of(const ProtobufCBinaryData *address, int otherwise)
{
	sa_family_t family;

	if (address->len < sizeof(family))
		return otherwise;
	memcpy(&family, address->data, sizeof(family));
	return family;
}

/* The end whose port the job listens at was accepted; any other way round would do as well. */
static int make_connection(struct sockets *s, size_t index, struct err *err)
{
	const Snap__OpenFile *mine = model_of(s, index);
	const Snap__Socket *m = socket_model(mine);
	ssize_t peer = socket_by_object(s->rec, mine->peer);
	const Snap__OpenFile *other = peer >= 0 ? model_of(s, (size_t)peer) : NULL;
	bool serves = somebody_listens(s, port_of(&m->local));
	const ProtobufCBinaryData *theirs = other ? &socket_model(other)->local : &m->remote;
	int their_family = other ? other->domain : family_of(theirs, mine->domain);
	struct wanted w = {mine, other, mine->domain, their_family, &m->local, theirs};
	int client, server;

	if (serves)
		w = (struct wanted){other, mine, their_family, mine->domain, theirs, &m->local};
	if (connect_ends(&w, &client, &server, err) < 0)
		return -1;
	s->rec->open_fds[index] = serves ? server : client;
	if (peer >= 0)
		s->rec->open_fds[peer] = serves ? client : server;
	else
		s->slots[index].other = serves ? client : server;
	return 0;
}

/* Both ends of what is over are still there: with whom they were connected shows by SO_PEERNAME. Their addresses
 * may be held by what has just ended, and are not worth a long wait. */
static bool make_finished_pair(struct sockets *s, size_t index)
{
	const Snap__OpenFile *mine = model_of(s, index);
	ssize_t peer = socket_by_object(s->rec, mine->peer);
	struct wanted w = {.client = mine, .client_family = mine->domain, .at_once = true};
	struct err ignored;

	if (peer < 0 || s->rec->open_fds[peer] >= 0)
		return false;
	w.server = model_of(s, (size_t)peer);
	w.server_family = w.server->domain;
	w.client_address = &socket_model(mine)->local;
	w.server_address = &socket_model(w.server)->local;
	return connect_ends(&w, &s->rec->open_fds[index], &s->rec->open_fds[peer], &ignored) == 0;
}

/* Its connect(2) has failed, and the job has not heard of it yet: so does this one. */
static int make_refused(struct sockets *s, size_t index, struct err *err)
{
	static const ProtobufCBinaryData any;
	const Snap__OpenFile *mine = model_of(s, index);
	cleanup_fd int deaf = new_end(mine->domain, NULL, &any, true, err), fd = -1;
	struct pollfd p = {.events = POLLOUT};

	if (deaf < 0 || bind_anywhere(deaf, mine->domain, err) < 0)
		return -1;
	p.fd = fd = new_end(mine->domain, mine, &any, true, err);
	if (fd < 0 || connect_to(fd, deaf, &any, mine->domain, err) < 0)
		return -1;
	if (poll(&p, 1, CONNECT_MS) <= 0 || !(p.revents & POLLERR))
		return err_set(err, ERR_SYSTEM, "a connection that was refused is not refused again");
	s->rec->open_fds[index] = steal_fd(&fd);
	return 0;
}

static int make_finished(struct sockets *s, size_t index, struct err *err)
{
	static const ProtobufCBinaryData any;
	const Snap__OpenFile *mine = model_of(s, index);
	struct wanted w = {mine, NULL, mine->domain, mine->domain, &socket_model(mine)->local, &any, false};

	if (socket_model(mine)->refused)
		return make_refused(s, index, err);
	if (make_finished_pair(s, index) ||
	    connect_ends(&w, &s->rec->open_fds[index], &s->slots[index].other, err) == 0)
		return 0;
	/* Its own address may be one of another machine. */
	w.client_address = &any;
	return connect_ends(&w, &s->rec->open_fds[index], &s->slots[index].other, err);
}

int inet_make_connected(struct sockets *s, struct err *err)
{
	char label[192];

	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		int result = 0;

		if (!is_tcp(s, i) || s->rec->open_fds[i] >= 0)
			continue;
		if (socket_state(model_of(s, i)) == SNAP__SOCKET__STATE__CONNECTED)
			result = make_connection(s, i, err);
		else if (socket_state(model_of(s, i)) == SNAP__SOCKET__STATE__FINISHED)
			result = make_finished(s, i, err);
		if (result < 0)
			return err_wrap(err, "%s", socket_label(s->rec, i, label, sizeof(label)));
	}
	return 0;
}

/* ---- all others ---------------------------------------------------------------------------- */

/* False: it has none. */
static bool netlink_address(const ProtobufCBinaryData *address, struct sockaddr_nl *ret)
{
	if (address->len < sizeof(*ret))
		return false;
	memcpy(ret, address->data, sizeof(*ret));
	return ret->nl_pid || ret->nl_groups;
}

static int bind_netlink(int fd, const ProtobufCBinaryData *address, struct err *err)
{
	struct sockaddr_nl nl;

	if (!netlink_address(address, &nl) || bind(fd, (struct sockaddr *)&nl, sizeof(nl)) == 0)
		return 0;
	nl.nl_pid = 0;
	return bind(fd, (struct sockaddr *)&nl, sizeof(nl)) < 0 ? err_sys(err, "netlink socket") : 0;
}

static int connect_netlink(int fd, const ProtobufCBinaryData *address, struct err *err)
{
	struct sockaddr_nl nl;

	if (!netlink_address(address, &nl) || connect(fd, (struct sockaddr *)&nl, sizeof(nl)) == 0)
		return 0;
	return err_sys(err, "netlink socket");
}

static int begin_connecting(int fd, const Snap__Socket *m, struct err *err)
{
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, "TCP socket");
	/* How it ends is for the job to see. */
	if (connect(fd, (struct sockaddr *)m->remote.data, (socklen_t)m->remote.len) < 0 &&
	    errno != EINPROGRESS && errno != ECONNREFUSED)
		return err_sys(err, "connecting again");
	return 0;
}

static int make_other(struct sockets *s, size_t index, struct err *err)
{
	const Snap__OpenFile *open = model_of(s, index);
	const Snap__Socket *m = socket_model(open);
	int fd = s->rec->open_fds[index] = make_socket(s->rec, index, err);

	if (fd < 0)
		return -1;
	if (open->domain == AF_NETLINK)
		return bind_netlink(fd, &m->local, err) < 0 ? -1 : connect_netlink(fd, &m->remote, err);
	if (m->local.len && port_of(&m->local) && bind_as_before(s->rec, index, err) < 0)
		return -1;
	if (m->state == SNAP__SOCKET__STATE__LISTENING && listen(fd, (int)m->backlog) < 0)
		return err_sys(err, "listening");
	if (m->state == SNAP__SOCKET__STATE__CONNECTING)
		return begin_connecting(fd, m, err);
	return 0;
}

/* Listening sockets before those that connect to them. */
int inet_make_others(struct sockets *s, struct err *err)
{
	char label[192];

	for (int listening = 1; listening >= 0; listening--) {
		for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
			const Snap__OpenFile *open = model_of(s, i);
			Snap__Socket__State state = socket_state(open);

			if (!is_socket(s->rec, i) || open->domain == AF_UNIX ||
			    s->rec->open_fds[i] >= 0 || state == SNAP__SOCKET__STATE__PENDING ||
			    (state == SNAP__SOCKET__STATE__LISTENING) != listening)
				continue;
			if (make_other(s, i, err) < 0)
				return err_wrap(err, "%s",
						socket_label(s->rec, i, label, sizeof(label)));
		}
	}
	return 0;
}

/* ---- waiting to be accepted ---------------------------------------------------------------- */

static int await_connection(int fd, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	if (poll(&p, 1, CONNECT_MS) <= 0 || p.revents & (POLLERR | POLLHUP))
		return err_set(err, ERR_SYSTEM, "a connection that waits to be accepted cannot be made again");
	return 0;
}

static int make_one_pending(struct sockets *s, size_t listener, const Snap__PendingConnection *p,
			    struct err *err)
{
	ssize_t index = socket_by_object(s->rec, p->client);
	const Snap__OpenFile *open = index >= 0 ? model_of(s, (size_t)index) : NULL;
	int family = open ? open->domain : family_of(&p->address, AF_INET);
	const ProtobufCBinaryData *to = open ? &socket_model(open)->remote
					     : &socket_model(model_of(s, listener))->local;
	int fd = new_end(family, open, &p->address, false, err);
	int result;

	if (fd < 0)
		return -1;
	if (index >= 0)
		s->rec->open_fds[index] = fd;
	result = connect_to(fd, s->rec->open_fds[listener], to, family, err);
	if (result == 0)
		result = await_connection(fd, err);
	if (result == 0)
		result = send_stream(s->rec, fd, p->messages, p->n_messages, err);
	if (index < 0)
		close(fd);
	return result;
}

int inet_make_pending(struct sockets *s, struct err *err)
{
	char label[192];

	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__Socket *m = socket_model(model_of(s, i));

		for (size_t j = 0; is_tcp(s, i) && j < m->n_pending; j++)
			if (make_one_pending(s, i, m->pending[j], err) < 0)
				return err_wrap(err, "%s",
						socket_label(s->rec, i, label, sizeof(label)));
	}
	return 0;
}

/* ---- UDP ----------------------------------------------------------------------------------- */

int inet_connect_datagram(struct sockets *s, struct err *err)
{
	char label[192];

	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__OpenFile *open = model_of(s, i);
		const Snap__Socket *m = socket_model(open);

		if (!is_socket(s->rec, i) || open->type != SOCK_DGRAM ||
		    (open->domain != AF_INET && open->domain != AF_INET6) || m->remote.len == 0)
			continue;
		/* Datagrams may be lost, and so may the way to where they went. */
		if (connect(s->rec->open_fds[i], (struct sockaddr *)m->remote.data,
			    (socklen_t)m->remote.len) < 0)
			log_warn("%s: connecting again: %s",
				 socket_label(s->rec, i, label, sizeof(label)), strerror(errno));
	}
	(void)err;
	return 0;
}
