/*
 * userfault.h: putting pages into another process's memory through a userfaultfd of it.
 */
#ifndef PAWL_RECOVERY_USERFAULT_H
#define PAWL_RECOVERY_USERFAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

/* What must be told of a process that runs while its memory is still to come. That of forks is for those with
 * CAP_SYS_PTRACE (fs/userfaultfd.c userfaultfd_api); a child of which nobody is told would find zeroes. */
#define USERFAULT_EVENTS                                                                               \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |              \
	 UFFD_FEATURE_EVENT_UNMAP)

/* Puts n pages there; those that are there already stay as they are. *done (pages, from 0) goes on from call to
 * call. 0: all are there; else errno: EAGAIN (the address space is being changed: read the events, call again),
 * ENOENT (page *done is not registered, or gone), ESRCH (the process is), … */
int userfault_step(int uffd, uint64_t addr, const void *pages, size_t n, size_t *done);
/* As userfault_step, for a process that stands still. */
int userfault_copy(int uffd, uint64_t addr, const void *pages, size_t n, struct err *err);
/* A page of zeroes, unless something is there. 0 or errno, as above. */
int userfault_zero(int uffd, uint64_t addr);
/* Whoever waits for that page looks again. */
void userfault_wake(int uffd, uint64_t addr);

/* Whether all faults of a process can be served here, the kernel's own among them, and forks be followed; tried
 * on a page of our own. *ret_why: static text. */
bool userfault_probe(const char **ret_why);

#endif
