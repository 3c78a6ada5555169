/*
 * numbers.h: where in a list the things with a given number (an inode number, say) are.
 *
 * A job may have tens of thousands of files, each of which is looked for among all of the others while it stands
 * still.
 */
#ifndef PAWL_CHECKPOINTER_NUMBERS_H
#define PAWL_CHECKPOINTER_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

/* Zeroed: empty. */
struct numbers {
	struct numbered {
		uint64_t number;
		int32_t index; /* 1 + it; 0: free */
	} *slots;
	size_t n, room; /* room: a power of 2 */
};

/* index: not negative. The same number may be added for any number of indices. */
int numbers_add(struct numbers *n, uint64_t number, int32_t index, struct err *err);
/* The first index of a number (from: -1), and then the others: the least that is larger than `from`. -1: there is
 * none. */
int32_t numbers_next(const struct numbers *n, uint64_t number, int32_t from);
void numbers_clear(struct numbers *n);

#endif
