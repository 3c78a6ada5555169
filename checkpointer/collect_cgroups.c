#include "checkpointer/collect.h"

#include <stdlib.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs_cgroup.h"

/* Control groups that a job has made below its caller's, where that has been delegated to it. All others a recovered
 * job has from who recovers it. */

static int add_cgroup(Snap__Process *m, const char *hierarchy, const char *below, struct err *err)
{
	Snap__Cgroup *g = snap_append(&m->cgroups, &m->n_cgroups, Snap__Cgroup, SNAP__CGROUP__INIT);

	if (!g || snap_set_string(&g->hierarchy, hierarchy) < 0 || snap_set_string(&g->path, below) < 0)
		return err_set(err, ERR_SYSTEM, "out of memory while describing control groups");
	return 0;
}

static int collect_of(struct collected_process *p, const struct proc_cgroups *ours, struct err *err)
{
	struct proc_cgroups theirs;
	int result = 0;

	if (proc_read_cgroups(p->frozen->pid, &theirs, err) < 0)
		return -1;
	for (size_t i = 0; i < theirs.n && result == 0; i++) {
		const struct proc_cgroup *g = &theirs.list[i], *own = proc_cgroup_find(ours, g->hierarchy);
		const char *below = own ? proc_cgroup_below(own->path, g->path) : NULL;

		if (below)
			result = add_cgroup(p->model, g->hierarchy, below, err);
	}
	proc_cgroups_clear(&theirs);
	return result;
}

int collect_cgroups(struct collection *c, struct err *err)
{
	struct proc_cgroups ours;
	struct err none;
	int result = 0;

	/* A kernel without control groups has no such file; an attached job's are its own affair. */
	if (c->config->root.attached || proc_read_cgroups(getpid(), &ours, &none) < 0)
		return 0;
	for (size_t i = 0; i < c->n && result == 0; i++)
		if (c->processes[i].model && !c->processes[i].frozen->zombie)
			result = collect_of(&c->processes[i], &ours, err);
	proc_cgroups_clear(&ours);
	return result;
}
