#include "checkpointer/collect.h"

#include "checkpointer/descriptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "store/new_ids.h"

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing the job");
}

static uint64_t to_ns(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * NSEC_PER_SEC + (uint64_t)ts->tv_nsec;
}

static void name_process(struct collected_process *p)
{
	const struct frozen_process *f = p->frozen;

	p->model->pid = f->vpid;
	p->model->ppid = f->vppid;
	p->model->pgid = f->vpgid;
	p->model->sid = f->vsid;
	p->model->shares_memory = p->memory == p ? 0 : p->memory->frozen->vpid;
	p->model->shares_files = p->files == p ? 0 : p->files->frozen->vpid;
	p->model->shares_fs = p->fs == p ? 0 : p->fs->frozen->vpid;
	p->model->shares_handlers = p->handlers == p ? 0 : p->handlers->frozen->vpid;
}

static int collect_exe(struct collection *c, struct collected_process *p, struct err *err)
{
	char path[64], name[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", p->frozen->pid);
	n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return err_sys(err, "cannot read %s", path);
	name[n] = '\0';
	if (file_table_add(c, path, name, false, &p->model->exe_file, err) < 0)
		return -1;
	c->model->files[p->model->exe_file]->content =
		!c->model->files[p->model->exe_file]->in_tree;
	return 0;
}

/* One executor for all who have the address space; none where its owner has been refused. */
static int begin_remote(struct collected_process *p, struct tracee *leader, struct err *err)
{
	if (collected_own_memory(p))
		return remote_begin(&p->remote, leader, 0, REMOTE_ROOM, err);
	if (!p->memory->remote.mirror)
		return 0;
	return remote_inherit(&p->remote, &p->memory->remote, p->frozen->pid, err);
}

static int collect_one(struct collection *c, struct collected_process *p, struct err *err)
{
	struct tracee *leader;
	size_t described;

	p->model = snap_append(&c->model->processes, &c->model->n_processes, Snap__Process,
			       SNAP__PROCESS__INIT);
	if (!p->model)
		return no_memory(err);
	name_process(p);
	if (p->frozen->zombie)
		return collect_zombie(p, err);
	leader = &p->frozen->threads[0]->tracee;
	/* Limits first: what follows lifts them. */
	if (collect_limits(p, err) < 0)
		return -1;
	described = c->refusals.n;
	if (refusals_go_on(&c->refusals, approach_begin(p->frozen, &c->namespaces, err), err) < 0)
		return -1;
	if (c->refusals.n > described)
		return 0;
	if (collect_leave_rseq(p, err) < 0 || begin_remote(p, leader, err) < 0)
		return -1;
	if (!p->remote.mirror)
		return 0;
	if (refusals_go_on(&c->refusals, collect_process(c, p, err), err) < 0 ||
	    (p->files == p && collect_fds(c, p, err) < 0))
		return -1;
	/* The rest builds on what the first part found. */
	if (c->refusals.n > described && !p->model->memory)
		return 0;
	if (collect_exe(c, p, err) < 0 || (collected_own_memory(p) && collect_mm(c, p, err) < 0))
		return -1;
	return collect_threads(c, p, err);
}

/* The capsule's clocks, asked last: a thread stepped out of the vdso meanwhile has read one, and
 * none may ever go back. */
static int collect_clocks(struct collection *c, struct err *err)
{
	struct collected_process *p = NULL;
	struct timespec *monotonic, *boottime;
	uint64_t addr;

	for (size_t i = 0; i < c->n && !p; i++)
		p = c->processes[i].frozen->zombie ? NULL : &c->processes[i];
	if (!p)
		return err_set(err, ERR_GONE, "every process of the job has ended");
	remote_reset(&p->remote);
	monotonic = remote_data(&p->remote, sizeof(*monotonic), &addr);
	remote_call(&p->remote, SYS_clock_gettime, CLOCK_MONOTONIC, addr);
	boottime = remote_data(&p->remote, sizeof(*boottime), &addr);
	remote_call(&p->remote, SYS_clock_gettime, CLOCK_BOOTTIME, addr);
	if (remote_run(&p->remote, &p->frozen->threads[0]->tracee, err) < 0)
		return -1;
	c->model->clocks->monotonic = to_ns(monotonic);
	c->model->clocks->boottime = to_ns(boottime);
	c->model->clocks->realtime = clock_ns(CLOCK_REALTIME);
	remote_reset(&p->remote);
	return 0;
}

static int new_model(struct collection *c, struct err *err)
{
	Snap__Snapshot *m = c->model = malloc(sizeof(*m));

	if (!m)
		return no_memory(err);
	snap__snapshot__init(m);
	m->clocks = malloc(sizeof(*m->clocks));
	if (!m->clocks)
		return no_memory(err);
	snap__clocks__init(m->clocks);
	m->capsule = malloc(sizeof(*m->capsule));
	if (!m->capsule)
		return no_memory(err);
	snap__capsule__init(m->capsule);
	m->capsule->leader = c->config->leader_vpid;
	m->capsule->user_namespace = c->config->user_namespace;
	return collect_host(c, err);
}

int collect_begin(struct collection *c, const struct checkpoint_config *config,
		  struct frozen_tree *tree, struct sleeps *sleeps, struct map_notes *notes,
		  struct empty_messages *empties, struct err *err)
{
	memset(c, 0, sizeof(*c));
	c->config = config;
	c->tree = tree;
	c->sleeps = sleeps;
	c->notes = notes;
	c->empties = empties;
	namespaces_read(&c->namespaces, &config->root);
	c->processes = calloc(tree->n, sizeof(*c->processes));
	if (!c->processes)
		return no_memory(err);
	c->n = tree->n;
	for (size_t i = 0; i < tree->n; i++)
		c->processes[i].frozen = &tree->processes[i];
	if (new_model(c, err) < 0)
		return -1;
	c->model->clocks->job_start = collect_job_start(c);
	if (collect_shm(c, err) < 0 || collect_sharing(c, err) < 0)
		return -1;
	for (size_t i = 0; i < tree->n; i++)
		if (collect_one(c, &c->processes[i], err) < 0)
			return -1;
	if (!c->refusals.n && (collect_cgroups(c, err) < 0 || collect_relations(c, err) < 0 || collect_sysv(c, err) < 0 ||
			       collect_clocks(c, err) < 0))
		return -1;
	if (collect_watches(c, err) < 0)
		return -1;
	if (refusals_go_on(&c->refusals, collect_terminals(c, err), err) < 0)
		return -1;
	if (refusals_go_on(&c->refusals, collect_sockets(c, err), err) < 0 ||
	    check_both_ends(c, err) < 0)
		return -1;
	/* A description that was refused is not in the list to be found. */
	if (!c->refusals.n && relate_epolls(c, err) < 0)
		return -1;
	if (!c->refusals.n && config->check_model &&
	    refusals_go_on(&c->refusals, config->check_model(c->model, err), err) < 0)
		return -1;
	if (config->new_ids && refusals_go_on(&c->refusals, new_ids_check(c->model, err), err) < 0)
		return -1;
	return refusals_result(&c->refusals, err);
}

int collect_end(struct collection *c, struct err *err)
{
	int result = 0;

	collect_sockets_end(c);
	collect_sysv_end(c);
	for (size_t i = 0; i < c->n; i++) {
		struct collected_process *p = &c->processes[i];

		if (!collected_own_memory(p))
			remote_forget(&p->remote);
		if (p->remote.mirror &&
		    remote_end(&p->remote, &p->frozen->threads[0]->tracee, err) < 0)
			result = -1;
		if (approach_end(p->frozen, err) < 0)
			result = -1;
	}
	return result;
}

void collection_clear(struct collection *c)
{
	collect_sockets_end(c);
	collect_sysv_end(c);
	for (size_t i = 0; i < c->n; i++) {
		remote_forget(&c->processes[i].remote);
		free(c->processes[i].read_all);
	}
	for (size_t i = 0; i < c->n_sources; i++) {
		free(c->sources[i].path);
		if (c->sources[i].leased)
			close(c->sources[i].leased - 1);
		free(c->sources[i].pieces);
	}
	free(c->sources);
	numbers_clear(&c->files_by_inode);
	shared_clear(&c->shared);
	numbers_clear(&c->pipes);
	free(c->processes);
	refusals_clear(&c->refusals);
	if (c->model)
		snap__snapshot__free_unpacked(c->model, NULL);
	memset(c, 0, sizeof(*c));
}
