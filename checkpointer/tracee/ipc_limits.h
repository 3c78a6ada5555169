/*
 * ipc_limits.h: the limits of an IPC namespace (proc(5), mq_overview(7)), below /proc/sys. They are
 * those of the namespace of who opens them (inside.h).
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_IPC_LIMITS_H
#define PAWL_CHECKPOINTER_TRACEE_IPC_LIMITS_H

#include <stdbool.h>

#define IPC_LIMITS 13

extern const char *const ipc_limits[IPC_LIMITS];

bool ipc_limit_is_known(const char *name);
/* Writes text to a file below /proc/sys: 0 or -1 with errno. */
int ipc_sysctl_write(const char *name, const char *text);

#endif
