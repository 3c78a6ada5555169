/*
 * brake.h: a job that is slowed down, by standing still for most of the time.
 *
 * A job that writes memory faster than it is sent to another machine would have to stand still for as long as all of
 * that takes. Slowed down, it runs for moments, and so does not get ahead; then what is left at the end is little.
 * It is stopped as it is for a snapshot, and notices as little of it.
 *
 * A thread of its own does that. No two threads can trace a job at a time, so whoever stops it for another reason
 * lifts the brake first.
 */
#ifndef PAWL_CHECKPOINTER_BRAKE_H
#define PAWL_CHECKPOINTER_BRAKE_H

#include <stdint.h>

#include "checkpointer/sleeps.h"
#include "checkpointer/tree_root.h"
#include "store/base/err.h"

#define BRAKE_MOST 98u

struct brake;

/* Not lifted, and holds nothing yet. sleeps: used while the job is held, so by others only while the brake is
 * lifted; it and root must stay. */
int brake_new(struct brake **ret, const struct tree_root *root, struct sleeps *sleeps, struct err *err);
void brake_free(struct brake *brake); /* takes NULL; nothing is held any more */

/* The part of the time for which the job stands still, in percent, at most BRAKE_MOST. A job that cannot be stopped
 * just now runs on until the next moment. */
void brake_set(struct brake *brake, unsigned percent);
/* On return nothing is held, and nothing will be. Takes NULL. */
void brake_lift(struct brake *brake);
void brake_apply(struct brake *brake); /* again; takes NULL */

/* How long it has stood still so far, ns. */
uint64_t brake_held(struct brake *brake);

#endif
