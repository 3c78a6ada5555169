/* What TCP, UDP and ICMP sockets have in common, and all of them but TCP; netlink. */
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

void inet_take_addresses(struct socket_note *note, const Snap__Socket *s)
{
	inet_address_from(&note->local, s->local.data, s->local.len);
	inet_address_from(&note->remote, s->remote.data, s->remote.len);
}

/* It can be bound. */
bool inet_is_local(const struct inet_address *a)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6};
	cleanup_fd int fd = -1;

	if (inet_address_is_loopback(a))
		return true;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	memcpy(&address.sin6_addr, a->ip, sizeof(a->ip));
	return fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

void describe_free_bind(const struct socket_note *note, Snap__Socket *s)
{
	s->free_bind = s->local.len && !inet_address_is_any(&note->local) && !inet_is_local(&note->local);
}

const struct inet_info *inet_info_by_inode(const struct inet_info *list, size_t n, uint32_t inode)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].inode == inode)
			return &list[i];
	return NULL;
}

/* ---- UDP ----------------------------------------------------------------------------------- */

static bool is_udp_lite(const Snap__Socket *s)
{
	return s->protocol == IPPROTO_UDPLITE;
}

/* Whether what comes from there can come again: from a socket of the job, or of nobody any more. */
static bool can_send_again(const struct collection *c, bool lite, const struct inet_address *from)
{
	for (size_t i = 0; i < c->sockets->n_udp[lite]; i++) {
		const struct inet_info *info = &c->sockets->udp[lite][i];

		if (info->local.port == from->port &&
		    (inet_address_is_any(&info->local) || inet_address_equal(&info->local, from)))
			return note_by_inode(c, info->inode) != NULL;
	}
	return inet_is_local(from);
}

static int judge_datagram(const struct collection *c, const struct socket_note *note,
			  const Snap__SocketMessage *m, bool *ret_drop, struct err *err)
{
	struct inet_address from;
	char where[128];

	*ret_drop = false;
	if (inet_address_from(&from, m->from.data, m->from.len) == 0 &&
	    can_send_again(c, is_udp_lite(note_socket(c, note)), &from))
		return 0;
	address_text(m->from.data, m->from.len, where, sizeof(where));
	if (c->config->connections != CONNECTIONS_RESET)
		return note_refuse(note, err,
				   "a UDP socket with an unread datagram from %s, outside the job (see "
				   "--connections)",
				   where);
	log_warn("process %d: fd %d: an unread datagram from %s is not saved",
		 note->holder->frozen->vpid, note->number, where);
	*ret_drop = true;
	return 0;
}

static int judge_datagrams(const struct collection *c, const struct socket_note *note,
			   Snap__Socket *s, struct err *err)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->n_messages; i++) {
		bool drop;

		if (judge_datagram(c, note, s->messages[i], &drop, err) < 0)
			return -1;
		if (drop) {
			snap__socket_message__free_unpacked(s->messages[i], NULL);
			s->messages[i] = NULL;
		}
	}
	for (size_t i = 0; i < s->n_messages; i++)
		if (s->messages[i])
			s->messages[kept++] = s->messages[i];
	s->n_messages = kept;
	return 0;
}

int describe_udp(struct collection *c, size_t index, struct err *err)
{
	struct socket_note *note = &c->sockets->list[index];
	struct socket_notes *n = c->sockets;
	const struct inet_info *info;
	Snap__Socket *s = note_socket(c, note);
	bool lite = is_udp_lite(s);

	inet_take_addresses(note, s);
	describe_free_bind(note, s);
	if (get_int_option(note->fd, IPPROTO_UDP, 1) == 1) /* UDP_CORK */
		return note_refuse(note, err, "a UDP socket that holds a datagram back (UDP_CORK)");
	if (describe_memberships(c, note, err) < 0 || copy_messages(c, index, err) < 0)
		return -1;
	if (s->n_messages == 0 && s->remote.len == 0)
		return 0;
	if (!n->udp[lite] && sockdiag_list_inet(s->protocol, &n->udp[lite], &n->n_udp[lite], err) < 0)
		return -1;
	/* Only what is connected can be shut down. */
	info = inet_info_by_inode(n->udp[lite], n->n_udp[lite], note->inode);
	s->shutdown = info ? info->shutdown : 0;
	return judge_datagrams(c, note, s, err);
}

/* Answers that nobody has read come from outside, and may be lost as on their way. */
int describe_ping(struct collection *c, size_t index, struct err *err)
{
	struct socket_note *note = &c->sockets->list[index];
	bool unread = has_event(note->fd, POLLIN, POLLIN);

	inet_take_addresses(note, note_socket(c, note));
	if (unread && c->config->connections != CONNECTIONS_RESET)
		return note_refuse(note, err, "an ICMP socket with an unread answer (see --connections)");
	if (unread)
		log_warn("process %d: fd %d: an unread answer is not saved", note->holder->frozen->vpid, note->number);
	return 0;
}

/* ---- netlink ------------------------------------------------------------------------------- */

int describe_netlink(struct collection *c, size_t index, struct err *err)
{
	const struct socket_note *note = &c->sockets->list[index];
	uint32_t groups[16] = {0};
	socklen_t len = sizeof(groups);
	int protocol = note_socket(c, note)->protocol;

	if (protocol != NETLINK_ROUTE && protocol != NETLINK_SOCK_DIAG &&
	    protocol != NETLINK_KOBJECT_UEVENT && protocol != NETLINK_GENERIC)
		return note_refuse(note, err, "AF_NETLINK socket, protocol %d", protocol);
	if (has_event(note->fd, POLLIN, POLLIN))
		return note_refuse(note, err, "AF_NETLINK socket with unread messages");
	/* Those below 32 are in its address. */
	if (getsockopt(note->fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &len) == 0)
		for (size_t i = 1; i < sizeof(groups) / sizeof(groups[0]); i++)
			if (groups[i])
				return note_refuse(note, err, "AF_NETLINK socket in groups above 32");
	return 0;
}
