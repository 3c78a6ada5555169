/*
 * baseline.h: keeping a job to a level of x86-64 that every node has, through its environment.
 *
 * glibc, OpenSSL and the numerical libraries choose their code at run time, and let themselves be told
 * what not to use. A program that asks the CPU itself (cpuid) is not kept from it: the kernel can make
 * cpuid fault (arch_prctl(2), ARCH_SET_CPUID), but then something in the process or beside it would have
 * to answer every time, which pawl never is.
 */
#ifndef PAWL_WATCHDOG_BASELINE_H
#define PAWL_WATCHDOG_BASELINE_H

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

/* "NAME=value" of every variable to be set for a job on a CPU with these feature words (arch.h): *ret, malloc'ed
 * with its texts, NULL-terminated; none where the CPU has nothing beyond the level. What the user has set
 * himself (lookup) stays, lists are added to. Pure. */
typedef const char *baseline_lookup(const char *name);
int baseline_environment(unsigned level, const uint32_t *words, size_t n, baseline_lookup *lookup,
			 char ***ret, struct err *err);
void baseline_free(char **environment);

/* Puts it into our own environment, which the job inherits. No other thread may run. */
int baseline_apply(unsigned level, struct err *err);

#endif
