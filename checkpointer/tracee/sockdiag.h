/*
 * sockdiag.h: what the kernel tells of sockets by NETLINK_SOCK_DIAG (sock_diag(7)).
 *
 * Decoders are pure (unit-tested) with a thin asker beside each. They never trust lengths. Asking needs no
 * privileges and answers for the network namespace of the caller.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_SOCKDIAG_H
#define PAWL_CHECKPOINTER_TRACEE_SOCKDIAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "store/base/err.h"

/* Bits of sk_shutdown (include/net/sock.h): what a socket will no more do. */
#define SOCKET_SHUT_RD 1u
#define SOCKET_SHUT_WR 2u

/* Connections waiting to be accepted that one answer can list. */
#define UNIX_MAX_ICONS 4096

/* A Unix socket. The kernel shows states with TCP's numbers (net/tcp_states.h): TCP_ESTABLISHED,
 * TCP_LISTEN, TCP_CLOSE. */
struct unix_info {
	uint32_t inode;
	uint8_t type, state;
	uint8_t shutdown;
	bool has_peer;
	uint32_t peer;          /* inode of the socket it is connected to; 0: one without a descriptor */
	bool has_file;
	uint32_t file_inode;    /* of the file that it is bound to */
	uint32_t queued, limit; /* TCP_LISTEN: connections waiting, and how many may */
	uint32_t *icons;        /* inodes of the clients waiting, in order, 0: closed already; malloc'ed */
	size_t n_icons;
};

/* One SOCK_DIAG_BY_FAMILY answer: struct unix_diag_msg and its attributes. */
int sockdiag_parse_unix(const void *message, size_t len, struct unix_info *ret, struct err *err);
/* ERR_NOT_FOUND: no such socket in this network namespace. */
int sockdiag_unix(uint32_t inode, struct unix_info *ret, struct err *err);
/* All Unix sockets that are listed: one that comes or goes meanwhile, or has very many connections waiting, may hide
 * others, which can still be asked for one by one. Asking for one takes as long as there are sockets on the machine,
 * listing all hardly longer. *ret malloc'ed, each to be cleared. */
int sockdiag_list_unix(struct unix_info **ret, size_t *ret_n, struct err *err);
void unix_info_clear(struct unix_info *info);

/* IPv4 addresses in their IPv6 form (::ffff:a.b.c.d), so that both kinds compare. */
struct inet_address {
	uint8_t ip[16];
	uint16_t port; /* host byte order */
};

struct inet_info {
	uint8_t family, state;  /* net/tcp_states.h */
	uint8_t shutdown;
	struct inet_address local, remote;
	uint32_t inode;         /* 0: no descriptor leads to it */
	uint32_t queued, unsent;
};

int sockdiag_parse_inet(const void *message, size_t len, struct inet_info *ret, struct err *err);
/* All sockets of a protocol (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE), of both families. *ret malloc'ed. */
int sockdiag_list_inet(int protocol, struct inet_info **ret, size_t *ret_n, struct err *err);

/* From a sockaddr of AF_INET or AF_INET6; -1: of another family or too short. */
int inet_address_from(struct inet_address *ret, const void *address, size_t len);
bool inet_address_equal(const struct inet_address *a, const struct inet_address *b);
bool inet_address_is_any(const struct inet_address *a);
bool inet_address_is_loopback(const struct inet_address *a);

/* "127.0.0.1:80", "[::1]:80", "/run/x.sock", "@name" (abstract); returns buf. 128 suffice. */
const char *address_text(const void *address, size_t len, char *buf, size_t room);

#endif
