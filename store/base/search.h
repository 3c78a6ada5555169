/*
 * search.h: where something belongs in an array that is in order.
 */
#ifndef PAWL_STORE_BASE_SEARCH_H
#define PAWL_STORE_BASE_SEARCH_H

#include <stddef.h>

/*
 * How many of n elements lie before a place, found by halving: `before` is an expression of an element's
 * index, which is named by the second argument; it must hold for the elements up to some one, and for none
 * behind. So it is the index of the first one that does not lie before, or n.
 */
#define COUNT_BEFORE(n, index, before)                                  \
	__extension__({                                                 \
		size_t low_ = 0, high_ = (n);                           \
									\
		while (low_ < high_) {                                  \
			size_t index = low_ + (high_ - low_) / 2;       \
									\
			if (before)                                     \
				low_ = index + 1;                       \
			else                                            \
				high_ = index;                          \
		}                                                       \
		low_;                                                   \
	})

#endif
