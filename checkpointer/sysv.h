/*
 * sysv.h: System V IPC and POSIX message queues: objects of an IPC namespace, not of a process,
 * which stay when nobody uses them. Private to collect_sysv*.c and collect_mqueue.c.
 *
 * A job in a capsule has a namespace of its own, and everything in it belongs to the job. One that
 * was attached shares the machine's: what it has attached, and what one of its living processes was
 * the last to use, is saved; the rest is not its own.
 */
#ifndef PAWL_CHECKPOINTER_SYSV_H
#define PAWL_CHECKPOINTER_SYSV_H

#include <sys/ipc.h>

#include "checkpointer/collect.h"

/* Where in pawl a segment is attached that no process shows whole. */
struct sysv_notes {
	void **attached;
	size_t n;
};

struct sysv_look {
	struct collection *c;
	pid_t self;  /* pawl: who does the work inside has another number */
	bool shared; /* with others than the job */
};

/* ERR_UNSUPPORTED: "what: id 3, key 0x7001: why". */
int sysv_refuse(const struct ipc_perm *perm, int id, const char *what, const char *why,
		struct err *err);
/* *ret: new, with what all kinds have in common. */
int sysv_object(const struct ipc_perm *perm, int id, Snap__SysvObject **ret, struct err *err);
/* A process of the job by its number in our namespace: that in the capsule; 0: not of the job. */
int32_t sysv_member(const struct collection *c, pid_t pid);

/* Each lists all of its kind, in the namespace that it is called in. */
int sysv_collect_segments(struct sysv_look *look, struct err *err);
int sysv_collect_semaphores(struct sysv_look *look, struct err *err);
int sysv_collect_queues(struct sysv_look *look, struct err *err);
int mqueue_collect(struct sysv_look *look, struct err *err);
/* Outside, when the semaphores are known: what SEM_UNDO will give back. */
int sysv_collect_undos(struct collection *c, struct err *err);

#endif
