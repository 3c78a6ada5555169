/*
 * refusals.h: what cannot be saved, all of it.
 *
 * The collector goes on after an object that it refuses, so that a job's user hears of every one at
 * once, and not of the next one only when the first is gone.
 */
#ifndef PAWL_CHECKPOINTER_REFUSALS_H
#define PAWL_CHECKPOINTER_REFUSALS_H

#include <stdbool.h>
#include <stddef.h>

#include "store/base/err.h"

struct refusals {
	char **texts; /* each names process, descriptor or address, and object; owned */
	size_t n;
};

void refusals_clear(struct refusals *r);
/* As many as there is memory for. ret: zeroed. */
void refusals_copy(struct refusals *ret, const struct refusals *from);
bool refusals_equal(const struct refusals *a, const struct refusals *b);

/* After a call that returned `result` and err: a refusal (ERR_UNSUPPORTED) is noted, once however
 * often it is met, and 0 returned, as after a success. Else -1, with err as it was. */
int refusals_go_on(struct refusals *r, int result, struct err *err);

/* 0 where there is none, else -1 and ERR_UNSUPPORTED: the first, and how many more there are. */
int refusals_result(const struct refusals *r, struct err *err);

#endif
