/*
 * sockopts.h: the options that a socket is saved and made again with: one table for both ways.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_SOCKOPTS_H
#define PAWL_CHECKPOINTER_TRACEE_SOCKOPTS_H

#include <stdbool.h>
#include <stddef.h>

#define SOCKET_OPTION_MOST 32 /* bytes of the largest value */

enum socket_option_when {
	OPTION_EARLY, /* must hold before the socket is bound, listens or connects */
	OPTION_LATE,  /* would be in the way of making it: when everything is connected and filled */
};

struct socket_option {
	int level, name;
	size_t size;    /* bytes that getsockopt(2) gives; SOCKET_OPTION_MOST: a text */
	enum socket_option_when when;
	int domain;     /* AF_*, AF_UNSPEC: any */
	int protocol;   /* IPPROTO_*, 0: any */
};

#define SOCKET_OPTIONS_MOST 128 /* in the table */
extern const struct socket_option socket_options[];
extern const size_t n_socket_options;

/* NULL: not in the table. */
const struct socket_option *socket_option_find(int level, int name);
/* Whether sockets of that domain and protocol have it. */
bool socket_option_applies(const struct socket_option *option, int domain, int protocol);

#endif
