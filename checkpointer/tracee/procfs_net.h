/*
 * procfs_net.h: the multicast groups of this network namespace (/proc/net/igmp, igmp6). Nothing lists those of one
 * socket, but a socket can be asked whether it is in a given one.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_PROCFS_NET_H
#define PAWL_CHECKPOINTER_TRACEE_PROCFS_NET_H

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

#define MULTICAST_NAME_ROOM 16 /* IFNAMSIZ */

struct multicast_group {
	int index; /* of the interface */
	char name[MULTICAST_NAME_ROOM];
	uint8_t address[16]; /* in network order */
	size_t len;	     /* 4 or 16 */
};

struct multicast_groups { /* starts as {0} */
	struct multicast_group *list;
	size_t n;
};

/* Each adds to list. ERR_CORRUPT names the line. Pure. */
int proc_parse_igmp(const char *text, struct multicast_groups *list, struct err *err);
int proc_parse_igmp6(const char *text, struct multicast_groups *list, struct err *err);
/* Of pawl's own namespace, which is the job's. */
int proc_read_multicast(struct multicast_groups *ret, struct err *err);
void multicast_groups_clear(struct multicast_groups *list);

#endif
