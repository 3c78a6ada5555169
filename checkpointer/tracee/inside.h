/*
 * inside.h: work done in the IPC namespace of another process.
 *
 * A child of ours that shares our memory (clone(2) with CLONE_VM | CLONE_VFORK) joins the user,
 * mount and IPC namespaces of the process and does the work there, while the calling thread waits.
 * Whoever made a user namespace has every capability in it (user_namespaces(7)), so the objects of
 * a capsule can be read and made whatever their modes are, also by an ordinary user. System V
 * segments that are attached there are attached to us.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_INSIDE_H
#define PAWL_CHECKPOINTER_TRACEE_INSIDE_H

#include <stdbool.h>
#include <sys/types.h>

#include "store/base/err.h"

/* What is done inside: 0 or -1 with err. It may allocate, and write to any memory of ours;
 * descriptors that it opens end with it. getpid(2) is the child's there, its pid namespace ours. */
typedef int inside_work(void *ctx, struct err *err);

/* Where no namespace of pid differs from ours, work is called in the calling thread itself. */
int inside_run(pid_t pid, inside_work *work, void *ctx, struct err *err);
/* Whether pid has an IPC namespace other than ours. */
int inside_is_apart(pid_t pid, bool *ret, struct err *err);

#endif
