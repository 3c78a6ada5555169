/* Who lives in a capsule, seen from outside through /proc. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "watchdog/capsule.h"

struct pid_list {
	pid_t *pids;
	size_t n, room;
};

static int list_add(struct pid_list *list, pid_t pid, struct err *err)
{
	if (list->n == list->room) {
		size_t room = list->room ? list->room * 2 : 16;
		pid_t *more = realloc(list->pids, room * sizeof(*more));

		if (!more)
			return err_sys(err, "list of the capsule's processes");
		list->pids = more;
		list->room = room;
	}
	list->pids[list->n++] = pid;
	return 0;
}

/* proc(5): /proc/PID/task/TID/children, space-separated (CONFIG_PROC_CHILDREN). */
static int add_children_of_task(struct pid_list *list, pid_t pid, const char *tid, struct err *err)
{
	cleanup_free char *text = NULL;
	struct err gone;
	char path[64];
	char *at, *end;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/children", pid, tid);
	if (read_text(AT_FDCWD, path, &text, NULL, &gone) < 0)
		return 0; /* ended meanwhile */
	for (at = text;; at = end) {
		long child = strtol(at, &end, 10);

		if (end == at || child <= 0)
			return 0;
		if (list_add(list, (pid_t)child, err) < 0)
			return -1;
	}
}

static int add_children(struct pid_list *list, pid_t pid, struct err *err)
{
	cleanup_dir DIR *dir = NULL;
	struct dirent *entry;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return 0; /* ended meanwhile */
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' &&
		    add_children_of_task(list, pid, entry->d_name, err) < 0)
			return -1;
	return 0;
}

int capsule_pids(const struct capsule *capsule, pid_t **ret, size_t *ret_n, struct err *err)
{
	struct pid_list list = {0};
	size_t i;

	if (add_children(&list, capsule->init, err) < 0)
		goto fail;
	for (i = 0; i < list.n; i++)
		if (add_children(&list, list.pids[i], err) < 0)
			goto fail;
	*ret = list.pids;
	*ret_n = list.n;
	return 0;
fail:
	free(list.pids);
	return -1;
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
