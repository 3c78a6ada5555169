/*
 * What a socket of a model must be before anything is made of it.
 */
#include <limits.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "checkpointer/tracee/sockopts.h"
#include "recovery/plan.h"

#define MESSAGE_MOST	 INT32_MAX
#define RIGHTS_MOST	 253 /* SCM_MAX_FD, include/net/scm.h */
#define SOURCES_MOST 1024 /* of a multicast group */
#define BACKLOG_MOST	 INT32_MAX

static int corrupt(struct err *err, const char *what, size_t index)
{
	return err_set(err, ERR_CORRUPT, "the snapshot contradicts itself: %s of open file %zu", what,
		       index);
}

static bool is_inet(int domain)
{
	return domain == AF_INET || domain == AF_INET6;
}

/* Empty, or of a family that a socket of the domain can have to do with, and whole. */
static bool address_is_usable(const ProtobufCBinaryData *address, int domain)
{
	sa_family_t family;

	if (address->len == 0)
		return true;
	if (address->len <= sizeof(family) || address->len > sizeof(struct sockaddr_storage))
		return false;
	memcpy(&family, address->data, sizeof(family));
	switch (family) {
	case AF_UNIX:
		return domain == AF_UNIX && address->len <= sizeof(struct sockaddr_un) + 1;
	case AF_INET:
		return is_inet(domain) && address->len == sizeof(struct sockaddr_in);
	case AF_INET6:
		return is_inet(domain) && address->len == sizeof(struct sockaddr_in6);
	case AF_NETLINK:
		return domain == AF_NETLINK && address->len == 12; /* struct sockaddr_nl */
	default:
		return false;
	}
}

static bool is_datagram_protocol(int protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE || protocol == IPPROTO_ICMP ||
	       protocol == IPPROTO_ICMPV6;
}

static bool kind_is_known(const Snap__OpenFile *open)
{
	switch (open->domain) {
	case AF_UNIX:
		return open->type == SOCK_STREAM || open->type == SOCK_DGRAM ||
		       open->type == SOCK_SEQPACKET;
	case AF_INET:
	case AF_INET6:
		return open->socket &&
		       ((open->type == SOCK_STREAM && open->socket->protocol == IPPROTO_TCP) ||
			(open->type == SOCK_DGRAM && is_datagram_protocol(open->socket->protocol)));
	case AF_NETLINK:
		return open->socket && (open->type == SOCK_RAW || open->type == SOCK_DGRAM) &&
		       open->socket->state == SNAP__SOCKET__STATE__UNCONNECTED;
	default:
		return false;
	}
}

static bool messages_are_usable(const Snap__Snapshot *model, const Snap__OpenFile *open,
				Snap__SocketMessage **messages, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const Snap__SocketMessage *m = messages[i];

		if (m->data.len > MESSAGE_MOST || m->n_open_files > RIGHTS_MOST ||
		    !address_is_usable(&m->from, open->domain) ||
		    (m->n_open_files && open->domain != AF_UNIX))
			return false;
		for (size_t j = 0; j < m->n_open_files; j++)
			if (m->open_files[j] < 0 || (size_t)m->open_files[j] >= model->n_open_files)
				return false;
	}
	return true;
}

static bool options_are_known(const Snap__Socket *s)
{
	for (size_t i = 0; i < s->n_options; i++) {
		const struct socket_option *known =
			socket_option_find(s->options[i]->level, s->options[i]->name);

		if (!known || s->options[i]->value.len > known->size)
			return false;
	}
	return true;
}

static const Snap__OpenFile *find_socket(const Snap__Snapshot *model, uint64_t object)
{
	for (size_t i = 0; i < model->n_open_files; i++)
		if (model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__SOCKET &&
		    model->open_files[i]->object == object)
			return model->open_files[i];
	return NULL;
}

static bool is_like(const Snap__OpenFile *a, const Snap__OpenFile *b)
{
	return a->type == b->type && (a->domain == b->domain || (is_inet(a->domain) && is_inet(b->domain)));
}

static int check_pending(const Snap__Snapshot *model, const Snap__OpenFile *open, size_t index,
			 struct err *err)
{
	const Snap__Socket *s = open->socket;

	if (s->n_pending && s->state != SNAP__SOCKET__STATE__LISTENING)
		return corrupt(err, "connections waiting", index);
	for (size_t i = 0; i < s->n_pending; i++) {
		const Snap__PendingConnection *p = s->pending[i];
		const Snap__OpenFile *client = p->client ? find_socket(model, p->client) : NULL;

		if (!address_is_usable(&p->address, open->domain) ||
		    !messages_are_usable(model, open, p->messages, p->n_messages) ||
		    (p->client && (!client || !client->socket || !is_like(client, open) ||
				   client->socket->state != SNAP__SOCKET__STATE__PENDING)))
			return corrupt(err, "connection waiting", index);
	}
	return 0;
}

/* Who says it waits must be waited for, or nobody would make it. */
static bool is_waited_for(const Snap__Snapshot *model, const Snap__OpenFile *open)
{
	for (size_t i = 0; i < model->n_open_files; i++) {
		const Snap__OpenFile *o = model->open_files[i];

		if (o->kind != SNAP__OPEN_FILE__KIND__SOCKET || !o->socket)
			continue;
		for (size_t j = 0; j < o->socket->n_pending; j++)
			if (o->socket->pending[j]->client == open->object)
				return true;
	}
	return false;
}

static bool memberships_are_usable(const Snap__Socket *s)
{
	for (size_t i = 0; i < s->n_memberships; i++) {
		const Snap__Membership *m = s->memberships[i];

		if (!m->interface || strlen(m->interface) >= IFNAMSIZ || (m->group.len != 4 && m->group.len != 16) ||
		    m->n_sources > SOURCES_MOST)
			return false;
		for (size_t j = 0; j < m->n_sources; j++)
			if (m->sources[j].len != m->group.len)
				return false;
	}
	return true;
}

/* None, or a whole one. */
static bool path_is_usable(const char *path)
{
	return !path || !*path || (path[0] == '/' && strlen(path) < PATH_MAX);
}

static int check_socket(const Snap__Snapshot *model, const Snap__OpenFile *open, size_t index,
			struct err *err)
{
	const Snap__Socket *s = open->socket;

	if ((unsigned)s->state > SNAP__SOCKET__STATE__PENDING ||
	    (s->state == SNAP__SOCKET__STATE__CONNECTING && (!is_inet(open->domain) || !s->remote.len)) ||
	    (s->state == SNAP__SOCKET__STATE__FINISHED && !is_inet(open->domain)) ||
	    (s->refused && (s->state != SNAP__SOCKET__STATE__FINISHED || s->n_messages)) ||
	    (s->state == SNAP__SOCKET__STATE__LISTENING && open->type == SOCK_DGRAM) ||
	    (s->state == SNAP__SOCKET__STATE__PENDING && !is_waited_for(model, open)))
		return corrupt(err, "state of the socket", index);
	if (!address_is_usable(&s->local, open->domain) || !address_is_usable(&s->remote, open->domain))
		return corrupt(err, "address of the socket", index);
	if (is_inet(open->domain) && s->state == SNAP__SOCKET__STATE__CONNECTED &&
	    (!s->local.len || !s->remote.len))
		return corrupt(err, "address of the connected socket", index);
	if (!memberships_are_usable(s) || s->backlog > BACKLOG_MOST || s->mode > 07777 || !options_are_known(s) ||
	    s->filter.len % sizeof(struct sock_filter) ||
	    s->filter.len > BPF_MAXINSNS * sizeof(struct sock_filter) ||
	    !path_is_usable(s->directory) || !path_is_usable(s->moved_to))
		return corrupt(err, "socket", index);
	if (!messages_are_usable(model, open, s->messages, s->n_messages))
		return corrupt(err, "message of the socket", index);
	return check_pending(model, open, index, err);
}

int plan_check_socket(const Snap__Snapshot *model, size_t index, struct err *err)
{
	const Snap__OpenFile *open = model->open_files[index];
	const Snap__OpenFile *peer = open->peer ? find_socket(model, open->peer) : NULL;

	if (!kind_is_known(open) || open->queue.len > MESSAGE_MOST)
		return corrupt(err, "kind of the socket", index);
	if (open->peer && (!peer || !is_like(peer, open)))
		return corrupt(err, "other end", index);
	return open->socket ? check_socket(model, open, index, err) : 0;
}
