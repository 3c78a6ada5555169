#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

#ifndef TCP_ULP
#define TCP_ULP 31
#endif

static int list_tcp(struct collection *c, struct err *err)
{
	struct socket_notes *n = c->sockets;

	return n->tcp ? 0 : sockdiag_list_inet(IPPROTO_TCP, &n->tcp, &n->n_tcp, err);
}

/* A socket of state CLOSE has never been connected, or it has been and all is over. Only reading tells
 * (ENOTCONN or the end); what an error waiting would answer is for the job to hear. */
static int describe_closed(struct socket_note *note, int domain, Snap__Socket *s, struct err *err)
{
	struct sockaddr_storage remote;
	socklen_t len = domain == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	char byte;

	s->reset = has_event(note->fd, 0, POLLERR);
	if (!s->reset && tcp_peek(note, &byte, 1) < 0 && errno == ENOTCONN)
		return 0;
	s->state = SNAP__SOCKET__STATE__FINISHED;
	/* With whom it was connected getpeername(2) does not tell any more. This does, for just that length. */
	if (s->remote.len == 0 && getsockopt(note->fd, SOL_SOCKET, SO_PEERNAME, &remote, &len) == 0 &&
	    snap_set_bytes(&s->remote, &remote, len) < 0)
		return err_set(err, ERR_SYSTEM, "out of memory");
	return 0;
}

/* Not connected yet, so getpeername(2) does not tell with whom. */
static int describe_connecting(struct collection *c, struct socket_note *note, Snap__OpenFile *o,
			       struct err *err)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};
	struct sockaddr_in four = {.sin_family = AF_INET};
	const struct inet_info *info;

	if (list_tcp(c, err) < 0)
		return -1;
	info = inet_info_by_inode(c->sockets->tcp, c->sockets->n_tcp, note->inode);
	if (!info)
		return note_refuse(note, err, "a TCP socket that is just connecting");
	o->socket->state = SNAP__SOCKET__STATE__CONNECTING;
	note->remote = info->remote;
	six.sin6_port = four.sin_port = htons(info->remote.port);
	memcpy(&six.sin6_addr, info->remote.ip, sizeof(info->remote.ip));
	memcpy(&four.sin_addr, info->remote.ip + 12, 4);
	if ((o->domain == AF_INET ? snap_set_bytes(&o->socket->remote, &four, sizeof(four))
				  : snap_set_bytes(&o->socket->remote, &six, sizeof(six))) < 0)
		return err_set(err, ERR_SYSTEM, "out of memory");
	return 0;
}

static int refuse_special(const struct socket_note *note, struct err *err)
{
	char protocol[16] = "";
	socklen_t len = sizeof(protocol);

	if (getsockopt(note->fd, IPPROTO_TCP, TCP_ULP, protocol, &len) == 0 && len > 0 && *protocol)
		return note_refuse(note, err, "a TCP socket with the kernel's %.15s", protocol);
	return 0;
}

int describe_tcp(struct collection *c, size_t index, struct err *err)
{
	struct socket_note *note = &c->sockets->list[index];
	Snap__OpenFile *o = note_open_file(c, note);
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(note->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return note_refuse(note, err, "a TCP socket that does not tell its state");
	note->tcp_state = info.tcpi_state;
	inet_take_addresses(note, o->socket);
	describe_free_bind(note, o->socket);
	if (refuse_special(note, err) < 0)
		return -1;
	switch (info.tcpi_state) {
	case TCP_LISTEN:
		/* net/ipv4/tcp.c, tcp_get_info. */
		o->socket->state = SNAP__SOCKET__STATE__LISTENING;
		o->socket->backlog = info.tcpi_sacked;
		return 0;
	case TCP_CLOSE:
		if (describe_closed(note, o->domain, o->socket, err) < 0)
			return -1;
		inet_take_addresses(note, o->socket);
		/* No round trip has been measured: it never was connected. */
		o->socket->refused = o->socket->reset && info.tcpi_rtt == 0;
		return o->socket->state == SNAP__SOCKET__STATE__FINISHED ? tcp_copy_queue(c, note, err)
									 : 0;
	case TCP_SYN_SENT:
	case TCP_SYN_RECV:
		return describe_connecting(c, note, o, err);
	default:
		o->socket->state = SNAP__SOCKET__STATE__CONNECTED;
		return 0;
	}
}

static struct socket_note *find_other_end(const struct collection *c, const struct socket_note *note)
{
	Snap__Socket__State state = note_socket(c, note)->state;

	for (size_t i = 0; i < c->sockets->n; i++) {
		struct socket_note *other = &c->sockets->list[i];
		const Snap__OpenFile *o = note_open_file(c, other);

		if (other != note && o->type == SOCK_STREAM && other->tcp_state &&
		    o->socket->state == state &&
		    inet_address_equal(&other->local, &note->remote) &&
		    inet_address_equal(&other->remote, &note->local))
			return other;
	}
	return NULL;
}

static const struct inet_info *find_other_info(const struct collection *c,
					       const struct socket_note *note)
{
	for (size_t i = 0; i < c->sockets->n_tcp; i++) {
		const struct inet_info *info = &c->sockets->tcp[i];

		if (inet_address_equal(&info->local, &note->remote) &&
		    inet_address_equal(&info->remote, &note->local))
			return info;
	}
	return NULL;
}

static struct socket_note *find_listener(const struct collection *c, const struct inet_address *at)
{
	for (size_t i = 0; i < c->sockets->n; i++) {
		struct socket_note *note = &c->sockets->list[i];

		if (note->tcp_state == TCP_LISTEN && note->local.port == at->port &&
		    (inet_address_is_any(&note->local) || inet_address_equal(&note->local, at)))
			return note;
	}
	return NULL;
}

static int come_back_reset(struct collection *c, struct socket_note *note, struct err *err)
{
	Snap__OpenFile *o = note_open_file(c, note);

	o->socket->state = SNAP__SOCKET__STATE__FINISHED;
	o->socket->reset = true;
	o->socket->outside = true;
	return tcp_copy_queue(c, note, err);
}

static int judge_outside(struct collection *c, struct socket_note *note, struct err *err)
{
	const Snap__OpenFile *o = note_open_file(c, note);
	const ProtobufCBinaryData *remote = &o->socket->remote;
	char where[128];

	if (c->config->connections == CONNECTIONS_RESET || note->inherited)
		return come_back_reset(c, note, err);
	return note_refuse(note, err,
			   "%s stream socket %s %s, outside the job (see --connections)",
			   o->domain == AF_INET ? "AF_INET" : "AF_INET6",
			   o->socket->state == SNAP__SOCKET__STATE__CONNECTING ? "connecting to"
									       : "connected to",
			   address_text(remote->data, remote->len, where, sizeof(where)));
}

/* The other end has no descriptor. It waits to be accepted, or it has been closed. */
static int relate_lonely(struct collection *c, struct socket_note *note, struct err *err)
{
	const struct inet_info *other = find_other_info(c, note);
	Snap__OpenFile *o = note_open_file(c, note);

	if (!inet_is_local(&note->remote) || (other && other->inode))
		return judge_outside(c, note, err);
	if (other && (other->state == TCP_ESTABLISHED || other->state == TCP_CLOSE_WAIT ||
		      other->state == TCP_SYN_RECV)) {
		if (!find_listener(c, &note->remote))
			return judge_outside(c, note, err);
		o->socket->state = SNAP__SOCKET__STATE__PENDING;
		return 0;
	}
	if (other && (other->state == TCP_FIN_WAIT1 || other->state == TCP_CLOSING) &&
	    note->tcp_state == TCP_ESTABLISHED)
		return note_refuse(note, err,
				   "a TCP socket whose peer has been closed before all it sent has arrived");
	o->hung_up = true;
	return tcp_copy_queue(c, note, err);
}

static int relate_pair(struct collection *c, struct socket_note *a, struct socket_note *b,
		       struct err *err)
{
	note_open_file(c, a)->peer = b->inode;
	note_open_file(c, b)->peer = a->inode;
	if (tcp_settle(c, a, b, err) < 0)
		return -1;
	return tcp_settle(c, b, a, err);
}

static int relate_one(struct collection *c, struct socket_note *note, struct err *err)
{
	Snap__OpenFile *o = note_open_file(c, note);
	struct socket_note *other;

	if (o->socket->state == SNAP__SOCKET__STATE__FINISHED && !o->socket->reset) {
		other = find_other_end(c, note);
		o->peer = other && !note_socket(c, other)->reset ? other->inode : 0;
	}
	if (o->socket->state == SNAP__SOCKET__STATE__CONNECTING)
		return find_listener(c, &note->remote) ? 0 : judge_outside(c, note, err);
	if (o->socket->state != SNAP__SOCKET__STATE__CONNECTED || o->peer)
		return 0;
	if (note->inherited)
		return judge_outside(c, note, err);
	other = find_other_end(c, note);
	return other ? relate_pair(c, note, other, err) : relate_lonely(c, note, err);
}

/* Of all, before the first two are related: settling one end depends on what the other one has ended. */
static void take_shutdowns(const struct collection *c)
{
	for (size_t i = 0; i < c->sockets->n; i++) {
		const struct socket_note *note = &c->sockets->list[i];
		const struct inet_info *info =
			note->tcp_state ? inet_info_by_inode(c->sockets->tcp, c->sockets->n_tcp, note->inode) : NULL;

		if (info)
			note_socket(c, note)->shutdown = info->shutdown;
	}
}

/* ---- connections that wait to be accepted -------------------------------------------------- */

static const struct socket_note *find_client(const struct collection *c, const struct inet_info *info)
{
	for (size_t i = 0; i < c->sockets->n; i++)
		if (inet_address_equal(&c->sockets->list[i].local, &info->remote) &&
		    inet_address_equal(&c->sockets->list[i].remote, &info->local))
			return &c->sockets->list[i];
	return NULL;
}

static int add_pending(struct collection *c, struct socket_note *listener,
		       const struct socket_note *client, struct err *err)
{
	Snap__Socket *s = note_socket(c, listener);
	Snap__PendingConnection *p = snap_append(&s->pending, &s->n_pending, Snap__PendingConnection,
						 SNAP__PENDING_CONNECTION__INIT);

	if (!p || snap_set_bytes(&p->address, note_socket(c, client)->local.data,
				 note_socket(c, client)->local.len) < 0)
		return err_set(err, ERR_SYSTEM, "out of memory");
	p->client = client->inode;
	return 0;
}

/* One of those that wait. Counts it, and what it has received. */
static int judge_waiting(struct collection *c, struct socket_note *listener,
			 const struct inet_info *info, size_t *n, size_t *received, struct err *err)
{
	const struct socket_note *client = find_client(c, info);

	if (!client && c->config->connections == CONNECTIONS_RESET) {
		note_dropped(listener);
		return 0;
	}
	if (!client)
		return note_refuse(listener, err,
				   "a listening TCP socket with a connection waiting that %s (see "
				   "--connections)",
				   info->state == TCP_ESTABLISHED ? "comes from outside the job"
								  : "its client has closed already");
	++*n;
	*received += info->queued || info->state != TCP_ESTABLISHED;
	if (!tcp_can_be_put_back(c, info))
		return note_refuse(client, err,
				   "a TCP socket that is half closed, or has more under way, on a "
				   "connection that is not accepted yet");
	return 0;
}

/* Their order does not show, so with more than one, too, they are taken out to see. */
static int relate_queue(struct collection *c, struct socket_note *listener, struct err *err)
{
	const struct inet_info *only = NULL;
	size_t n = 0, received = 0, all = 0;

	for (size_t i = 0; i < c->sockets->n_tcp; i++) {
		const struct inet_info *info = &c->sockets->tcp[i];

		if (info->inode ||
		    (info->state != TCP_ESTABLISHED && info->state != TCP_CLOSE_WAIT) ||
		    find_listener(c, &info->local) != listener)
			continue;
		all++;
		if (judge_waiting(c, listener, info, &n, &received, err) < 0)
			return -1;
		only = info;
	}
	if (n == 0)
		return 0;
	if (n == 1 && !received && all == 1)
		return add_pending(c, listener, find_client(c, only), err);
	if (n < all)
		return note_refuse(listener, err,
				   "a listening TCP socket with connections waiting that come from outside "
				   "the job, among others");
	return tcp_save_waiting(c, listener, n, err);
}

/* Connections that the listening side has not completed, as with TCP_DEFER_ACCEPT before anything is sent. They come
 * after those that can be accepted. */
static int relate_half_open(struct collection *c, struct socket_note *listener, struct err *err)
{
	for (size_t i = 0; i < c->sockets->n_tcp; i++) {
		const struct inet_info *info = &c->sockets->tcp[i];
		const struct socket_note *client = NULL;

		if (!info->inode && info->state == TCP_SYN_RECV && find_listener(c, &info->local) == listener)
			client = find_client(c, info);
		if (client && note_socket(c, client)->state == SNAP__SOCKET__STATE__PENDING &&
		    add_pending(c, listener, client, err) < 0)
			return -1;
	}
	return 0;
}

static int relate_listener(struct collection *c, struct socket_note *listener, struct err *err)
{
	return relate_queue(c, listener, err) < 0 ? -1 : relate_half_open(c, listener, err);
}

/* A port is held for a minute after its connections have ended (TIME_WAIT), against everyone but who says
 * SO_REUSEADDR, now and then: so that the recovered job gets its ports again, all have said it. */
static void ask_for_ports_again(const struct socket_note *note)
{
	int one = 1;

	setsockopt(note->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
}

int relate_tcp(struct collection *c, struct err *err)
{
	bool any = false;

	for (size_t i = 0; i < c->sockets->n; i++)
		any |= c->sockets->list[i].tcp_state != 0;
	if (!any)
		return 0;
	if (list_tcp(c, err) < 0)
		return -1;
	take_shutdowns(c);
	/* Before one of them ends by being settled. */
	for (size_t i = 0; i < c->sockets->n; i++)
		if (c->sockets->list[i].tcp_state)
			ask_for_ports_again(&c->sockets->list[i]);
	for (size_t i = 0; i < c->sockets->n; i++)
		if (c->sockets->list[i].tcp_state &&
		    relate_one(c, &c->sockets->list[i], err) < 0)
			return -1;
	for (size_t i = 0; i < c->sockets->n; i++)
		if (c->sockets->list[i].tcp_state == TCP_LISTEN &&
		    relate_listener(c, &c->sockets->list[i], err) < 0)
			return -1;
	return 0;
}
