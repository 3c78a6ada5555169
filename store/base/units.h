/*
 * units.h: durations and sizes as users write and read them. Pure.
 */
#ifndef PAWL_STORE_BASE_UNITS_H
#define PAWL_STORE_BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

#define NSEC_PER_SEC 1000000000ull

/* "500ms" "30s" "5m" "2h" "1d", a bare number is seconds, fractions allowed ("1.5s").
 * Must be greater than zero and below 100 years. ERR_INVALID names text and reason. */
int parse_duration(const char *text, uint64_t *ret_ns, struct err *err);

/* "4096" "512K" "64M" "4G" "1T", powers of 1024, optional trailing "iB"/"B". Greater than zero. */
int parse_size(const char *text, uint64_t *ret_bytes, struct err *err);

/* Short forms for people: "1.4 GiB", "12 KiB"; "3.2 ms", "4.1 s", "2h 05m". buf of 32 suffices. */
const char *format_size(uint64_t bytes, char *buf, size_t len);
const char *format_duration(uint64_t ns, char *buf, size_t len);

#endif
