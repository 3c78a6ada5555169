/*
 * shared.h: which descriptors share one open file description.
 *
 * Those that do lead to the same file. kcmp(2) tells of two that lead to the same file whether they do, and else
 * in which order their descriptions are: so a sorted tree needs no question for most descriptors, and a few for
 * those of files without an inode of their own (eventfds, say), however many there are.
 */
#ifndef PAWL_CHECKPOINTER_SHARED_H
#define PAWL_CHECKPOINTER_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

struct shared_entry {
	uint64_t device, inode; /* of its file */
	pid_t pid;
	int fd;
	int32_t open_file;
};

struct shared_list {
	struct shared_entry **list; /* as they were added */
	size_t n, room;
	void *tree; /* tsearch(3) */
};

/* Open file id of the description behind a descriptor (its open_file does not count); -1: not in the list. */
int32_t shared_find(const struct shared_list *s, const struct shared_entry *descriptor);
/* Adds one that is not in the list. */
int shared_add(struct shared_list *s, const struct shared_entry *descriptor, struct err *err);
/* Whether both are the same description: one question. */
bool shared_is_same(pid_t a, int a_fd, pid_t b, int b_fd);
void shared_clear(struct shared_list *s);

#endif
