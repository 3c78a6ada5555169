/*
 * Control groups below that of whoever recovers the job.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs_cgroup.h"
#include "recovery/rebuild.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

/* Whether the comma-separated list has all of the words of another. */
static bool has_words(const char *list, const char *words)
{
	while (*words) {
		size_t len = strcspn(words, ",");
		const char *at = list;

		while (*at && !(strcspn(at, ",\n") == len && strncmp(at, words, len) == 0))
			at += strcspn(at, ",\n") + (at[strcspn(at, ",\n")] == ',');
		if (!*at || *at == '\n')
			return false;
		words += len + (words[len] == ',');
	}
	return true;
}

/* "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw": the mount's root and place. */
static bool is_mount_of(const char *line, const char *hierarchy, char *root, char *place)
{
	const char *rest = strstr(line, " - ");
	char type[32], options[1024];

	if (!rest || sscanf(line, "%*d %*d %*s %4095s %4095s", root, place) != 2 ||
	    sscanf(rest, " - %31s %*s %1023s", type, options) != 2)
		return false;
	if (!*hierarchy)
		return strcmp(type, "cgroup2") == 0;
	return strcmp(type, "cgroup") == 0 && has_words(options, hierarchy);
}

/* Where the hierarchy's group `path` is reached. */
static int find_directory(const char *hierarchy, const char *path, char *ret, size_t len)
{
	cleanup_free char *text = NULL;
	char root[PATH_MAX], place[PATH_MAX];
	struct err ignored;

	if (read_text(AT_FDCWD, "/proc/self/mountinfo", &text, NULL, &ignored) < 0)
		return -1;
	for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		char *end = strchr(line, '\n');
		const char *below;
		bool is;

		if (end)
			*end = '\0';
		is = is_mount_of(line, hierarchy, root, place);
		if (end)
			*end = '\n';
		if (!is)
			continue;
		below = strcmp(path, root) == 0 ? "" : proc_cgroup_below(root, path);
		if (below && snprintf(ret, len, "%s%s", place, below) < (int)len)
			return 0;
	}
	errno = ENOENT;
	return -1;
}

static int make_below(char *dir, size_t own)
{
	for (char *at = dir + own + 1;; at++) {
		char after = *at;

		if (after != '/' && after != '\0')
			continue;
		*at = '\0';
		if (mkdir(dir, 0755) < 0 && errno != EEXIST)
			return -1;
		*at = after;
		if (after == '\0')
			return 0;
	}
}

static int enter(pid_t pid, const Snap__Cgroup *g, const struct proc_cgroups *ours)
{
	const struct proc_cgroup *own = proc_cgroup_find(ours, g->hierarchy);
	char dir[2 * PATH_MAX], text[16];
	cleanup_fd int fd = -1;
	size_t len;

	errno = ENOENT;
	if (!own || find_directory(g->hierarchy, own->path, dir, PATH_MAX) < 0)
		return -1;
	len = strlen(dir);
	snprintf(dir + len, sizeof(dir) - len, "%s", g->path);
	if (make_below(dir, len) < 0)
		return -1;
	len = strlen(dir);
	snprintf(dir + len, sizeof(dir) - len, "/cgroup.procs");
	fd = open(dir, O_WRONLY | O_CLOEXEC);
	snprintf(text, sizeof(text), "%d", (int)pid);
	return fd < 0 ? -1 : write_full(fd, text, strlen(text));
}

void stub_enter_cgroups(const struct stub *stub)
{
	const Snap__Process *p = stub->model;
	struct proc_cgroups ours;
	struct err err;

	if (p->n_cgroups == 0)
		return;
	if (proc_read_cgroups(getpid(), &ours, &err) < 0) {
		log_warn("process %d: its control groups are not restored: %s", p->pid, err.msg);
		return;
	}
	for (size_t i = 0; i < p->n_cgroups; i++)
		if (enter(stub->pid, p->cgroups[i], &ours) < 0)
			log_warn("process %d: control group %s%s%s is not restored: %s", p->pid,
				 p->cgroups[i]->hierarchy, *p->cgroups[i]->hierarchy ? ":" : "",
				 p->cgroups[i]->path, strerror(errno));
	proc_cgroups_clear(&ours);
}
