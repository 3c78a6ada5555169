/*
 * unit.h: what every cmocka test needs, in the order cmocka wants it.
 */
#ifndef PAWL_TESTS_UNIT_UNIT_H
#define PAWL_TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/err.h"

/* The call failed with this kind of error and a one-line message. */
#define assert_fails(call, expected_kind, err)                                                     \
	do {                                                                                       \
		assert_int_equal((call), -1);                                                      \
		assert_int_equal((err)->kind, (expected_kind));                                    \
		assert_true((err)->msg[0] != '\0');                                                \
		assert_null(strchr((err)->msg, '\n'));                                             \
	} while (0)

#endif
