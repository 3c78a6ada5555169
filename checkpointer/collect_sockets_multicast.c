#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "checkpointer/sockets.h"
#include "checkpointer/tracee/procfs_net.h"
#include "store/base/cleanup.h"

/*
 * Multicast groups that a socket has joined. It is asked of every group that there is whether it is in that one, by
 * asking for the sources it takes there (MCAST_MSFILTER, RFC 3678).
 */

#define SOURCES_MOST 64 /* net.ipv4.igmp_max_msf is 10 */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing multicast groups");
}

static void fill_address(struct sockaddr_storage *to, const struct multicast_group *g)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};
	struct sockaddr_in four = {.sin_family = AF_INET};

	memset(to, 0, sizeof(*to));
	if (g->len == 4) {
		memcpy(&four.sin_addr, g->address, g->len);
		memcpy(to, &four, sizeof(four));
	} else {
		memcpy(&six.sin6_addr, g->address, g->len);
		memcpy(to, &six, sizeof(six));
	}
}

static const void *bytes_of(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)(const void *)a)->sin_addr
				       : &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
}

static int add_membership(Snap__Socket *s, const struct multicast_group *g, const struct group_filter *f,
			  struct err *err)
{
	Snap__Membership *m =
		snap_append(&s->memberships, &s->n_memberships, Snap__Membership, SNAP__MEMBERSHIP__INIT);

	if (!m || snap_set_string(&m->interface, g->name) < 0 || snap_set_bytes(&m->group, g->address, g->len) < 0)
		return no_memory(err);
	m->include = f->gf_fmode == MCAST_INCLUDE;
	for (uint32_t i = 0; i < f->gf_numsrc; i++)
		if (snap_append_bytes(&m->sources, &m->n_sources, bytes_of(&f->gf_slist[i]), g->len) < 0)
			return no_memory(err);
	return 0;
}

static int ask(const struct socket_note *note, Snap__Socket *s, const struct multicast_group *g, struct err *err)
{
	socklen_t len = GROUP_FILTER_SIZE(SOURCES_MOST);
	cleanup_free struct group_filter *f = calloc(1, len);
	int level = g->len == 4 ? IPPROTO_IP : IPPROTO_IPV6;

	if (!f)
		return no_memory(err);
	f->gf_interface = (uint32_t)g->index;
	f->gf_numsrc = SOURCES_MOST;
	fill_address(&f->gf_group, g);
	if (getsockopt(note->fd, level, MCAST_MSFILTER, f, &len) < 0)
		return 0; /* EADDRNOTAVAIL: it is not */
	if (f->gf_numsrc > SOURCES_MOST)
		return note_refuse(note, err, "a UDP socket with more multicast sources than can be saved");
	return add_membership(s, g, f, err);
}

int describe_memberships(struct collection *c, const struct socket_note *note, struct err *err)
{
	struct multicast_groups groups;
	Snap__Socket *s = note_socket(c, note);
	bool six = note_open_file(c, note)->domain == AF_INET6;
	int result = 0;

	if (proc_read_multicast(&groups, err) < 0)
		return -1;
	for (size_t i = 0; i < groups.n && result == 0; i++)
		if (six || groups.list[i].len == 4)
			result = ask(note, s, &groups.list[i], err);
	multicast_groups_clear(&groups);
	return result;
}
