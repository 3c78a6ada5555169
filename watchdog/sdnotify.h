/*
 * sdnotify.h: telling a service manager how the service is: the datagrams of sd_notify(3), without its
 * library. Where nobody listens nothing is sent; what cannot be delivered is not missed.
 */
#ifndef PAWL_WATCHDOG_SDNOTIFY_H
#define PAWL_WATCHDOG_SDNOTIFY_H

#include <stdbool.h>
#include <stdint.h>

struct sdnotify {
	int fd;		      /* -1: nobody listens */
	uint64_t watchdog_ns; /* somebody wants to hear from us that often; 0: no */
};

/* Takes $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID (if that is us) out of the environment: they are not the
 * job's. */
void sdnotify_open(struct sdnotify *ret);
void sdnotify_close(struct sdnotify *notify);

/* Lines "NAME=value" with newlines between. Never blocks. */
void sdnotify_send(const struct sdnotify *notify, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
