#include "checkpointer/tracee/sockdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "store/base/cleanup.h"

/* The kernel fills one datagram of a dump up to 32 KiB (NLMSG_GOODSIZE and the reader's buffer); the list
 * of a full accept queue is the largest single answer. */
#define ANSWER_ROOM (64u << 10)

/* ---- attributes ---------------------------------------------------------------------------- */

struct attributes {
	const char *p;
	size_t left;
};

static bool next_attribute(struct attributes *a, unsigned *ret_type, const void **ret, size_t *ret_len)
{
	struct nlattr head;
	size_t step;

	if (a->left < sizeof(head))
		return false;
	memcpy(&head, a->p, sizeof(head));
	if (head.nla_len < sizeof(head) || head.nla_len > a->left)
		return false;
	*ret_type = head.nla_type & NLA_TYPE_MASK;
	*ret = a->p + NLA_HDRLEN;
	*ret_len = head.nla_len - NLA_HDRLEN;
	step = NLA_ALIGN(head.nla_len);
	a->left -= step < a->left ? step : a->left;
	a->p += step;
	return true;
}

static uint32_t get_u32(const void *p, size_t index)
{
	uint32_t value;

	memcpy(&value, (const char *)p + index * sizeof(value), sizeof(value));
	return value;
}

/* ---- Unix sockets -------------------------------------------------------------------------- */

static int take_icons(struct unix_info *info, const void *data, size_t len, struct err *err)
{
	size_t n = len / sizeof(uint32_t);

	if (n > UNIX_MAX_ICONS)
		return err_set(err, ERR_CORRUPT, "sock_diag: %zu connections waiting", n);
	free(info->icons);
	info->icons = malloc(n ? n * sizeof(*info->icons) : 1);
	if (!info->icons)
		return err_sys(err, "sock_diag");
	memcpy(info->icons, data, n * sizeof(*info->icons));
	info->n_icons = n;
	return 0;
}

static int take_unix_attribute(struct unix_info *info, unsigned type, const void *data, size_t len,
			       struct err *err)
{
	switch (type) {
	case UNIX_DIAG_PEER:
		info->has_peer = len >= 4;
		info->peer = len >= 4 ? get_u32(data, 0) : 0;
		return 0;
	case UNIX_DIAG_VFS:
		info->has_file = len >= sizeof(struct unix_diag_vfs);
		info->file_inode = info->has_file ? get_u32(data, 0) : 0;
		return 0;
	case UNIX_DIAG_RQLEN:
		if (len >= sizeof(struct unix_diag_rqlen)) {
			info->queued = get_u32(data, 0);
			info->limit = get_u32(data, 1);
		}
		return 0;
	case UNIX_DIAG_SHUTDOWN:
		info->shutdown = len >= 1 ? *(const uint8_t *)data : 0;
		return 0;
	case UNIX_DIAG_ICONS:
		return take_icons(info, data, len, err);
	default:
		return 0;
	}
}

int sockdiag_parse_unix(const void *message, size_t len, struct unix_info *ret, struct err *err)
{
	struct unix_info info = {0};
	struct unix_diag_msg msg;
	struct attributes rest;
	const void *data;
	unsigned type;
	size_t size;

	if (len < sizeof(msg))
		return err_set(err, ERR_CORRUPT, "sock_diag: an answer of %zu bytes", len);
	memcpy(&msg, message, sizeof(msg));
	info.inode = msg.udiag_ino;
	info.type = msg.udiag_type;
	info.state = msg.udiag_state;
	rest = (struct attributes){(const char *)message + NLMSG_ALIGN(sizeof(msg)),
				   len - sizeof(msg)};
	while (next_attribute(&rest, &type, &data, &size)) {
		if (take_unix_attribute(&info, type, data, size, err) < 0) {
			unix_info_clear(&info);
			return -1;
		}
	}
	*ret = info;
	return 0;
}

void unix_info_clear(struct unix_info *info)
{
	free(info->icons);
	*info = (struct unix_info){0};
}

static int netlink_error(const struct nlmsghdr *head, struct err *err)
{
	int code = EPROTO;

	if (head->nlmsg_len >= NLMSG_LENGTH(sizeof(int)))
		code = -(int)get_u32(NLMSG_DATA(head), 0);
	return err_code(err, code, "sock_diag");
}

struct unix_request {
	struct nlmsghdr head;
	struct unix_diag_req req;
};

/* inode 0: all of them. */
static struct unix_request unix_request(uint32_t inode)
{
	return (struct unix_request){
		.head = {.nlmsg_len = sizeof(struct unix_request),
			 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			 .nlmsg_flags = NLM_F_REQUEST | (inode ? 0 : NLM_F_DUMP)},
		.req = {.sdiag_family = AF_UNIX,
			.udiag_states = UINT32_MAX,
			.udiag_ino = inode,
			.udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_VFS | UDIAG_SHOW_ICONS |
				      UDIAG_SHOW_RQLEN,
			.udiag_cookie = {UINT32_MAX, UINT32_MAX}},
	};
}

int sockdiag_unix(uint32_t inode, struct unix_info *ret, struct err *err)
{
	const struct unix_request request = unix_request(inode);
	cleanup_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	cleanup_free struct nlmsghdr *head = malloc(ANSWER_ROOM);
	ssize_t n;

	if (!head || fd < 0 || send(fd, &request, sizeof(request), 0) < 0)
		return err_sys(err, "sock_diag");
	n = recv(fd, head, ANSWER_ROOM, 0);
	if (n < 0)
		return err_sys(err, "sock_diag");
	if (!NLMSG_OK(head, (size_t)n))
		return err_set(err, ERR_CORRUPT, "sock_diag: an answer of %zd bytes", n);
	if (head->nlmsg_type == NLMSG_ERROR)
		return netlink_error(head, err);
	return sockdiag_parse_unix(NLMSG_DATA(head), head->nlmsg_len - NLMSG_HDRLEN, ret, err);
}

/* ---- lists --------------------------------------------------------------------------------- */

struct answer_list {
	void *list;
	size_t size; /* of one */
	size_t n, room;
	int (*parse)(const void *message, size_t len, void *ret, struct err *err);
};

static int append(struct answer_list *l, const struct nlmsghdr *head, struct err *err)
{
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 64;
		void *more = reallocarray(l->list, room, l->size);

		if (!more)
			return err_sys(err, "sock_diag");
		l->list = more;
		l->room = room;
	}
	if (l->parse(NLMSG_DATA(head), head->nlmsg_len - NLMSG_HDRLEN, (char *)l->list + l->n * l->size, err) < 0)
		return -1;
	l->n++;
	return 0;
}

/* 1: the dump is complete. */
static int take_datagram(struct answer_list *l, struct nlmsghdr *head, size_t n, struct err *err)
{
	for (; NLMSG_OK(head, n); head = NLMSG_NEXT(head, n)) {
		if (head->nlmsg_type == NLMSG_DONE)
			return 1;
		if (head->nlmsg_type == NLMSG_ERROR)
			return netlink_error(head, err);
		if (head->nlmsg_type == SOCK_DIAG_BY_FAMILY && append(l, head, err) < 0)
			return -1;
	}
	return 0;
}

static int dump(int fd, const void *request, size_t len, struct answer_list *l, struct err *err)
{
	cleanup_free struct nlmsghdr *head = malloc(ANSWER_ROOM);
	int done = 0;

	if (!head || send(fd, request, len, 0) < 0)
		return err_sys(err, "sock_diag");
	while (done == 0) {
		ssize_t n = recv(fd, head, ANSWER_ROOM, 0);

		if (n < 0)
			return err_sys(err, "sock_diag");
		done = take_datagram(l, head, (size_t)n, err);
	}
	return done < 0 ? -1 : 0;
}

static int parse_unix(const void *message, size_t len, void *ret, struct err *err)
{
	return sockdiag_parse_unix(message, len, ret, err);
}

int sockdiag_list_unix(struct unix_info **ret, size_t *ret_n, struct err *err)
{
	const struct unix_request request = unix_request(0);
	cleanup_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	struct answer_list l = {.size = sizeof(struct unix_info), .parse = parse_unix};
	struct unix_info *list;

	if (fd < 0)
		return err_sys(err, "sock_diag");
	if (dump(fd, &request, sizeof(request), &l, err) == 0) {
		*ret = l.list;
		*ret_n = l.n;
		return 0;
	}
	list = l.list;
	for (size_t i = 0; i < l.n; i++)
		unix_info_clear(&list[i]);
	free(list);
	return -1;
}

/* ---- Internet sockets ---------------------------------------------------------------------- */

static void map_ipv4(struct inet_address *a, const void *ip)
{
	memset(a->ip, 0, sizeof(a->ip));
	a->ip[10] = a->ip[11] = 0xff;
	memcpy(a->ip + 12, ip, 4);
}

static struct inet_address diag_address(int family, const void *ip, uint16_t port)
{
	struct inet_address a = {.port = ntohs(port)};

	if (family == AF_INET6)
		memcpy(a.ip, ip, sizeof(a.ip));
	else
		map_ipv4(&a, ip);
	return a;
}

int sockdiag_parse_inet(const void *message, size_t len, struct inet_info *ret, struct err *err)
{
	struct inet_diag_msg msg;
	struct attributes rest;
	const void *data;
	unsigned type;
	size_t size;

	if (len < sizeof(msg))
		return err_set(err, ERR_CORRUPT, "sock_diag: an answer of %zu bytes", len);
	memcpy(&msg, message, sizeof(msg));
	*ret = (struct inet_info){
		.family = msg.idiag_family,
		.state = msg.idiag_state,
		.local = diag_address(msg.idiag_family, msg.id.idiag_src, msg.id.idiag_sport),
		.remote = diag_address(msg.idiag_family, msg.id.idiag_dst, msg.id.idiag_dport),
		.inode = msg.idiag_inode,
		.queued = msg.idiag_rqueue,
		.unsent = msg.idiag_wqueue,
	};
	rest = (struct attributes){(const char *)message + NLMSG_ALIGN(sizeof(msg)),
				   len - sizeof(msg)};
	while (next_attribute(&rest, &type, &data, &size))
		if (type == INET_DIAG_SHUTDOWN && size >= 1)
			ret->shutdown = *(const uint8_t *)data;
	return 0;
}

static int parse_inet(const void *message, size_t len, void *ret, struct err *err)
{
	return sockdiag_parse_inet(message, len, ret, err);
}

static int dump_family(int fd, int family, int protocol, struct answer_list *l, struct err *err)
{
	const struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 req;
	} request = {
		.head = {.nlmsg_len = sizeof(request),
			 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.req = {.sdiag_family = (uint8_t)family,
			.sdiag_protocol = (uint8_t)protocol,
			.idiag_states = UINT32_MAX},
	};

	return dump(fd, &request, sizeof(request), l, err);
}

int sockdiag_list_inet(int protocol, struct inet_info **ret, size_t *ret_n, struct err *err)
{
	cleanup_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	struct answer_list l = {.size = sizeof(struct inet_info), .parse = parse_inet};

	if (fd < 0)
		return err_sys(err, "sock_diag");
	if (dump_family(fd, AF_INET, protocol, &l, err) < 0 ||
	    dump_family(fd, AF_INET6, protocol, &l, err) < 0) {
		free(l.list);
		return -1;
	}
	*ret = l.list;
	*ret_n = l.n;
	return 0;
}

/* ---- addresses ----------------------------------------------------------------------------- */

int inet_address_from(struct inet_address *ret, const void *address, size_t len)
{
	struct sockaddr_in6 six;
	struct sockaddr_in four;
	sa_family_t family;

	if (len < sizeof(family))
		return -1;
	memcpy(&family, address, sizeof(family));
	if (family == AF_INET && len >= sizeof(four)) {
		memcpy(&four, address, sizeof(four));
		map_ipv4(ret, &four.sin_addr);
		ret->port = ntohs(four.sin_port);
		return 0;
	}
	if (family == AF_INET6 && len >= sizeof(six)) {
		memcpy(&six, address, sizeof(six));
		memcpy(ret->ip, &six.sin6_addr, sizeof(ret->ip));
		ret->port = ntohs(six.sin6_port);
		return 0;
	}
	return -1;
}

bool inet_address_equal(const struct inet_address *a, const struct inet_address *b)
{
	return a->port == b->port && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

static bool is_mapped(const struct inet_address *a)
{
	static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(a->ip, prefix, sizeof(prefix)) == 0;
}

bool inet_address_is_any(const struct inet_address *a)
{
	static const uint8_t zero[16];
	size_t from = is_mapped(a) ? 12 : 0;

	return memcmp(a->ip + from, zero, sizeof(zero) - from) == 0;
}

bool inet_address_is_loopback(const struct inet_address *a)
{
	static const uint8_t one[16] = {[15] = 1};

	return is_mapped(a) ? a->ip[12] == 127 : memcmp(a->ip, one, sizeof(one)) == 0;
}

static void unix_text(const char *path, size_t len, char *buf, size_t room)
{
	size_t n = 0;

	if (len == 0)
		snprintf(buf, room, "(unnamed)");
	for (size_t i = 0; i < len && n + 1 < room; i++) {
		if (i == 0 && path[0] == '\0')
			buf[n++] = '@';
		else if (path[i] == '\0')
			break;
		else
			buf[n++] = path[i] > ' ' && path[i] < 127 ? path[i] : '?';
	}
	if (len)
		buf[n] = '\0';
}

const char *address_text(const void *address, size_t len, char *buf, size_t room)
{
	struct inet_address a;
	char ip[INET6_ADDRSTRLEN];
	sa_family_t family = 0;

	if (len >= sizeof(family))
		memcpy(&family, address, sizeof(family));
	if (family == AF_UNIX)
		unix_text((const char *)address + sizeof(family), len - sizeof(family), buf, room);
	else if (inet_address_from(&a, address, len) < 0)
		snprintf(buf, room, "an address of family %d", family);
	else if (family == AF_INET)
		snprintf(buf, room, "%s:%u", inet_ntop(AF_INET, a.ip + 12, ip, sizeof(ip)), a.port);
	else
		snprintf(buf, room, "[%s]:%u", inet_ntop(AF_INET6, a.ip, ip, sizeof(ip)), a.port);
	return buf;
}
