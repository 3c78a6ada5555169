/*
 * io.h: whole reads and writes, and files that appear whole or not at all.
 */
#ifndef PAWL_STORE_BASE_IO_H
#define PAWL_STORE_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

/* Loop over EINTR and short counts. -1 with errno set; a premature end of file is EIO on read. */
int read_full(int fd, void *buf, size_t len);
int write_full(int fd, const void *buf, size_t len);
int pwrite_full(int fd, const void *buf, size_t len, off_t offset);

/* As pread(2) but loops until len bytes or end of file; returns the count, -1 with errno. */
ssize_t pread_upto(int fd, void *buf, size_t len, off_t offset);

/* Reads a whole file of unknown size (a /proc file) relative to dirfd (or AT_FDCWD). *ret_text is
 * malloc'ed, NUL-terminated, owned by the caller; ret_len may be NULL. */
int read_text(int dirfd, const char *path, char **ret_text, size_t *ret_len, struct err *err);

/* Fresh temporary (O_EXCL, mode), write, fsync, rename, fsync of the directory. */
int write_file_atomic(const char *path, const void *buf, size_t len, mode_t mode, struct err *err);

/* Creates dir and its missing parents with mode. Existing directories are left as they are. */
int make_dirs(const char *dir, mode_t mode, struct err *err);

uint64_t clock_ns(clockid_t clock);

#endif
