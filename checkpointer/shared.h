/*
 * shared.h: which descriptors share one open file description.
 *
 * kcmp(2) tells of two descriptors whether they do, and else in which order their descriptions are: so
 * a sorted list needs a few comparisons a descriptor, however many there are.
 */
#ifndef PAWL_CHECKPOINTER_SHARED_H
#define PAWL_CHECKPOINTER_SHARED_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

struct shared_list {
	struct shared_entry {
		pid_t pid;
		int fd;
		int32_t open_file;
	} *list; /* in the kernel's order */
	size_t n, room;
};

/* Open file id of the description behind fd of pid; -1: not in the list, and *ret_at is its place there. */
int32_t shared_find(const struct shared_list *s, pid_t pid, int fd, size_t *ret_at);
/* Puts it there. */
int shared_add(struct shared_list *s, size_t at, pid_t pid, int fd, int32_t open_file, struct err *err);
void shared_clear(struct shared_list *s);

#endif
