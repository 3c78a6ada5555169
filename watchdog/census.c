/* Who lives in a capsule, seen from outside through /proc. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/freeze.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "watchdog/capsule.h"

struct tree_root capsule_root(const struct capsule *capsule)
{
	return capsule->root;
}

int capsule_pids(const struct capsule *capsule, pid_t **ret, size_t *ret_n, struct err *err)
{
	const struct tree_root root = capsule_root(capsule);

	return list_tree(&root, ret, ret_n, err);
}

uint64_t capsule_cpu_ns(const struct capsule *capsule)
{
	cleanup_free pid_t *pids = NULL;
	uint64_t total = 0;
	struct err err;
	size_t n, i;

	if (capsule_pids(capsule, &pids, &n, &err) < 0)
		return 0;
	for (i = 0; i < n; i++) {
		struct timespec ts;
		clockid_t clock;

		if (clock_getcpuclockid(pids[i], &clock) == 0 && clock_gettime(clock, &ts) == 0)
			total += (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
	}
	return total;
}

/* Last number of a line of /proc/PID/status: the one in the innermost namespace. */
static pid_t innermost(const char *text, const char *name)
{
	const char *at = strstr(text, name);
	pid_t last = 0;
	char *end;

	if (!at)
		return 0;
	for (at += strlen(name); *at == '\t' || *at == ' '; at = end) {
		last = (pid_t)strtol(at, &end, 10);
		if (end == at)
			break;
	}
	return last;
}

pid_t capsule_translate_pgrp(const struct capsule *capsule, pid_t host_pgrp)
{
	cleanup_free pid_t *pids = NULL;
	struct err err;
	size_t n, i;

	if (host_pgrp <= 0 || capsule_pids(capsule, &pids, &n, &err) < 0)
		return 0;
	for (i = 0; i < n; i++) {
		cleanup_free char *text = NULL;
		char path[64];

		if (getpgid(pids[i]) != host_pgrp)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/status", pids[i]);
		if (read_text(AT_FDCWD, path, &text, NULL, &err) == 0)
			return innermost(text, "\nNSpgid:");
	}
	return 0;
}
