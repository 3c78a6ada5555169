/*
 * lock.h: advisory locks on single bytes of a file (open file description locks, Linux 3.15).
 *
 * They belong to the open file description: two openings in one process exclude each other, and a
 * forked child that keeps the descriptor keeps the lock. Children must close what they inherit.
 */
#ifndef PAWL_STORE_LOCK_H
#define PAWL_STORE_LOCK_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

/* type: F_RDLCK, F_WRLCK, F_UNLCK. 1: done, 0: somebody else holds it, -1: errno. */
int lock_byte(int fd, uint64_t byte, short type);
/* As lock_byte, but waits; timeout_ms < 0: as long as it takes. */
int lock_byte_wait(int fd, uint64_t byte, short type, int timeout_ms);
/* Whether another description holds a lock that conflicts with a write lock. -1: errno. */
int lock_byte_held(int fd, uint64_t byte);

#endif
