/*
 * procfs_cgroup.h: the control groups of a process (/proc/PID/cgroup).
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_PROCFS_CGROUP_H
#define PAWL_CHECKPOINTER_TRACEE_PROCFS_CGROUP_H

#include <stddef.h>
#include <sys/types.h>

#include "store/base/err.h"

struct proc_cgroup {
	char *hierarchy; /* its controllers or name, "" for the unified one */
	char *path;
};

struct proc_cgroups { /* starts as {0} */
	struct proc_cgroup *list;
	size_t n;
};

/* ERR_CORRUPT names the line. Pure. */
int proc_parse_cgroups(const char *text, struct proc_cgroups *ret, struct err *err);
int proc_read_cgroups(pid_t pid, struct proc_cgroups *ret, struct err *err);
void proc_cgroups_clear(struct proc_cgroups *list);
/* NULL: there is none. */
const struct proc_cgroup *proc_cgroup_find(const struct proc_cgroups *list, const char *hierarchy);
/* What of `path` lies below `above`, from its slash on; NULL: it does not. Points into path. */
const char *proc_cgroup_below(const char *above, const char *path);

#endif
