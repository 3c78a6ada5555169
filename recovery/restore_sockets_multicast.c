/*
 * Multicast groups.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "recovery/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

/* Whoever leaves by the interface's address must be found to have joined by it (net/ipv4/igmp.c,
 * ip_mc_leave_group). */
static struct in_addr address_of(int fd, const char *interface)
{
	struct ifreq request = {0};
	struct sockaddr_in address = {0};

	strncpy(request.ifr_name, interface, sizeof(request.ifr_name) - 1);
	if (ioctl(fd, SIOCGIFADDR, &request) == 0)
		memcpy(&address, &request.ifr_addr, sizeof(address));
	return address.sin_addr;
}

static int join(int fd, const Snap__Membership *m, unsigned index)
{
	struct ip_mreqn four = {.imr_address = address_of(fd, m->interface), .imr_ifindex = (int)index};
	struct ipv6_mreq six = {.ipv6mr_interface = index};

	if (m->group.len == 4) {
		memcpy(&four.imr_multiaddr, m->group.data, m->group.len);
		return setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &four, sizeof(four));
	}
	memcpy(&six.ipv6mr_multiaddr, m->group.data, m->group.len);
	return setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &six, sizeof(six));
}

static void fill_address(struct sockaddr_storage *to, const ProtobufCBinaryData *bytes)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};
	struct sockaddr_in four = {.sin_family = AF_INET};

	memset(to, 0, sizeof(*to));
	memcpy(bytes->len == 4 ? (void *)&four.sin_addr : (void *)&six.sin6_addr, bytes->data, bytes->len);
	memcpy(to, bytes->len == 4 ? (void *)&four : (void *)&six, bytes->len == 4 ? sizeof(four) : sizeof(six));
}

static int filter(int fd, const Snap__Membership *m, unsigned index)
{
	socklen_t len = GROUP_FILTER_SIZE((socklen_t)m->n_sources);
	cleanup_free struct group_filter *f = calloc(1, sizeof(*f) + len);

	if (!f)
		return -1;
	f->gf_interface = index;
	f->gf_fmode = m->include ? MCAST_INCLUDE : MCAST_EXCLUDE;
	f->gf_numsrc = (uint32_t)m->n_sources;
	fill_address(&f->gf_group, &m->group);
	for (size_t i = 0; i < m->n_sources; i++)
		fill_address(&f->gf_slist[i], &m->sources[i]);
	return setsockopt(fd, m->group.len == 4 ? IPPROTO_IP : IPPROTO_IPV6, MCAST_MSFILTER, f, len);
}

void join_groups(int fd, const Snap__Socket *s)
{
	for (size_t i = 0; i < s->n_memberships; i++) {
		const Snap__Membership *m = s->memberships[i];
		unsigned index = if_nametoindex(m->interface);

		if (index == 0 || join(fd, m, index) < 0 ||
		    ((m->include || m->n_sources) && filter(fd, m, index) < 0))
			log_warn("a socket's multicast group on %s is not joined again: %s", m->interface,
				 strerror(errno));
	}
}
