/*
 * thread_id.h: whether a thread can be given another number.
 *
 * glibc keeps each thread's id at the address that it has given to set_tid_address(2), where a new
 * one can be put, and in locks that are held.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_THREAD_ID_H
#define PAWL_CHECKPOINTER_TRACEE_THREAD_ID_H

#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

struct thread_id {
	pid_t tid; /* as the thread knows it */
	uint64_t clear_child_tid, robust_list;
};

/* Looks into the memory of process pid (host). ERR_UNSUPPORTED: the id is not where glibc keeps it,
 * or the thread holds a robust lock, which bears it. */
int thread_id_check(pid_t pid, const struct thread_id *thread, struct err *err);

#endif
