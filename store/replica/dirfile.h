/*
 * dirfile.h: files and folders of a replica in a directory, which may hold anything: no symbolic link is
 * followed, nothing but regular files is read, names come checked.
 *
 * No locks: what must happen once is one link(2) or rename(2) of a file that is complete and synced.
 */
#ifndef PAWL_STORE_REPLICA_DIRFILE_H
#define PAWL_STORE_REPLICA_DIRFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

/* An opened regular file, or -1. ERR_NOT_FOUND; ERR_CORRUPT where something else stands there. */
int dirfile_open(int dir_fd, const char *name, uint64_t *ret_size, struct err *err);
/* The whole of it, `most` bytes at most (more: ERR_CORRUPT). *ret malloc'ed. */
int dirfile_read(int dir_fd, const char *name, size_t most, uint8_t **ret, size_t *ret_len,
		 struct err *err);
/* A folder below dir_fd; made where make says so and it is missing. Returns the descriptor or -1. */
int dirfile_folder(int dir_fd, const char *name, bool make, struct err *err);
/* Complete and durable, or not there. Replaces what is there. */
int dirfile_put(int dir_fd, const char *name, const void *data, size_t len, struct err *err);
/* As dirfile_put, but only where nothing is there, and of several at once exactly one succeeds: 1 it is ours,
 * 0 somebody else's is there. */
int dirfile_claim(int dir_fd, const char *name, const void *data, size_t len, struct err *err);

/* Calls fn with every name in the folder but "." and "..", in any order, until it fails. */
typedef int dirfile_fn(void *ctx, const char *name, struct err *err);
int dirfile_each(int dir_fd, dirfile_fn *fn, void *ctx, struct err *err);

#endif
