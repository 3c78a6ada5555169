/*
 * procfs_text.h: reading numbers and lines out of /proc text. Internal to procfs_*.c.
 *
 * Hand-rolled because a big job has tens of thousands of regions and its smaps are read while it
 * waits: scanf takes longer than the kernel needs to print them.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_PROCFS_TEXT_H
#define PAWL_CHECKPOINTER_TRACEE_PROCFS_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "store/base/err.h"

/* The rest of one line: [p, end), without the newline. */
struct text {
	const char *p, *end;
};

/* Takes the next line off *next (NUL-terminated). False at the end. */
static inline bool text_next_line(const char **next, struct text *ret)
{
	if (**next == '\0')
		return false;
	ret->p = *next;
	ret->end = strchrnul(*next, '\n');
	*next = *ret->end ? ret->end + 1 : ret->end;
	return true;
}

static inline void text_skip_blanks(struct text *t)
{
	while (t->p < t->end && (*t->p == ' ' || *t->p == '\t'))
		t->p++;
}

static inline bool text_char(struct text *t, char c)
{
	if (t->p == t->end || *t->p != c)
		return false;
	t->p++;
	return true;
}

/* Consumes prefix when the line goes on with it. */
static inline bool text_prefix(struct text *t, const char *prefix)
{
	size_t len = strlen(prefix);

	if ((size_t)(t->end - t->p) < len || memcmp(t->p, prefix, len) != 0)
		return false;
	t->p += len;
	return true;
}

static inline int text_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return 99;
}

/* A number in base 8, 10 or 16 right here. False (nothing consumed) without a digit or on overflow.
 */
static inline bool text_number(struct text *t, unsigned base, uint64_t *ret)
{
	const char *p = t->p;
	uint64_t value = 0;

	for (; p < t->end; p++) {
		unsigned digit = (unsigned)text_digit(*p);

		if (digit >= base)
			break;
		if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
		    __builtin_add_overflow(value, (uint64_t)digit, &value))
			return false;
	}
	if (p == t->p)
		return false;
	t->p = p;
	*ret = value;
	return true;
}

/* Blanks, then a number. */
static inline bool text_field(struct text *t, unsigned base, uint64_t *ret)
{
	text_skip_blanks(t);
	return text_number(t, base, ret);
}

/* Blanks, then a decimal number that may be negative. */
static inline bool text_signed(struct text *t, int64_t *ret)
{
	bool negative;
	uint64_t value;

	text_skip_blanks(t);
	negative = text_char(t, '-');
	if (!text_number(t, 10, &value) || value > (uint64_t)INT64_MAX + negative)
		return false;
	*ret = negative ? (int64_t)(0 - value) : (int64_t)value;
	return true;
}

/* ERR_CORRUPT naming file and line. Returns -1. */
static inline int text_corrupt(struct err *err, const char *what, const char *line)
{
	int len = (int)(strchrnul(line, '\n') - line);

	return err_set(err, ERR_CORRUPT, "%s: cannot make sense of '%.*s'", what,
		       len > 120 ? 120 : len, line);
}

/* Name of a task as status prints it: newline and backslash are escaped as "\n" and "\\"
 * (fs/proc/array.c, proc_task_name). Cut to fit. */
void text_unescape_comm(const char *from, const char *end, char *ret, size_t room);

/* Reads /proc/PID/… for a parser. A process that is no more is ERR_GONE. */
int text_read(char **ret, struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
