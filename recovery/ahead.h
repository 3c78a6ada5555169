/*
 * ahead.h: the memory of a job that comes here, put up before the snapshot that it goes on from.
 *
 * A job that moves stands still until it is rebuilt, and for most of that time its memory is filled. But most of it
 * is known before: earlier snapshots have come while the job still ran. So a process is made in the capsule beforehand, the
 * donor, which has the memory of those snapshots at the job's addresses and is brought up to each that follows. The job's
 * processes are then not children of the capsule's init, but the donor's forks (CLONE_PARENT: init is their parent all
 * the same). They are born with its memory as others are with their makers' (inherit.h), and only what the last
 * snapshot has otherwise is written. The donor ends when all are born.
 *
 * The donor lives in the capsule since an address space belongs to the user namespace in which it was made
 * (mm->user_ns). It need not fit: what is mapped otherwise by then is filled the ordinary way. What is mapped
 * alike at the same place is compared page table by page table.
 *
 * Between the calls the donor waits, and nobody traces it. Threads: any, one call at a time.
 */
#ifndef PAWL_RECOVERY_AHEAD_H
#define PAWL_RECOVERY_AHEAD_H

#include <stdbool.h>
#include <stdint.h>

#include "recovery/recovery.h"
#include "store/base/err.h"
#include "store/store.h"

/* Brings *ahead (NULL: makes it, in that capsule, whose clocks need not be set yet) to snapshot seq of the job,
 * which has that model, one that has passed recovery_check, and keeps that snapshot in the store. After a failure *ahead is NULL and there is no donor.
 * The host is asked for the donor only; the store must outlive it. */
int ahead_update(struct ahead **ahead, const struct recovery_host *host, struct store *store, const char *job,
		 uint64_t seq, const Snap__Snapshot *model, struct err *err);
/* Whether the donor lives and being born of it is less work than being filled: every process of the job is, also
 * those that have nothing of it. Takes NULL. */
bool ahead_pays(const struct ahead *ahead, const Snap__Snapshot *model);
/* Bytes mapped. */
uint64_t ahead_size(const struct ahead *ahead);
/* Ends the donor, if it lives; does not wait for that. Takes NULL. */
void ahead_free(struct ahead *ahead);

#endif
