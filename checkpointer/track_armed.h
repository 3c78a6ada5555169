/*
 * track_armed.h: scanning memory whose every page has been armed by the pagemap tracker; for track_pagemap.c only.
 *
 * The kernel passes over page table entries some three times as fast where nothing is asked but "written"
 * (fs/proc/task_mmu.c, pagemap_scan_pmd_entry; from Linux 6.9 on right for entries of pages that are not
 * present). To that question it also reports entries without a page, so that what has vanished shows. What it does
 * not see is looked for otherwise: page tables that are gone as a whole (move_pages(2) tells of one address in
 * each), and guard regions that an earlier scan has armed, which are noted. What has shown is then scanned
 * the exact way, and that alone re-arms.
 */
#ifndef PAWL_CHECKPOINTER_TRACK_ARMED_H
#define PAWL_CHECKPOINTER_TRACK_ARMED_H

#include "checkpointer/track_impl.h"

/* As tracker_scan, of memory without a file; EPERM: it is not armed. */
int scan_armed_memory(struct tracker *t, uint64_t start, uint64_t end, unsigned how, struct scan_result *result,
		      struct err *err);
/* Guard regions among what a scan has found, and armed. */
void note_armed_guards(struct tracker *t, const struct scan_result *found);
/* Whether the kernel answers that question as above, and tells of single addresses: tried on pages of our own. */
bool armed_scan_is_quick(void);

#endif
