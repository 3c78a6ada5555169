/*
 * target.h: the common shape of the self-checking targets.
 *
 * A target is started as `NAME DIR [VARIANT]`. It sets something up, calls target_ready() (creates
 * DIR/ready), and waits until DIR/go exists. Meanwhile it may be saved, killed and recovered any
 * number of times; it does not know. Then it checks everything itself, prints PASS and exits 0.
 * A failed check names itself on stderr and exits 1. Exit 77: this machine lacks what it tests.
 */
#ifndef PAWL_TESTS_PROGRAMS_TARGET_H
#define PAWL_TESTS_PROGRAMS_TARGET_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define TARGET_SKIP 77

struct target {
	const char *dir;
	const char *variant; /* "" when not given */
};

void target_start(struct target *t, int argc, char **argv);
void target_ready(const struct target *t);
/* DIR/go exists. Costs one system call. */
bool target_told(const struct target *t);
/* Sleeps in steps of 10 ms until told. */
void target_wait(const struct target *t);
/* Prints PASS; returns what main returns. */
int target_pass(const struct target *t);
/* DIR/name, malloc'ed. */
char *target_path(const struct target *t, const char *name);
void target_skip(const char *reason) __attribute__((noreturn));
void target_fail(const char *file, int line, const char *what, long long a, long long b)
	__attribute__((noreturn));

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			target_fail(__FILE__, __LINE__, #cond, 0, 0);                              \
	} while (0)
#define CHECK_EQ(a, b)                                                                             \
	do {                                                                                       \
		long long a_ = (long long)(a), b_ = (long long)(b);                                \
		if (a_ != b_)                                                                      \
			target_fail(__FILE__, __LINE__, #a " == " #b, a_, b_);                     \
	} while (0)

int64_t now_ns(int clock);
void sleep_ms(long ms);
/* The letter that /proc/PID/stat shows. */
char process_state(pid_t pid);
/* A 64-bit mixer (splitmix64's finaliser): cheap deterministic data. */
uint64_t mix64(uint64_t x);
/* Fills with, and compares against, words of mix64(seed + index). len: a multiple of 8. */
void pattern_fill(void *buf, size_t len, uint64_t seed);
bool pattern_holds(const void *buf, size_t len, uint64_t seed);

#endif
