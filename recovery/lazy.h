/*
 * lazy.h: a job that runs while its memory is still to come.
 *
 * Private anonymous memory is left empty and registered with a userfaultfd; everything else is rebuilt as ever,
 * before the job goes on. Then one thread serves what the job touches, and others bring the rest in the order in
 * which it is stored. What the job does with such memory meanwhile is followed: what it drops is not filled, what
 * it moves is filled where it is, and a child gets the same pages as its parent. Every page is checked before it
 * is put in.
 *
 * The snapshot stays in the store until all is there, whoever removes it.
 *
 * Where a page cannot be read any more, nothing takes its place: whoever touches it waits, the state becomes
 * LAZY_FAILED, and the job must be ended. For the same reason the job must not outlive this. Where rebuilding the
 * job touches it (the kernel itself does when a thread is set up, for rseq(2)), the job is not let go at all.
 */
#ifndef PAWL_RECOVERY_LAZY_H
#define PAWL_RECOVERY_LAZY_H

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"

struct lazy;

enum lazy_state {
	LAZY_FILLING,
	LAZY_COMPLETE, /* all is there (or nobody left who would need it) */
	LAZY_FAILED,
};

struct lazy_progress {
	enum lazy_state state;
	uint64_t faults; /* pages that were touched before they were there */
	uint64_t pages;	 /* put in so far */
	uint64_t wall_us; /* since the job runs; of LAZY_COMPLETE: until then */
};

/* Whether this machine lets us; *ret_why: static text. Tried, not guessed. */
bool lazy_is_possible(const char **ret_why);

/* Readable when the state is no longer LAZY_FILLING. */
int lazy_fd(const struct lazy *lazy);
/* ret_why (may be NULL) where it failed. From any thread. */
void lazy_look(struct lazy *lazy, struct lazy_progress *ret, struct err *ret_why);
/* Until all is there. -1: it failed. From any thread. */
int lazy_wait(struct lazy *lazy, struct err *err);
/* When no process of the job is left, or all was complete. Takes NULL. */
void lazy_free(struct lazy *lazy);

#endif
