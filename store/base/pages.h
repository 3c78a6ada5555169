/*
 * pages.h: big pieces of memory, in huge pages where the system has them.
 *
 * Fresh memory is dear, and so is reaching many small pages of it, above all under a hypervisor: a fault and a
 * page table walk for each.
 */
#ifndef PAWL_STORE_BASE_PAGES_H
#define PAWL_STORE_BASE_PAGES_H

#include <stddef.h>

#define HUGE_BYTES (2ul << 20)

/* Zeroed, a multiple of HUGE_BYTES and aligned to it, counted only once it is used. NULL: there is none (errno). */
void *pages_map(size_t len);
/* Any pages, MADV_FREE of madvise(2): what is in them counts no more. Until they are written to, the kernel may take them,
 * and give zeroes or what was there. */
void pages_lend(void *pages, size_t len);
void pages_unmap(void *pages, size_t len); /* takes NULL */

#endif
