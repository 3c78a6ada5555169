/*
 * sysv.h: System V IPC and POSIX message queues of the capsule's IPC namespace. Private to
 * restore_sysv*.c, restore_mqueue.c and recovery.c.
 */
#ifndef PAWL_RECOVERY_SYSV_H
#define PAWL_RECOVERY_SYSV_H

#include <sys/ipc.h>

#include "recovery/rebuild.h"

/* What a step does inside the namespace. */
struct sysv_making {
	struct recovery *rec;
	size_t index;
	int socket; /* whose other end takes descriptors over; -1: none */
};

/* Runs work(struct sysv_making *) there. ERR_UNSUPPORTED where there is no capsule. */
int sysv_inside(struct recovery *rec, size_t index, int socket,
		int (*work)(void *making, struct err *err), struct err *err);
/* The next object of a kind ("shm", "sem", "msg") gets that id. */
int sysv_choose_id(const char *kind, int32_t id, struct err *err);
/* make(ctx, key, flags) as who created the object; the id that it returns must be object->id. */
int sysv_create(const Snap__SysvObject *object, const char *what,
		int (*make)(const void *ctx, key_t key, int flags), const void *ctx,
		struct err *err);
void sysv_fill_perm(struct ipc_perm *perm, const Snap__SysvObject *object);

#endif
